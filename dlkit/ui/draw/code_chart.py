"""A map of the codes of labelled images as a picture, with a cursor and a walk from code to code."""

import io

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw

from dlkit.analysis.codes import Codes
from dlkit.ui.draw.pictures import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION

COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, "#8A6D00", "#7F7F7F", "#5D3A9B")  # of labels 0 to 9
MAP = 520  # pixels: a side of the map


class CodeChart:
    """The map of codes as `pixels`, drawn once; `picture` then draws a cursor and a walk on it in a millisecond.

    Each image is the numeral of its label, in the label's colour; `x` and `y` are the ends of the axes.
    """

    def __init__(self, codes: Codes):
        fig = Figure(figsize=(MAP / 100, MAP / 100), dpi=100)
        ax = fig.add_axes((0.0, 0.0, 1.0, 1.0))
        low, high = codes.positions.min(0).values, codes.positions.max(0).values
        margin = 0.04 * (high - low).clamp_min(1e-6)
        self.x, self.y = zip((low - margin).tolist(), (high + margin).tolist(), strict=True)
        for label in codes.labels.unique().tolist():
            positions, colour = codes.positions[codes.labels == label], COLOURS[label % len(COLOURS)]
            ax.scatter(*positions.T.numpy(), s=22, marker=f"${label}$", color=colour, linewidths=0, alpha=0.75)
            x, y = positions.median(0).values.tolist()
            halo = [withStroke(linewidth=4, foreground="white")]
            ax.text(x, y, str(label), size=20, weight="bold", color=colour, ha="center", va="center", path_effects=halo)
        ax.set(xlim=self.x, ylim=self.y)
        ax.axis("off")
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png")
        self.pixels = np.array(Image.open(buffer).convert("RGB"))

    def __repr__(self) -> str:
        return f"CodeChart(x={self.x}, y={self.y})"

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of a position on the map; the nearest pixel for a position outside it."""
        column = (x - self.x[0]) / (self.x[1] - self.x[0]) * (MAP - 1)
        row = (self.y[1] - y) / (self.y[1] - self.y[0]) * (MAP - 1)
        return round(min(max(row, 0), MAP - 1)), round(min(max(column, 0), MAP - 1))

    def picture(
        self,
        cursor: tuple[float, float],
        nearest: tuple[float, float],
        ends: tuple[tuple[float, float], tuple[float, float]],
        t: float,
    ) -> UInt8[np.ndarray, "rows columns 3"]:
        """The map with lines through the cursor, a ring around `nearest`, and a walk between two ends with a dot at t.

        All positions are (x, y) on the map; t goes from 0, the first end, to 1.
        """
        sheet = Image.fromarray(self.pixels)
        pen = ImageDraw.Draw(sheet)
        row, column = self.pixel(*cursor)
        pen.line([(column, 0), (column, MAP)], fill=BLACK)
        pen.line([(0, row), (MAP, row)], fill=BLACK)
        row, column = self.pixel(*nearest)
        pen.ellipse([column - 9, row - 9, column + 9, row + 9], outline="white", width=5)
        pen.ellipse([column - 8, row - 8, column + 8, row + 8], outline=BLACK, width=3)
        (y0, x0), (y1, x1) = (self.pixel(*end) for end in ends)
        for colour, width in (("white", 6), (VERMILION, 3)):
            pen.line([(x0, y0), (x1, y1)], fill=colour, width=width)
        x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
        pen.ellipse([x - 7, y - 7, x + 7, y + 7], fill=VERMILION, outline="white", width=2)
        return np.array(sheet)
