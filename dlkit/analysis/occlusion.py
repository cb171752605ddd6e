"""What a net answers when a part of the image is covered: for a patch at every place."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.analysis.features import Field
from dlkit.core.evaluation import logits


def log_probabilities(net: nn.Module, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
    """log p(class | image), p being the softmax of what the net gives. ValueError if that is no row of logits."""
    return logits(net, images).log_softmax(1)


def occluded(
    net: nn.Module, image: Float[Tensor, "*maps height width"], size: int, value: float
) -> Float[Tensor, "height width classes"]:
    """log p(class | image with a patch centred at the pixel), for each pixel, in nats.

    The patch is size x size, all `value`, less what sticks out of the image; one of an even size reaches a pixel
    further up and left than down and right. ValueError for a patch of no size.
    """
    if size < 1:
        raise ValueError(f"a patch of {size}x{size} pixels hides nothing: give it a size of 1 or more.")
    height, width = image.shape[-2:]
    rows, columns = (_under(length, size).to(image.device) for length in (height, width))
    found = []
    for places in torch.arange(height * width, device=image.device).split(1000):
        patch = rows[places // width][:, :, None] & columns[places % width][:, None, :]
        patch = patch.view(len(places), *[1] * (image.ndim - 2), height, width)
        found.append(log_probabilities(net, image.masked_fill(patch, value)))
    return torch.cat(found).unflatten(0, (height, width))


def occlusion(
    net: nn.Module, image: Float[Tensor, "*maps height width"], label: int, size: int = 5, value: float = 0.0
) -> Float[Tensor, "height width"]:
    """log p(label | image) - log p(label | image with a patch centred at the pixel), for each pixel, in nats.

    Patches are as in `occluded`. ValueError for a label that the net has no logit for.
    Source: Zeiler, Fergus 2014, Visualizing and understanding convolutional networks, §4.2.
    """
    whole = log_probabilities(net, image[None])[0]
    if not 0 <= label < len(whole):
        raise ValueError(f"no class {label}: the net tells {len(whole)} apart, 0 to {len(whole) - 1}.")
    return whole[label] - occluded(net, image, size, value)[..., label]


def _under(length: int, size: int) -> Tensor:
    """Is the line (second index) under a patch centred at the place (first index)?"""
    lines = torch.arange(length)
    offset = lines - lines[:, None]
    return (-(size // 2) <= offset) & (offset < size - size // 2)


def patch_field(image: Float[Tensor, "*maps height width"], row: int, column: int, size: int) -> Field:
    """What of the image is under a patch centred at (row, column)."""
    starts = row - size // 2, column - size // 2
    ends = [(max(start, 0), min(start + size, length)) for start, length in zip(starts, image.shape[-2:], strict=True)]
    return Field(slice(*ends[0]), slice(*ends[1]))
