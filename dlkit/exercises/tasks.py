"""An open task: it has no one right answer, and a check measures what was handed in and gives points."""

from collections.abc import Callable, Iterable
from functools import update_wrapper
from typing import Any, NamedTuple

from dlkit.exercises.checks import asked, said_of
from dlkit.exercises.hints import Hint


class Points(NamedTuple):
    """What one criterion gives: so many points, of so many, and what was measured, in words."""

    points: float
    most: float
    measured: str

    def __str__(self) -> str:
        mark = "✓" if self.points >= self.most else "◐" if self.points > 0 else "✗"
        return f"  {mark} {self.points:g} of {self.most:g}: {self.measured}"


class Task:
    """The check of an open task: called with what was handed in, it prints the points and returns their sum.

    Made by `task`. All criteria are measured before anything is printed.
    """

    def __init__(self, measure: Callable[..., Iterable[Points]]):
        self.measure = measure
        update_wrapper(self, measure)

    def __call__(self, *answers: Any) -> float:
        try:
            criteria = list(self.measure(*(asked(answer) for answer in answers)))
        except Hint as hint:
            print(f"✗ No points yet. {hint}")
        except Exception as error:
            print(said_of(error))
        else:
            points = sum(criterion.points for criterion in criteria)
            print(f"● {points:g} of {sum(criterion.most for criterion in criteria):g} points")
            print(*criteria, sep="\n")
            return points
        return 0.0


def task(measure: Callable[..., Iterable[Points]]) -> Task:
    """Turn a function that gives Points, or raises Hint where there can be none, into the check of an open task."""
    return Task(measure)
