"""`dlkit reproduce NAME`: a published table, measured again; one module a paper, its measured table beside it."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

from dlkit.core.reports import PaperRow, emit, markdown

NAMES = (
    "salakhutdinov2008",
    "hinton2006",
    "hinton_salakhutdinov2006",
    "larochelle2009",
    "lecun1998",
    "scherer2010",
)
RUNS = Path("runs")
RESUMABLE: dict[str, Any] = {"checkpoint_every": 3_000, "resume": True, "device": "cpu"}  # how the papers' runs run


def run(
    name: str, *, quick: bool = False, as_json: bool = False, fresh: bool = False, seeds: int | None = None
) -> None:
    """Measure and print one paper's table; what is done already is kept in runs/ and not done again.

    quick: a reduced table, in under a minute. fresh: forget what was kept. seeds: fewer or more draws than the
    table's. A full run with the table's own seeds also writes it to runs/NAME.md.
    ValueError if there is no paper of that name, or if it is not measured over seeds.
    """
    check(name)
    paper = import_module(f"dlkit.papers.{name}")
    if seeds is not None and not hasattr(paper, "SEEDS"):
        raise ValueError(f"{name} is measured with one seed a training: leave --seeds out.")
    folder = RUNS / (f"{name}-quick" if quick else name)
    if fresh and folder.exists():
        shutil.rmtree(folder)
    known = folder.exists()
    rows = paper.measure(folder, quick) if seeds is None else paper.measure(folder, quick, seeds)
    emit(rows, paper.TITLE + (" (reduced: fewer digits, fewer epochs)" if quick else ""), as_json)
    if known:
        print(f"What {folder} kept was not measured again; --fresh forgets it.", file=sys.stderr)
    if not quick and seeds in (None, getattr(paper, "SEEDS", None)):
        (RUNS / f"{name}.md").write_text(markdown(rows, paper.TITLE))


def measured(name: str) -> str:
    """The table that comes with the kit, as it was measured by `dlkit reproduce NAME`: Markdown, its title in bold.

    ValueError if there is no paper of that name.
    """
    check(name)
    title, *lines = (Path(__file__).parent / f"{name}.md").read_text().splitlines()
    return "\n".join([f"**{title.removeprefix('# ')}**", *lines])


def check(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"no paper named {name!r}: there are {', '.join(NAMES)}.")


def kept(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` found when it was first asked: `path` keeps it, as JSON, written in one step."""
    if not path.exists():
        found = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found))
        os.replace(partial, path)
    return json.loads(path.read_text())


def over_seeds(name: str, published: str, source: str, found: list[dict[str, Any]]) -> PaperRow:
    """The mean of the `error` that each seed found, with their span."""
    values = [result["error"] for result in found]
    spread = f"{min(values):.2f} to {max(values):.2f} over {len(values)} seed{'s' * (len(values) > 1)}"
    seconds = mean(result["seconds"] for result in found)
    return PaperRow(name, published, source, f"{mean(values):.2f}", spread, seconds)


def whole(run: Any, name: str) -> Any:
    """The run, if it came to its end. RuntimeError if it was interrupted: the same command goes on from there."""
    if run.stopped:
        raise RuntimeError(f"{name} was {run.stopped} at epoch {run.epoch:.0f}: the same command goes on.")
    return run
