"""The table that every bench and every paper prints, as text, JSON or Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class BenchRow:
    """A measured value beside a reference measured in the same run; `ratio` is value / reference."""

    name: str
    value: float
    unit: str
    reference: str
    ratio: float | None
    goal: str


@dataclass(frozen=True)
class PaperRow:
    """A published value with its source, and the value measured here with its `spread`.

    seconds: how long the training took; None for a row that trained nothing.
    """

    name: str
    published: str
    source: str
    measured: str
    spread: str
    seconds: float | None


@dataclass(frozen=True)
class ScalingRow:
    """The time of a step of a net over a grid of ranks, in milliseconds: predicted, and measured.

    images: the height and width of its images, in pixels. parameters_a_rank: how many each rank holds; where not all
    hold as many, the least and the most. kilobytes: the most that a rank sends in a step. exchanges: how long those of
    a step take by the prediction, which has them in `predicted`. times_one_rank: the measured time over that of the
    net of one rank, the median over the rounds: `ranks_a_core` where the time of a step is flat.
    """

    ranks: int
    grid: str
    cores: int
    ranks_a_core: int
    images: str
    parameters: int
    parameters_a_rank: str
    link: str
    kilobytes: float
    exchanges: float
    predicted: float
    measured: float
    times_one_rank: float


Row = BenchRow | PaperRow | ScalingRow


def emit(rows: Sequence[Row], title: str, as_json: bool = False) -> None:
    """Print the rows as a table with the sources below it, or as JSON."""
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table(title=title, title_justify="left")
    for name in _columns(rows):
        if name != "source":
            is_number = any(isinstance(getattr(row, name), int | float) for row in rows)
            table.add_column(_heading(name), justify="right" if is_number else "left", overflow="fold")
    sources = list(dict.fromkeys(row.source for row in rows if isinstance(row, PaperRow) and row.source))
    for row in rows:
        if isinstance(row, PaperRow) and row.source:
            row = replace(row, published=f"{row.published} [{1 + sources.index(row.source)}]")
        table.add_row(*(text for name, text in zip(_columns(rows), _texts(row), strict=True) if name != "source"))
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(120, 12 * len(table.columns)))  # a file or a pipe has no width of its own
    console.print(table)
    for number, source in enumerate(sources, 1):
        console.print(f"[{number}] {source}", markup=False, highlight=False)


def markdown(rows: Sequence[Row], title: str) -> str:
    """The table as Markdown, to be stored in a file."""
    columns = [_heading(name) for name in _columns(rows)]
    lines = [f"# {title}", "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in _texts(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _columns(rows: Sequence[Row]) -> list[str]:
    return [field.name for field in fields(rows[0])]


def _heading(column: str) -> str:
    return column.replace("_", " ")


def _texts(row: Row) -> list[str]:
    return [_text(value) for value in asdict(row).values()]


def _text(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
