"""A student's function, as a check calls it: with copies, which it must not change; its errors are its own."""

import copy
import dis
import inspect
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dlkit.exercises.hints import Hint, NotAnswered

STUB = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST", "COPY_FREE_VARS"}  # no step of its own


class ReturnsNothing(Hint):
    """A function that is no stub has returned None."""


class Raised(Exception):
    """The student's code has ended in an error, which is the cause of this one."""

    def __str__(self) -> str:
        error = self.__cause__
        frames = traceback.extract_tb(error.__traceback__) if error else []
        cells = [frame for frame in frames if "ipykernel" in frame.filename or frame.filename[:1] == "<"]
        where = f" in line {cells[-1].lineno} of your cell" if cells else ""
        return f"Your code raised {type(error).__name__}{where}: {error}".rstrip(": ")


@contextmanager
def students_code() -> Iterator[None]:
    """An error in this block is told as the student's; without it, an error in a check is told as the check's own."""
    try:
        yield
    except (Hint, NotAnswered, Raised):
        raise
    except Exception as error:
        raise Raised from error


class Answer:
    """A student's function. Each call is made with copies of what it is given.

    Raises Hint if the copies were changed or nothing was returned, NotAnswered if the function is a stub, and Raised
    for its own errors. changes: the positions of the arguments that it is meant to change, which are not copied.
    lent: what the last call was made with, for checks that ask whether a result shares its memory.
    """

    def __init__(self, function: Callable[..., Any], changes: Collection[int] = ()):
        self.function, self.changes = function, changes
        self.lent: list[Any] = []

    def __call__(self, *arguments: Any) -> Any:
        self.lent = [value if at in self.changes else _copy(value) for at, value in enumerate(arguments)]
        with students_code():
            result = self.function(*self.lent)
        if result is ... or (result is None and _is_stub(self.function)):
            raise NotAnswered
        for at, (value, own) in enumerate(zip(self.lent, arguments, strict=True)):
            if not _same(value, own):
                raise Hint(
                    f"Your function has changed {self._name(at)}, which belongs to its caller: `x += ...`, "
                    "`x[0] = ...`, `x.sort()` and methods that end in _ work in place. Change a copy."
                )
        if result is None and not self.changes:
            raise ReturnsNothing(
                "Your function returns nothing here, None: does every way through it end in `return ...`?"
            )
        return result

    def _name(self, at: int) -> str:
        try:
            parameters = inspect.signature(self.function).parameters.values()
            return f"`{[p.name for p in parameters if p.kind is not p.VAR_POSITIONAL][at]}`"
        except (TypeError, ValueError, IndexError):  # of a function in C, or one that takes *arguments
            return f"what it was given as argument {at + 1}"


def _is_stub(function: Callable[..., Any]) -> bool:
    """Whether a function's body is `...` or `pass`, below its docstring."""
    code = getattr(function, "__code__", None)
    return code is not None and {step.opname for step in dis.get_instructions(code)} <= STUB


def _copy(value: Any) -> Any:
    """A copy of tensors, arrays and modules, also in lists, tuples and dicts; anything else is given as it is."""
    if isinstance(value, nn.Module | nn.Parameter):
        return copy.deepcopy(value)
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list):
        return [_copy(item) for item in value]
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [_copy(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def _same(value: Any, before: Any) -> bool:
    """Whether a value is still its copy. A module's mode and gradients may change, its parameters and buffers not."""
    if isinstance(value, nn.Module):
        return _same(dict(value.state_dict()), dict(before.state_dict()))
    if isinstance(value, Tensor):
        same_kind = value.shape == before.shape and value.dtype == before.dtype
        return same_kind and torch.allclose(value.detach(), before.detach(), rtol=0, atol=0, equal_nan=True)
    if isinstance(value, np.ndarray):
        return value.shape == before.shape and value.tobytes() == before.tobytes()
    if isinstance(value, dict):
        return value.keys() == before.keys() and all(_same(value[key], before[key]) for key in value)
    if isinstance(value, list | tuple):
        return len(value) == len(before) and all(_same(*pair) for pair in zip(value, before, strict=True))
    return value == before or not isinstance(value, int | float | str) or value != value
