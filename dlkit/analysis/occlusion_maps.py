"""How covering a patch of an image changes a net's output, for a patch at each position."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.analysis.examining import check_class, examines
from dlkit.analysis.features import Region
from dlkit.core.evaluation import logits


def log_probabilities(net: nn.Module, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
    """log p(class | image), in nats: the log-softmax of the net's logits. ValueError if its output is no logits."""
    return logits(net, images).log_softmax(1)


def occluded_log_probabilities(
    net: nn.Module, image: Float[Tensor, "*maps height width"], size: int, value: float
) -> Float[Tensor, "height width classes"]:
    """log p(class | image with a patch centred at the pixel), for each pixel, in nats.

    The patch has size x size pixels, set to `value`, and is cut off at the edges of the image. If `size` is even, it
    reaches one pixel further up and left than down and right. ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"a patch of {size}x{size} pixels hides nothing: give it a size of 1 or more.")
    height, width = image.shape[-2:]
    rows, columns = (_covered(length, size).to(image.device) for length in (height, width))
    results = []
    for centres in torch.arange(height * width, device=image.device).split(1000):
        patch = rows[centres // width][:, :, None] & columns[centres % width][:, None, :]
        patch = patch.view(len(centres), *[1] * (image.ndim - 2), height, width)
        results.append(log_probabilities(net, image.masked_fill(patch, value)))
    return torch.cat(results).unflatten(0, (height, width))


@examines
def occlusion(
    net: nn.Module, image: Float[Tensor, "*maps height width"], label: int, size: int = 5, value: float = 0.0
) -> Float[Tensor, "height width"]:
    """log p(label | image) - log p(label | image with a patch centred at the pixel), for each pixel, in nats.

    Patches are those of `occluded_log_probabilities`. ValueError for a label that the net has no logit for.
    Source: Zeiler, Fergus 2014, Visualizing and understanding convolutional networks, §4.2.
    """
    whole = logits(net, image[None], "image").log_softmax(1)[0]
    label = check_class(label, len(whole))
    return whole[label] - occluded_log_probabilities(net, image, size, value)[..., label]


def _covered(length: int, size: int) -> Tensor:
    """Bool (length, length): whether a patch centred at the first index covers the second."""
    lines = torch.arange(length)
    offset = lines - lines[:, None]
    return (-(size // 2) <= offset) & (offset < size - size // 2)


def patch_region(image: Float[Tensor, "*maps height width"], row: int, column: int, size: int) -> Region:
    """The pixels of the image that a patch centred at (row, column) covers."""
    starts = row - size // 2, column - size // 2
    ends = [(max(start, 0), min(start + size, length)) for start, length in zip(starts, image.shape[-2:], strict=True)]
    return Region(slice(*ends[0]), slice(*ends[1]))
