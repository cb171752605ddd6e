"""How the tests of the exercises give an answer, and what the check says of it."""

import runpy
from pathlib import Path
from typing import Any

SOLUTIONS = Path(__file__).parents[1] / "notebooks/solutions"


def solutions(notebook: str) -> dict[str, Any]:
    """What the solutions file of a notebook, such as "00_start_here", defines: {name: value}."""
    return runpy.run_path(str(SOLUTIONS / f"{notebook}.py"))


def verdict(capsys, exercise, *answers) -> str:
    """The line that the check prints on a first try.

    It must be one line, the check return True only if that begins with ✓, and never fail itself.
    """
    exercise.wrong_tries = 0
    right = exercise(*answers)
    line = capsys.readouterr().out
    assert right is line.startswith("✓")
    assert line.count("\n") == 1
    assert "The check itself failed" not in line
    return line


def points(capsys, task, *answers) -> tuple[float, str]:
    """The points that an open task gives, and all that it prints; it must never fail itself."""
    sum_of_points = task(*answers)
    printed = capsys.readouterr().out
    assert "The check itself failed" not in printed
    assert printed.startswith(("●", "○", "✗"))
    return sum_of_points, printed
