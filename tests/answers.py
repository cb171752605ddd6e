"""How the tests of the exercises give an answer."""

import runpy
from pathlib import Path
from typing import Any

SOLUTIONS = Path(__file__).parents[1] / "notebooks/solutions"


def solutions(notebook: str) -> dict[str, Any]:
    """What a solutions file defines, such as that of "00_start_here"."""
    return runpy.run_path(str(SOLUTIONS / f"{notebook}.py"))


def said(capsys, exercise, *answers) -> str:
    """What the check prints; it must return whether that begins with a tick."""
    right = exercise(*answers)
    line = capsys.readouterr().out
    assert right is line.startswith("✓")
    assert line.count("\n") == 1
    return line
