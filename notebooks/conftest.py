"""For `pytest --nbval notebooks`: two threads in every kernel, and a count of the cells that are compared."""

import os
from collections import Counter
from pathlib import Path

import pytest

CELLS = pytest.StashKey[dict[str, Counter]]()
TAGS = ("nbval-ignore-output", "nbval-skip", "raises-exception")

# How sums are split over threads shows in their last digits.
os.environ["OMP_NUM_THREADS"] = "2"


def pytest_collection_finish(session):
    cells: dict[str, Counter] = {}
    for item in session.items:
        if item.path.suffix == ".ipynb":
            cells.setdefault(item.path.name, Counter()).update(kinds(item.cell, item.options))
    session.config.stash[CELLS] = cells


def kinds(cell, options) -> list[str]:
    """What nbval does with a code cell, in the words of the summary."""
    names = {"skip": "nbval-skip", "check_exception": "raises-exception"}
    found = ["cells", *(name for option, name in names.items() if options[option])]
    if not options["check"]:
        found.append("nbval-ignore-output")
    elif not options["skip"]:
        found += ["strict"] if cell.outputs else ["strict", "empty"]
    return found


def pytest_terminal_summary(terminalreporter, config):
    cells = config.stash.get(CELLS, {})
    if not cells:
        return
    terminalreporter.section("notebook cells")
    width = max(len(Path(name).stem) for name in cells)
    for name, count in [*cells.items(), ("all", sum(cells.values(), Counter()))]:
        strict = f"cells compared strictly: {count['strict']} of {count['cells']} ({count['empty']} with no output)"
        tagged = [f"{count[tag]} tagged {tag}" for tag in TAGS if count[tag]]
        terminalreporter.write_line("; ".join([f"{Path(name).stem:{width}}  {strict}", *tagged]))
