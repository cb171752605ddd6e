"""What a check does with an answer: is it a tensor of this shape, is it this value, which usual mistake is it?"""

from math import isfinite, prod
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlkit.exercises import Hint, given


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal in shape, and to four digits in value."""
    return a.shape == b.shape and torch.allclose(a.detach().double(), b.detach().double(), atol=1e-4, rtol=1e-4)


def tensor(found: Any) -> Tensor:
    """The answer, if it is a tensor."""
    if not isinstance(given(found), Tensor):
        raise Hint(f"Return a tensor; yours is of type {type(found).__name__}.")
    return found.detach()


def number(found: Any) -> float:
    """The answer, if it is one finite number."""
    value = given(found)
    if isinstance(value, Tensor | np.ndarray) and prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Hint(f"A number is wanted; yours is of type {type(found).__name__}.")
    if not isfinite(value):
        raise Hint(f"A number is wanted; yours is {float(value)}, not a finite number.")
    return float(value)


def whole(found: Any) -> int:
    """The answer, if it is one whole number."""
    if number(found) % 1:
        raise Hint(f"It should be a whole number; yours is {number(found):.4g}.")
    return int(number(found))


def shaped(found: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """The answer, if it is a tensor of this shape."""
    if tuple(tensor(found).shape) != shape:
        raise Hint(f"It should be {what}, of shape {shape} here; yours has shape {tuple(found.shape)}.")
    return found.detach()


def windowed(found: Any, image: tuple[int, int], size: int) -> Tensor:
    """The answer, if it has a value for each place that a window of size x size has in an image."""
    shape, (high, wide) = tuple(tensor(found).shape), (length - size + 1 for length in image)
    case = f"a window of {size}x{size} has {high}x{wide} places in {image[0]}x{image[1]} pixels"
    if shape == (wide, high):
        raise Hint(f"Yours is transposed, {shape[0]}x{shape[1]}: rows first, as in the image, {high}x{wide}.")
    if shape == image:
        raise Hint(f"Yours is as large as the image. All of the window has to fit in: {case}.")
    if shape in [(high - 1, wide - 1), (high + 1, wide + 1)]:
        raise Hint(f"Off by one: {case}; yours is {shape[0]}x{shape[1]}.")
    if shape in [(image[0] // size, image[1] // size), (-(-image[0] // size), -(-image[1] // size))]:
        raise Hint(f"Your windows lie side by side. Move on by one pixel: {case}.")
    if not shape:
        raise Hint(f"That is one number. Each place of the window has one: {case}.")
    return shaped(found, (high, wide), "a value for each place of the window")


def worst(found: Tensor, right: Tensor) -> tuple[int, int]:
    """Row and column where they differ most."""
    row, column = divmod(int((found - right).abs().argmax()), right.shape[1])
    return row, column


def wrong(found: Tensor, variants: list[tuple[Tensor, str]]) -> None:
    """Raise the hint of the first variant that the answer is."""
    for value, hint in variants:
        if close(found, value):
            raise Hint(hint)
