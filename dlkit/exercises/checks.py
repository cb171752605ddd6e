"""What a check is: it prints one line, ✓, ✗ with a hint or ○, and returns whether the answer is right."""

import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any


class Hint(Exception):
    """The answer is wrong; the message says what to think about next, not what to write."""


class NotAnswered(Exception):
    """The stub is still there."""


def given(value: Any) -> Any:
    """The value. Raises NotAnswered if it is what an untouched stub gives: None or `...`."""
    if value is None or value is ...:
        raise NotAnswered
    return value


def exercise(learned: str) -> Callable[[Callable[..., None]], Callable[..., bool]]:
    """Turn a function that raises Hint into a check, which prints one line and returns whether the answer is right.

    learned: what the check prints of a right answer; a short sentence on what the exercise teaches.
    """

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
    """Where the error is, as " in line N of your cell"; nothing if it did not come from a cell."""
    cells = [f for f in traceback.extract_tb(error.__traceback__) if "ipykernel" in f.filename or f.filename[:1] == "<"]
    return f" in line {cells[-1].lineno} of your cell" if cells else ""
