"""Small tables for a notebook, as plain text and as HTML; and amounts with their unit, as text."""

from collections.abc import Sequence
from html import escape


def as_text(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """The table as lines of text: the first `left` columns are aligned to the left, all others to the right."""
    lines = [columns, *rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


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


def format_number(value: float) -> str:
    """Two decimals, with a true minus sign, and none before 0: −0.35."""
    return f"{value:z.2f}".replace("-", "−")


def _scaled(value: float, unit: float, names: Sequence[str]) -> str:
    value /= unit
    for name in names[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g} {name}"
        value /= 1000
    return f"{value:.3g} {names[-1]}" if abs(value) < 999.5 else f"{value:,.0f} {names[-1]}"
