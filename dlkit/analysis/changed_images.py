"""How far a unit's response stays as it is while images are shifted, scaled or turned.

Source: Le, Ranzato, Monga, Devin, Chen, Corrado, Dean, Ng 2012, Building high-level features using large scale
unsupervised learning, §4.5, who ask it of their best face detector.
"""

from collections.abc import Callable, Sequence
from math import cos, radians, sin

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Respond = Callable[[Tensor], Tensor]
Change = Callable[[Tensor, float], Tensor]


def shifted(images: Float[Tensor, "*batch height width"], pixels: float) -> Float[Tensor, "*batch height width"]:
    """To the right by so many pixels, with black beside them."""
    return _mapped(images, [[1.0, 0.0, -2 * pixels / images.shape[-1]], [0.0, 1.0, 0.0]])


def scaled(images: Float[Tensor, "*batch height width"], times: float) -> Float[Tensor, "*batch height width"]:
    """Around the middle, so many times as large. ValueError for 0 or less."""
    if times <= 0:
        raise ValueError(f"images {times} times as large: more than 0.")
    return _mapped(images, [[1 / times, 0.0, 0.0], [0.0, 1 / times, 0.0]])


def turned(images: Float[Tensor, "*batch height width"], degrees: float) -> Float[Tensor, "*batch height width"]:
    """Around the middle, anticlockwise."""
    along, across = cos(radians(degrees)), sin(radians(degrees))
    ratio = images.shape[-2] / images.shape[-1]
    return _mapped(images, [[along, -across * ratio, 0.0], [across / ratio, along, 0.0]])


def _mapped(images: Tensor, matrix: list[list[float]]) -> Tensor:
    """Each pixel of the output from the place that the matrix gives for it, in units of half the image."""
    maps = images.reshape(-1, 1, *images.shape[-2:])
    theta = torch.tensor(matrix, dtype=images.dtype, device=images.device).expand(len(maps), 2, 3)
    places = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, places, align_corners=False).view_as(images)


@torch.no_grad()
def invariance(
    respond: Respond, images: Float[Tensor, "images ..."], change: Change, amounts: Sequence[float]
) -> Float[Tensor, " amounts"]:
    """The mean response to these images when they are changed by each amount.

    respond: gives a unit's value for each image, (images,). change: such as `shifted`, `scaled` or `turned`.
    ValueError if `respond` gives something else.
    """
    found = []
    for amount in amounts:
        values = respond(change(images, amount))
        if tuple(values.shape) != (len(images),):
            raise ValueError(f"respond gives {tuple(values.shape)} for {len(images)} images: one value for each.")
        found.append(values.cpu().double().mean())  # Apple's GPU has no float64
    return torch.stack(found)
