"""A notebook's outputs against those stored in its file, cell by cell, by nbval's own rules."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, coalesce_streams, get_sanitize_patterns

TAGS = {"skip": "nbval-skip", "check_exception": "raises-exception"}  # by nbval's name for the option


def stored_cells(session: pytest.Session, path: Path) -> list[IPyNbCell]:
    """The code cells of the file, as `pytest --nbval` collects them; nothing is run."""
    stored = IPyNbFile.from_parent(session, path=path)
    patterns = (path.parent / "nbval-sanitize.cfg").read_text(encoding="utf-8")
    stored.sanitize_patterns.update(get_sanitize_patterns(patterns))
    return list(stored.collect())


def differences(stored: list[IPyNbCell], ran: list[dict[str, Any]]) -> list[str]:
    """What nbval says of each cell whose output is to be compared and differs; `ran` is the notebook's cells, run."""
    code = [cell for cell in ran if cell["cell_type"] == "code"]
    code = nbformat.reads(json.dumps(nbformat.v4.new_notebook(cells=code)), as_version=4).cells
    assert [cell.source for cell in code] == [item.cell.source for item in stored]
    found = []
    for item, cell in zip(stored, code, strict=True):
        if not item.options["check"] or item.options["skip"]:
            continue
        if not item.compare_outputs(coalesce_streams(cell.outputs), coalesce_streams(item.cell.outputs)):
            found.append("\n".join([f"code cell {item.cell_num}:", item.cell.source, *item.comparison_traceback]))
    return found


def kinds(stored: list[IPyNbCell]) -> Counter[str]:
    """How many cells there are, how many are compared strictly, and how many of these show nothing; and by tag."""
    count: Counter[str] = Counter()
    for item in stored:
        count.update(["cells", *(tag for option, tag in TAGS.items() if item.options[option])])
        if not item.options["check"]:
            count["nbval-ignore-output"] += 1
        elif not item.options["skip"]:
            count.update(["strict"] if item.cell.outputs else ["strict", "empty"])
    return count
