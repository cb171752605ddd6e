"""A drawing prepared like the digits of MNIST: cropped, scaled and centred."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SIDE, BOX = 28, 20  # pixels: of an image, and of the square that a digit is scaled to


def shrunk(drawing: Float[Tensor, "height width"]) -> Float[Tensor, "28 28"]:
    """The whole drawing resized to 28x28, neither cropped nor centred."""
    return F.interpolate(drawing[None, None], (SIDE, SIDE), mode="area")[0, 0]


def as_mnist(drawing: Float[Tensor, "height width"]) -> Float[Tensor, "28 28"]:
    """The drawn digit, white on black in [0, 1], cropped, scaled to fit 20x20 and centred by its centre of mass.

    Its proportions are kept. It is moved by whole pixels, never over the edge. An empty drawing stays empty.
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
    """First row (or column) of a digit of `length` pixels whose centre of mass is to be at pixel 14, counted from 0."""
    middle = float((ink * torch.arange(length, device=ink.device)).sum() / ink.sum())
    return min(max(math.ceil(SIDE / 2 - middle - 0.5), 0), SIDE - length)
