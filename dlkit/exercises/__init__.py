"""The checks behind the notebooks' exercises: pass, or a hint; a wrong answer is never an error message.

Each notebook has a module here, each exercise a function that is given the student's answer:

    @exercise("the free energy sums the hidden units out")
    def free_energy(answer):
        if not close(...):
            raise Hint("...")
"""

import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any


class Hint(Exception):
    """The answer is wrong; the message says what to think of next, not what to write."""


class NotAnswered(Exception):
    """The stub is still there."""


def given(value: Any) -> Any:
    """`value`, or NotAnswered where it is what an untouched stub gives: None or `...`."""
    if value is None or value is ...:
        raise NotAnswered
    return value


def exercise(learned: str) -> Callable[[Callable[..., None]], Callable[..., bool]]:
    """Turn a function that raises Hint into a check that prints one line and returns whether the answer is right."""

    def decorate(check: Callable[..., None]) -> Callable[..., bool]:
        @wraps(check)
        def report(*answers: Any) -> bool:
            try:
                for answer in answers:
                    given(answer)
                check(*answers)
            except NotAnswered:
                print("○ Not answered yet: replace the ... above and run the cell again.")
            except Hint as hint:
                print(f"✗ Not yet. {hint}")
            except Exception as error:
                print(f"✗ Your code raised {type(error).__name__}{_line(error)}: {error}")
            else:
                print(f"✓ Right: {learned}.")
                return True
            return False

        return report

    return decorate


def _line(error: Exception) -> str:
    """Where in the student's cell it happened, if it did."""
    cells = [f for f in traceback.extract_tb(error.__traceback__) if "ipykernel" in f.filename or f.filename[:1] == "<"]
    return f" in line {cells[-1].lineno} of your cell" if cells else ""
