"""Several lines on the same axes, and histograms, as SVG text; pure functions, fast enough for a run that goes on."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle

import torch
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dlkit.ui.draw.charts import Points
from dlkit.ui.draw.pictures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION

COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # so that lines are told apart without colours too
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 40  # pixels: the margins
MOST = 300  # points of a line that are drawn, about
Size = tuple[int, int]
LINES, COLUMNS, HISTOGRAMS = (640, 260), (320, 260), (460, 230)  # pixels: of a picture


class Axes:
    """From `first` to `right`, and from 0 to `top`, or a little beyond. `shapes`: the frame, ticks and labels."""

    def __init__(self, size: Size, right: float, top: float, x_label: str, y_label: str, first: float = 0.0):
        width, height = self.size = size
        xs, ys = _ticks(right, first), _ticks(top)
        self.first, self.right, self.top = xs[0], xs[-1], ys[-1]
        left, middle = LEFT, (TOP + height - BOTTOM) / 2
        end, bottom = width - RIGHT, height - BOTTOM
        self.shapes = [f'<path d="M{left},{TOP} V{bottom} H{end}" fill="none" stroke="currentColor" opacity="0.5"/>']
        self.shapes += [_text(self.place(x, 0)[0], bottom + 14, "middle", f"{x:g}") for x in xs]
        for y in ys:
            level = self.place(0, y)[1]
            self.shapes.append(_text(left - 5, level + 4, "end", f"{y:g}"))
            self.shapes.append(f'<path d="M{left},{level:.1f} H{end}" stroke="currentColor" opacity="0.12"/>')
        self.shapes.append(_text((left + end) / 2, height - 8, "middle", x_label))
        turned = f'transform="translate(12 {middle:.0f}) rotate(-90)"'
        self.shapes.append(f'<text {turned} text-anchor="middle">{escape(y_label)}</text>')

    def __repr__(self) -> str:
        return f"Axes({self.first:g} to {self.right:g}, 0 to {self.top:g})"

    def place(self, x: float, y: float) -> tuple[float, float]:
        width, height = self.size
        across, down = (x - self.first) / (self.right - self.first), y / self.top
        return LEFT + across * (width - RIGHT - LEFT), height - BOTTOM - down * (height - BOTTOM - TOP)

    def svg(self, summary: str, shapes: Sequence[str]) -> str:
        width, height = self.size
        return (
            f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(summary)}" font-family="sans-serif" font-size="11" fill="currentColor">'
            f"{''.join([*self.shapes, *shapes])}</svg>"
        )


def overlay(lines: Mapping[str, Points], x_label: str, y_label: str) -> str:
    """An SVG of lines (x, y) by name, and a legend. Labels have units; the alt text says where each line ends."""
    drawn = {name: [(x, y) for x, y in points if abs(y) < float("inf")] for name, points in lines.items()}
    points = [point for each in drawn.values() for point in each]
    right, most = max((x for x, _ in points), default=0.0), max((y for _, y in points), default=0.0)
    axes = Axes(LINES, right, most, x_label, y_label)
    said = [
        f"{name}: {line[-1][1]:.3g} at {line[-1][0]:.3g}" if line else f"{name}: nothing yet"
        for name, line in drawn.items()
    ]
    shapes, legend = _lines(drawn, axes)
    return axes.svg(f"{y_label} over {x_label}. {'; '.join(said)}", shapes) + legend


def histograms(
    values: Mapping[str, Float[Tensor, " values"]], x_label: str, y_label: str, mark: float, bins: int = 40
) -> str:
    """An SVG of the outlines of histograms on the same axes, each in percent of its values, and a line at `mark`.

    The alt text has how much of each is at the mark or above it.
    """
    low, high = (float(f([float(f(x)) for x in values.values()])) for f in (min, max))
    low, high = min(low, mark), max(high, mark)
    high = high if high > low else low + 1
    edges = torch.linspace(low, high, bins + 1).tolist()
    lines, said = {}, []
    for name, x in values.items():
        shares = (100 * torch.histc(x.float(), bins, low, high) / len(x)).tolist()
        steps = [(edge, share) for i, share in enumerate(shares) for edge in edges[i : i + 2]]
        lines[name] = [(low, 0.0), *steps, (high, 0.0)]
        said.append(f"{100 * float((x >= mark).float().mean()):.1f} % of {name} at or above it")
    axes = Axes(HISTOGRAMS, high, max(y for line in lines.values() for _, y in line), x_label, y_label, low)
    shapes, legend = _lines(lines, axes)
    x, bottom = axes.place(mark, 0)
    shapes.append(f'<path d="M{x:.1f},{TOP} V{bottom}" stroke="currentColor" stroke-width="2" stroke-dasharray="2 3"/>')
    return axes.svg(f"{y_label} over {x_label}, with a line at {mark:.3g}: {'; '.join(said)}.", shapes) + legend


def _lines(lines: Mapping[str, Points], axes: Axes) -> tuple[list[str], str]:
    """The shapes of the lines, and their legend, as HTML."""
    looks = {
        name: f'stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")
        for name, colour, dash in zip(lines, cycle(COLOURS), cycle(DASHES), strict=False)
    }
    shapes = []
    for name, line in lines.items():
        thinned = [*line[:: -(-len(line) // MOST)], line[-1]] if line else []
        path = " ".join("{:.1f},{:.1f}".format(*axes.place(x, y)) for x, y in thinned)
        shapes.append(f'<polyline points="{path}" fill="none" {looks[name]}/>')
    return shapes, legend({name: f'<path d="M0,5 H30" {look}/>' for name, look in looks.items()}, 30, 10)


def legend(marks: Mapping[str, str], width: int, height: int) -> str:
    """Names as HTML, each behind its mark, a shape in an SVG of this size."""
    keys = "".join(
        f'<span style="white-space: nowrap; margin-right: 16px"><svg width="{width}" height="{height}" '
        f'aria-hidden="true">{mark}</svg> {escape(name)}</span> '
        for name, mark in marks.items()
    )
    return f'<div style="line-height: 1.5">{keys}</div>'


def columns(heights: Sequence[float], x_label: str, y_label: str) -> str:
    """An SVG of a histogram: a column for each of 0, 1, 2, ... with these heights; the alt text has the tallest."""
    axes = Axes(COLUMNS, max(len(heights), 1), max(heights, default=0.0), x_label, y_label)
    shapes = []
    for number, value in enumerate(heights):
        (left, top), (right, bottom) = axes.place(number, value), axes.place(number + 0.85, 0)
        x, width, tall = f"{left:.1f}", f"{right - left:.1f}", f"{bottom - top:.1f}"
        shapes.append(f'<rect x="{x}" y="{top:.1f}" width="{width}" height="{tall}" fill="{BLUE}"/>')
    tallest = max(range(len(heights)), key=lambda number: heights[number], default=None)
    most = "none yet" if tallest is None else f"most, {heights[tallest]:g}, at {tallest}"
    return axes.svg(f"{y_label} over {x_label}: {most}", shapes)


def _ticks(end: float, start: float = 0.0) -> list[float]:
    ticks = MaxNLocator(6, min_n_ticks=2).tick_values(start, end if end > start else start + 1.0)
    return [float(tick) for tick in ticks if tick >= 0 or start < 0]


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
