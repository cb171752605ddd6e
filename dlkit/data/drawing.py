"""A drawing made into what MNIST's digits are: those, too, were cropped, scaled and centred before anyone saw them."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SIDE, BOX = 28, 20  # pixels: of an image, and of the square that a digit just fits


def shrunk(drawing: Float[Tensor, "height width"]) -> Float[Tensor, "28 28"]:
    """The drawing as it stands, made 28x28: neither scaled to the digit nor centred."""
    return F.interpolate(drawing[None, None], (SIDE, SIDE), mode="area")[0, 0]


def as_mnist(drawing: Float[Tensor, "height width"]) -> Float[Tensor, "28 28"]:
    """White on black in [0, 1]: cropped, scaled to fit 20x20 in its proportions, its centre of mass in the middle.

    Moved by whole pixels, and never over the edge. An empty drawing stays empty.
    Source: LeCun, Cortes, Burges, The MNIST database of handwritten digits.
    """
    image = drawing.new_zeros(SIDE, SIDE)
    rows, columns = (drawing > 0).any(1).nonzero()[:, 0], (drawing > 0).any(0).nonzero()[:, 0]
    if not len(rows):
        return image
    digit = drawing[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    longest = max(digit.shape)
    high, wide = (max(1, round(BOX * length / longest)) for length in digit.shape)
    small = F.interpolate(digit[None, None], (high, wide), mode="area")[0, 0]
    top, left = (_start(small.sum(1 - axis), small.shape[axis]) for axis in (0, 1))
    image[top : top + high, left : left + wide] = small
    return image


def _start(ink: Float[Tensor, " length"], length: int) -> int:
    """Where to put so many pixels, that the middle of their ink is on pixel 14, from 0, as MNIST has it."""
    middle = float((ink * torch.arange(length, device=ink.device)).sum() / ink.sum())
    return min(max(math.ceil(SIDE / 2 - middle - 0.5), 0), SIDE - length)
