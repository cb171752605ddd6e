"""The engines of a cluster as a table in HTML, with a bar for the load of each."""

from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from typing import Any

from dlkit.ui.draw.pictures import BLUE, VERMILION

COLUMNS = ("rank", "pid", "device", "cores", "state")
BAR = 120  # pixels: a load of 100 %
STYLE = "border-collapse: separate; border-spacing: 14px 2px"


def engine_table(rows: Sequence[dict[str, Any]], loads: Sequence[float], tasks: Sequence[str] = ()) -> str:
    """A row for each engine, from `Cluster.rows()`, with its load in percent; the state is red unless it is ready.

    tasks: what each engine does, where they do not all do the same.
    """
    body = []
    for row, load, task in zip_longest(rows, loads, tasks):
        cells = "".join(f"<td>{escape(str(row[name]))}</td>" for name in COLUMNS[:-1])
        does = f"<td>{escape(task)}</td>" if tasks else ""
        colour = "" if row["state"] == "ready" else f' style="color: {VERMILION}; font-weight: bold"'
        body.append(f"{cells}<td{colour}>{escape(row['state'])}</td><td>{load_bar(load)}</td>{does}")
    return _table((*COLUMNS, "load", *(["does"] if tasks else [])), body)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in the same style, of text."""
    return _table(columns, ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows])


def _table(columns: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{cells}</tr>" for cells in rows)
    return f'<table style="{STYLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def load_bar(percent: float) -> str:
    """A load as HTML: a bar of at most BAR pixels, and the number."""
    filled = round(min(max(percent, 0.0), 100.0) / 100 * BAR)
    return (
        f'<span style="display: inline-block; width: {BAR}px; height: 10px; border: 1px solid currentColor">'
        f'<span style="display: block; width: {filled}px; height: 10px; background: {BLUE}"></span></span> '
        f"{percent:.0f} %"
    )
