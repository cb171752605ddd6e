"""A picture that knows where the pointer is, and on which the arrow keys go from cell to cell."""

import math
from pathlib import Path

import anywidget
import traitlets

from dlkit.ui.controls.javascript import bundled


class PointedImage(anywidget.AnyWidget):
    """A PNG, `value`, and where the mouse, pen or finger is on it: `place`, (x, y) from its top left, both 0 to 1.

    `cells`, if given, are the numbers of cells across and down. An arrow key then moves the place to the middle of the
    next cell, and the pointer changes `place` only when it enters another cell. The cells fill the `box` (left, top,
    right, bottom) of the picture, by default all of it; a place outside the box belongs to the nearest cell.
    """

    _esm = bundled(Path(__file__).with_name("pointed_image.js"))
    _css = Path(__file__).with_name("pointed_image.css")
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    place = traitlets.List(traitlets.Float(), default_value=[0.5, 0.5], minlen=2, maxlen=2).tag(sync=True)
    cells = traitlets.List(traitlets.Int(min=1), maxlen=2).tag(sync=True)
    box = traitlets.List(traitlets.Float(), default_value=[0.0, 0.0, 1.0, 1.0], minlen=4, maxlen=4).tag(sync=True)

    def __repr__(self) -> str:
        return f"PointedImage(place={self.place}, cells={self.cells})"

    def cell(self) -> tuple[int, int]:
        """Row and column of the cell that the place is in."""
        column, row = (
            min(max(math.floor((position - first) / (last - first) * count), 0), count - 1)
            for position, first, last, count in zip(self.place, self.box[:2], self.box[2:], self.cells, strict=True)
        )
        return row, column

    def go_to(self, row: int, column: int) -> None:
        """Move the place to the middle of this cell, if it is in another one."""
        if self.cell() != (row, column):
            (left, top, right, bottom), (across, down) = self.box, self.cells
            self.place = [
                left + (column + 0.5) / across * (right - left),
                top + (row + 0.5) / down * (bottom - top),
            ]
