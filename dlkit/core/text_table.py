"""Small tables for a notebook, as plain text and as HTML; and amounts with their unit, as text."""

from collections.abc import Sequence
from html import escape


def as_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as lines of text; the first column is aligned left, the others right."""
    cells = [columns, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = []
    for row in cells:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def as_html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table in HTML."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def format_bytes(size: float) -> str:
    """A number of bytes in three digits: 24.3 kB."""
    return _scaled(size, 1.0, ("B", "kB", "MB", "GB", "TB"))


def format_seconds(seconds: float) -> str:
    """A time in three digits: 24.3 ms."""
    return _scaled(seconds, 1e-6, ("µs", "ms", "s")) if seconds else "0 s"


def _scaled(value: float, unit: float, names: Sequence[str]) -> str:
    value /= unit
    for name in names[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g} {name}"
        value /= 1000
    return f"{value:.3g} {names[-1]}" if abs(value) < 999.5 else f"{value:,.0f} {names[-1]}"
