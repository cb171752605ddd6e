"""What a run reported: columns of equal length, one row each time the run looks up."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dlkit.core.text_table import as_html, as_text

Row = dict[str, float | int | None]


def add_columns(row: Row, callbacks: Sequence[Callable[[Any], Any]], run: Any) -> None:
    """Let callbacks see the run, and add the columns that they return to the row: numbers, or tensors of one number."""
    for callback in callbacks:
        columns = callback(run) or {}
        row.update({name: value.item() if hasattr(value, "item") else value for name, value in columns.items()})


class History:
    """`history["loss"]` is a column, `history.rows` the table; a value that a row lacks is None."""

    def __init__(self, rows: list[Row] | None = None):
        self.rows: list[Row] = rows or []

    def append(self, row: Row) -> None:
        self.rows.append(row)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __getitem__(self, column: str) -> list[float | int | None]:
        if column not in self.columns:
            raise KeyError(f"no column {column!r}: there are {', '.join(self.columns) or 'none yet'}.")
        return [row.get(column) for row in self.rows]

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def _cells(self) -> list[list[str]]:
        return [[_text(row.get(name)) for name in self.columns] for row in self.rows]

    def __repr__(self) -> str:
        return as_text(self.columns, self._cells(), left=0)

    def _repr_html_(self) -> str:
        return as_html(self.columns, self._cells())


def _text(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
