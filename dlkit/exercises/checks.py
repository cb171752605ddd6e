"""What a check is: it prints a line, ✓, ✗ with a hint or ○, and returns whether the answer is right."""

from collections.abc import Callable, Collection
from functools import update_wrapper
from typing import Any

from torch import nn

from dlkit.exercises.hints import Hint, NotAnswered
from dlkit.exercises.students_code import Answer, Raised

NOT_ANSWERED = "○ Not answered yet: replace the ... above and run the cell again."


class Check:
    """The check of an exercise: called with the answer, it prints a line and returns whether that is right.

    Made by `exercise`, which says what its arguments are. wrong_tries: how many since the last right one.
    """

    def __init__(self, check: Callable[..., None], learned: str, deeper: str, changes: Collection[int]):
        self.check, self.learned, self.deeper, self.changes = check, learned, deeper, changes
        self.wrong_tries = 0
        update_wrapper(self, check)

    def __call__(self, *answers: Any) -> bool:
        try:
            self.check(*(asked(answer, self.changes) for answer in answers))
        except Hint as hint:
            self.wrong_tries += 1
            print(f"✗ Not yet. {hint}")
            if self.deeper and self.wrong_tries > 1:
                print(f"  A step further: {self.deeper}")
        except Exception as error:
            print(said_of(error))
        else:
            self.wrong_tries = 0
            print(f"✓ Right: {self.learned}.")
            return True
        return False


def exercise(learned: str, deeper: str = "", changes: Collection[int] = ()) -> Callable[[Callable[..., None]], Check]:
    """Turn a function that raises Hint into a check.

    learned: what the check prints of a right answer; a short sentence on what the exercise teaches.
    deeper: what it prints below the hint from the second wrong try on: a smaller case, or the step where most go wrong.
    changes: positions of the arguments that an answer, a function, is meant to change: see Answer.
    """
    return lambda check: Check(check, learned, deeper, changes)


def asked(answer: Any, changes: Collection[int] = ()) -> Any:
    """The answer as a check gets it: a function as an Answer. Raises NotAnswered if it is the stub's."""
    if answer is None or answer is ...:
        raise NotAnswered
    is_function = callable(answer) and not isinstance(answer, type | nn.Module)
    return Answer(answer, changes) if is_function else answer


def said_of(error: Exception) -> str:
    """The line on a check that ended in neither a hint nor a pass."""
    if isinstance(error, NotAnswered):
        return NOT_ANSWERED
    if isinstance(error, Raised):
        return f"✗ {error}"
    return (
        f"✗ The check itself failed ({type(error).__name__}: {error}). That is a fault of the kit, not of your answer: "
        "please report it, with your answer."
    )
