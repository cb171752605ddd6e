"""`dlkit reproduce NAME`: a published table, measured again; one module a paper, its measured table beside it."""

import shutil
from importlib import import_module
from pathlib import Path

from dlkit.tables import emit, markdown

NAMES = ("salakhutdinov2008",)
RUNS = Path("runs")


def run(name: str, *, quick: bool = False, as_json: bool = False, fresh: bool = False) -> None:
    """Measure and print one paper's table; what is done already is kept in runs/ and not done again.

    quick: a reduced table, in under a minute. fresh: forget what was kept. A full run also writes its table to
    runs/NAME.md. ValueError if there is no paper of that name.
    """
    if name not in NAMES:
        raise ValueError(f"no paper named {name!r}: there are {', '.join(NAMES)}.")
    paper = import_module(f"dlkit.papers.{name}")
    folder = RUNS / (f"{name}-quick" if quick else name)
    if fresh and folder.exists():
        shutil.rmtree(folder)
    rows = paper.measure(folder, quick)
    emit(rows, paper.TITLE, as_json)
    if not quick:
        (RUNS / f"{name}.md").write_text(markdown(rows, paper.TITLE))
