"""What fills the memory of a rank, as a bar in SVG; a pure function."""

from collections.abc import Mapping
from html import escape

from dlkit.core.text_table import format_bytes
from dlkit.ui.draw.overlay import legend
from dlkit.ui.draw.pictures import BLUE, GREEN, ORANGE, PURPLE

COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
WIDTH, HEIGHT, LINE = 560, 26, 20  # pixels: of the bars, and of a row of text
NAMES = 110  # pixels for the names of the bars


def memory_bars(ranks: Mapping[str, Mapping[str, float]], limit: float, name: str) -> str:
    """An SVG of a bar for each rank, {part: bytes} one after the other, and a line at `limit` bytes with its name."""
    most = max([limit, *(sum(parts.values()) for parts in ranks.values())]) * 1.02
    scale = (WIDTH - NAMES) / most
    shapes, said = [], []
    for number, (rank, parts) in enumerate(ranks.items()):
        top, left = number * (HEIGHT + 6) + LINE, float(NAMES)
        shapes.append(f'<text x="0" y="{top + 17}">{escape(rank)}</text>')
        for colour, size in zip(COLOURS, parts.values(), strict=False):
            width = f"{size * scale:.1f}"
            shapes.append(f'<rect x="{left:.1f}" y="{top}" width="{width}" height="{HEIGHT}" fill="{colour}"/>')
            left += size * scale
        said.append(f"{rank}: " + ", ".join(f"{part} {format_bytes(size)}" for part, size in parts.items()))
    bottom, x = len(ranks) * (HEIGHT + 6) + LINE, NAMES + limit * scale
    anchor = "end" if x > WIDTH * 0.6 else "start"
    shapes.append(f'<path d="M{x:.1f},{LINE - 4} V{bottom}" stroke="currentColor" stroke-width="2"/>')
    shapes.append(f'<text x="{x:.1f}" y="12" text-anchor="{anchor}">{escape(name)}</text>')
    parts = dict.fromkeys(part for parts in ranks.values() for part in parts)
    marks = {
        part: f'<rect width="14" height="12" fill="{colour}"/>' for colour, part in zip(COLOURS, parts, strict=False)
    }
    return (
        f'<svg width="{WIDTH}" height="{bottom}" viewBox="0 0 {WIDTH} {bottom}" role="img" '
        f'aria-label="{escape("; ".join(said))}; a line at {escape(name)}" font-family="sans-serif" '
        f'font-size="12" fill="currentColor">{"".join(shapes)}</svg>' + legend(marks, 14, 12)
    )
