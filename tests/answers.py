"""How the tests of the exercises give an answer, and what the check says of it."""

import runpy
from pathlib import Path
from typing import Any

SOLUTIONS = Path(__file__).parents[1] / "notebooks/solutions"


def solutions(notebook: str) -> dict[str, Any]:
    """What the solutions file of a notebook, such as "00_start_here", defines: {name: value}."""
    return runpy.run_path(str(SOLUTIONS / f"{notebook}.py"))


def verdict(capsys, exercise, *answers) -> str:
    """The line that the check prints. It must be one line, and the check return True only if that begins with ✓."""
    right = exercise(*answers)
    line = capsys.readouterr().out
    assert right is line.startswith("✓")
    assert line.count("\n") == 1
    return line
