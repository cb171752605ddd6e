"""`dlkit reproduce NAME`: what all papers share. Results are saved in runs/, so that a long one can be interrupted."""

import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

from dlkit.core.reports import PaperRow, emit, markdown
from dlkit.core.storage import read_json, write_json
from dlkit.training.checkpoint import prepare

NAMES = (
    "salakhutdinov2008",
    "hinton2006",
    "hinton_salakhutdinov2006",
    "larochelle2009",
    "lecun1998",
    "scherer2010",
    "dean2012",
    "hermans2017",
    "coates2013",
    "le2012",
)
RUNS = Path("runs")
RESUMABLE: dict[str, Any] = {"checkpoint_every": 3_000, "resume": True, "device": "cpu"}  # options of each paper's runs
Result = dict[str, Any]  # what a training gave, as JSON can hold it: errors, seconds


def run(
    name: str, *, quick: bool = False, as_json: bool = False, fresh: bool = False, seeds: int | None = None
) -> None:
    """Measure one paper's table and print it. Results that runs/ already has are not measured again.

    quick: a reduced table, in about a minute. fresh: delete the results that runs/ has. seeds: how many seeds to take
    the mean of, in place of the table's own number. A full run with the table's own seeds also writes runs/NAME.md.
    ValueError if there is no paper of that name, or if it is not measured over several seeds.
    """
    check(name)
    paper = import_module(f"dlkit.papers.{name}")
    if seeds is not None and not hasattr(paper, "SEEDS"):
        raise ValueError(f"{name} is measured with one seed a training: leave --seeds out.")
    folder = RUNS / (f"{name}-quick" if quick else name)
    if fresh and folder.exists():
        shutil.rmtree(folder)
    has_results = folder.exists()
    rows = paper.measure(folder, quick) if seeds is None else paper.measure(folder, quick, seeds)
    emit(rows, paper.TITLE + (" (reduced: fewer digits, fewer epochs)" if quick else ""), as_json)
    if has_results:
        print(f"What {folder} kept was not measured again; --fresh forgets it.", file=sys.stderr)
    if not quick and seeds in (None, getattr(paper, "SEEDS", None)):
        (RUNS / f"{name}.md").write_text(markdown(rows, paper.TITLE))


def measured_table(name: str) -> str:
    """The table that comes with the kit, as `dlkit reproduce NAME` measured it: Markdown, with the title in bold.

    ValueError if there is no paper of that name.
    """
    check(name)
    title, *lines = (Path(__file__).parent / f"{name}.md").read_text().splitlines()
    return "\n".join([f"**{title.removeprefix('# ')}**", *lines])


def measured(name: str) -> dict[str, float]:
    """The column `measured` of that table, by the names of its rows. ValueError if there is no paper of that name."""
    rows = [line.split(" | ") for line in measured_table(name).splitlines()[4:]]
    return {row[0].removeprefix("| "): float(row[3]) for row in rows}


def check(name: str) -> None:
    """ValueError if there is no paper of that name."""
    if name not in NAMES:
        raise ValueError(f"no paper named {name!r}: there are {', '.join(NAMES)}.")


def cached(path: Path, measure: Callable[[], Result]) -> Result:
    """The result that the JSON file at `path` holds; if there is none yet, what `measure` gives, which is saved there.

    The file is written atomically: after an interrupt it is there in full, or not at all. OSError, before anything is
    measured, if it cannot be written. ValueError if it is damaged.
    """
    if not path.exists():
        prepare(path.parent)
        write_json(measure(), path)
    try:
        return read_json(path)
    except ValueError as damage:
        raise ValueError(
            f"{str(damage).removesuffix('.')}: delete it, and the same command measures it again."
        ) from None


def mean_row(name: str, published: str, source: str, results: list[Result]) -> PaperRow:
    """The row of a training that was done with several seeds: the mean of their `error`, in percent, and its range."""
    errors = [result["error"] for result in results]
    spread = f"{min(errors):.2f} to {max(errors):.2f} over {len(errors)} seed{'s' * (len(errors) > 1)}"
    seconds = mean(result["seconds"] for result in results)
    return PaperRow(name, published, source, f"{mean(errors):.2f}", spread, seconds)


def finished(run: Any, name: str) -> Any:
    """The run, if it is finished. RuntimeError if it was interrupted; the same command continues it."""
    if run.stopped:
        raise RuntimeError(f"{name} was {run.stopped} at epoch {run.epoch:.0f}: the same command goes on.")
    return run
