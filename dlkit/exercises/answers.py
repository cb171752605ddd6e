"""What the checks ask of an answer: is it a tensor or a number, has it this shape, is it one of the usual mistakes?"""

from collections.abc import Callable, Iterable, Sequence
from math import isclose, isfinite, prod
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlkit.exercises import Hint, given
from dlkit.models import RBM


def seeded(seed: int) -> torch.Generator:
    """A generator of random numbers that starts from this seed."""
    return torch.Generator().manual_seed(seed)


def random_rbm(visible: int, hidden: int, generator: torch.Generator) -> RBM:
    """An RBM whose weights and biases are all different, so that a mistake in any of them shows."""
    rbm = RBM(visible, hidden, std=1.5, generator=generator)
    with torch.no_grad():
        rbm.a.copy_(torch.randn(visible, generator=generator))
        rbm.b.copy_(torch.randn(hidden, generator=generator))
    return rbm


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape, and the same values to four digits."""
    return a.shape == b.shape and torch.allclose(a.detach().double(), b.detach().double(), atol=1e-4, rtol=1e-4)


def near(numbers: Sequence[float], others: Sequence[float], rel: float = 1e-4, absolute: float = 1e-12) -> bool:
    """Whether two lists hold the same numbers, each to a relative error of `rel` or an absolute one of `absolute`."""
    return all(isclose(x, y, rel_tol=rel, abs_tol=absolute) for x, y in zip(numbers, others, strict=True))


def tensor(answer: Any) -> Tensor:
    """The answer as a tensor: it may be an array, or a list of numbers, tensors or lists. Raises Hint if it is none."""
    try:
        if isinstance(given(answer), Tensor):
            found = answer.detach()
        elif isinstance(answer, np.ndarray):
            found = torch.from_numpy(answer.copy())
        elif isinstance(answer, list | tuple) and answer:
            found = torch.stack([_part(part) for part in answer])
        else:
            raise TypeError
    except (TypeError, ValueError):  # an array of objects, lists of words
        raise Hint(f"Return a tensor; yours is of type {type(answer).__name__}.") from None
    except RuntimeError:  # rows of different lengths
        raise Hint("The parts of your list have different shapes: they do not make one tensor.") from None
    if found.is_complex():
        raise Hint("Yours holds complex numbers: real ones are wanted.")
    return found


def _part(value: Any) -> Tensor:
    return tensor(value) if isinstance(value, Tensor | np.ndarray | list | tuple) else torch.as_tensor(value)


def floats(answer: Any) -> Tensor:
    """The answer as a tensor of float32 or float64. Raises Hint for integers and booleans, which no product takes."""
    found = tensor(answer)
    if found.dtype not in (torch.float32, torch.float64):
        raise Hint(
            f"Yours is of dtype {str(found.dtype).removeprefix('torch.')}, and cannot be multiplied by weights, which "
            "comes next: make it float, as what your function was given is."
        )
    return found


def number(answer: Any) -> float:
    """The answer, if it is one finite number. Raises Hint if not."""
    value = given(answer)
    if isinstance(value, Tensor | np.ndarray | np.generic) and prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Hint(f"A number is wanted; yours is of type {type(answer).__name__}.")
    if not isfinite(value):
        raise Hint(f"A number is wanted; yours is {float(value)}, not a finite number.")
    return float(value)


def numbers(answer: Any, count: int, what: str) -> list[float]:
    """The answer, if it is so many finite numbers in a list, tuple, array or tensor; `what` says what they are.

    Raises Hint if not.
    """
    if isinstance(given(answer), Tensor | np.ndarray):
        answer = answer.tolist()
    if not isinstance(answer, Sequence) or isinstance(answer, str):
        raise Hint(f"Return {what}, {count} numbers in a list; yours is of type {type(answer).__name__}.")
    if len(answer) != count:
        raise Hint(f"Return {what}: {count} numbers here; yours has {len(answer)}.")
    return [number(value) for value in answer]


def listed(answer: Any) -> list | None:
    """The answer as a list, if it is something like one."""
    if isinstance(answer, Tensor | np.ndarray):
        answer = answer.tolist()
    if isinstance(answer, str | bytes | dict) or not isinstance(answer, Iterable):
        return None
    return list(answer)


def results(answer: Any, count: int, what: str) -> list[Any]:
    """The answer, if it is so many things in a list or tuple. Raises Hint if not."""
    found = listed(given(answer)) if not isinstance(answer, Tensor) else None
    if found is None or len(found) != count:
        raise Hint(f"Return {what}; yours is of type {kind(answer)}.")
    return found


def kind(answer: Any) -> str:
    """The type of an answer, and the length of a list or tuple."""
    return type(answer).__name__ + (f" of {len(answer)}" if isinstance(answer, list | tuple) else "")


def whole(answer: Any) -> int:
    """The answer, if it is one whole number. Raises Hint if not."""
    if number(answer) % 1:
        raise Hint(f"It should be a whole number; yours is {number(answer):.4g}.")
    return int(number(answer))


def shaped(answer: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """The answer, if it is a tensor of this shape; `what` says in words what it should be. Raises Hint if not."""
    found = tensor(answer)
    if tuple(found.shape) != shape:
        raise Hint(f"It should be {what}, of shape {shape} here; yours has shape {tuple(found.shape)}.")
    return found


def windowed(answer: Any, image: tuple[int, int], size: int) -> Tensor:
    """The answer, if it has one value for each position of a window of size x size in an image (height, width).

    Raises Hint if not.
    """
    shape, (high, wide) = tuple(tensor(answer).shape), (length - size + 1 for length in image)
    case = f"a window of {size}x{size} has {high}x{wide} places in {image[0]}x{image[1]} pixels"
    if shape == (high, wide):
        return tensor(answer)
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
    return shaped(answer, (high, wide), "a value for each place of the window")


def refuse_mistakes(answer: Any, mistakes: Iterable[tuple[Any, str]], same: Callable[[Any, Any], bool] = close) -> None:
    """Raise the hint of the first mistake that gives the answer: `mistakes` has pairs (wrong answer, hint)."""
    for mistake, hint in mistakes:
        if same(answer, mistake):
            raise Hint(hint)


def over_cases(tables: Iterable[Sequence[tuple[float, str]]]) -> list[tuple[list[float], str]]:
    """Mistakes of several cases, for `refuse_mistakes`: each with its wrong answers to all cases, and its hint.

    `tables` has for each case the same mistakes in the same order, as pairs of a wrong answer and its hint.
    """
    return [([value for value, _ in row], row[0][1]) for row in zip(*tables, strict=True)]


def first_wrong(answers: list, right: list, same: Callable[[list, list], bool] = near) -> int:
    """The index of the first answer that is not right."""
    return next(i for i in range(len(right)) if not same(answers[i : i + 1], right[i : i + 1]))


def largest_error(answer: Tensor, right: Tensor) -> tuple[int, int]:
    """Row and column where the answer, a matrix, differs most from what is right."""
    row, column = divmod(int((answer - right).abs().argmax()), right.shape[1])
    return row, column


def refuse_fixed_draws(draw: Callable[[torch.Generator], Tensor], drawn: Tensor) -> None:
    """Raise Hint if what is drawn depends on more than the generator, or not on it: `drawn` came of `seeded(0)`."""
    if not torch.equal(draw(seeded(0)).double(), drawn.double()):
        raise Hint("Two calls with the same seed differ: draw with `generator=generator`, and with nothing else.")
    generator = seeded(1)
    another, next_one = (draw(generator).double() for _ in range(2))
    if torch.equal(another, drawn.double()):
        raise Hint(
            "Generators of different seeds give the same draw: you set a seed of your own. Hand `generator` on instead."
        )
    if torch.equal(another, next_one):
        raise Hint("A second draw from the same generator is the first again: do not set its seed, only draw from it.")


def named(name: str, read: Callable[[Any], Any], value: Any) -> Any:
    """The value as `read` takes it; its hint names it."""
    try:
        return read(value)
    except Hint as hint:
        raise Hint(f"{name}: {hint}") from None
