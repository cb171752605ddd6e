"""What may happen to an image before a net sees it in training: drawn anew in each step, by the run's generator."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dlkit.core.random import bernoulli, uniform

Distortion = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class InputDropout:
    """A `share` of the inputs is set to 0, the others grow to make up for it: a net learns to rely on none of them.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov 2014, Dropout: a simple way to prevent neural
    networks from overfitting.
    """

    share: float = 0.2

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise ValueError(f"an input dropout of {self.share}: between 0 and 1, both left out; 0.2 is usual.")

    def __call__(self, images: Float[Tensor, "batch ..."], generator: torch.Generator) -> Float[Tensor, "batch ..."]:
        kept = 1 - self.share
        return images * bernoulli(torch.full_like(images, kept), generator) / kept


@dataclass(frozen=True)
class Affine:
    """Each image moved, scaled, squeezed, turned and slanted a little, as LeCun's distorted digits are.

    `shift`: at most so many pixels to each side; `scale`: by at most so much, and again by as much in width alone
    (squeezing); `turn`: at most so many radians; `shear`: a slant of at most so many pixels a pixel. All are drawn
    uniformly, for each image. What comes in at the edges is 0. Images are (batch, height, width) or (batch, maps,
    height, width).
    Source: LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition, §III.
    """

    shift: float = 2.0
    scale: float = 0.1
    turn: float = 0.1
    shear: float = 0.2

    def __post_init__(self):
        for name in ("shift", "scale", "turn", "shear"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: at least 0, which leaves it out.")
        if self.scale >= 1:
            raise ValueError(f"scale={self.scale}: below 1, or an image may vanish; 0.1 is usual.")

    def __call__(self, images: Float[Tensor, "batch ..."], generator: torch.Generator) -> Float[Tensor, "batch ..."]:
        if images.ndim not in (3, 4):
            raise ValueError(f"images of shape {tuple(images.shape)} have no height and width to distort.")
        x = images[:, None] if images.ndim == 3 else images
        height, width = x.shape[-2:]
        draw = 2 * uniform(x.new_empty(6, len(x)), generator, dim=1) - 1
        right, down, size, squeeze, turn, shear = draw
        tall = 1 + self.scale * size
        wide = tall * (1 + self.scale * squeeze)
        angle, slant = self.turn * turn, self.shear * shear
        cos, sin = angle.cos(), angle.sin()
        # Where each pixel of the result comes from, in torch's units: a map is 2 wide and 2 high whatever its pixels.
        ratio = height / width
        across = torch.stack([wide * cos, wide * (slant * cos - sin) * ratio, 2 * self.shift * right / width], 1)
        along = torch.stack([tall * sin / ratio, tall * (slant * sin + cos), 2 * self.shift * down / height], 1)
        grid = F.affine_grid(torch.stack([across, along], 1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False).view_as(images)
