"""An open task: it has no one right answer, and a check measures what was handed in and gives points."""

from collections.abc import Callable, Iterable
from functools import wraps
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


def task(check: Callable[..., Iterable[Points]]) -> Callable[..., float]:
    """Turn a function that gives Points into a check, which prints them and returns their sum.

    It may raise Hint, which is no point at all. All criteria are measured before anything is printed.
    """

    @wraps(check)
    def report(*answers: Any) -> float:
        try:
            criteria = list(check(*(asked(answer) for answer in answers)))
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

    return report
