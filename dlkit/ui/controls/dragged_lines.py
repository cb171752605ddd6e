"""A picture with lines on it that are dragged, or moved by arrow keys."""

from pathlib import Path

import anywidget
import traitlets

from dlkit.ui.controls.javascript import bundled


class DraggedLines(anywidget.AnyWidget):
    """A PNG, `value`, of an image of `size` (rows, columns) of pixels, and lines between these.

    rows: before which row each lying line is, from the top; columns: so for the standing ones. Each line is a slider:
    it is dragged, or moved by the arrow keys, and stays a pixel from its neighbours. clicked: the (row, column), not
    rounded, of the last click beside a line.
    """

    _esm = bundled(Path(__file__).with_name("dragged_lines.js"))
    _css = Path(__file__).with_name("dragged_lines.css")
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    size = traitlets.List(traitlets.Int(min=1), minlen=2, maxlen=2, default_value=[1, 1]).tag(sync=True)
    rows = traitlets.List(traitlets.Int(min=1)).tag(sync=True)
    columns = traitlets.List(traitlets.Int(min=1)).tag(sync=True)
    clicked = traitlets.List(traitlets.Float()).tag(sync=True)

    def __repr__(self) -> str:
        return f"DraggedLines(rows={self.rows}, columns={self.columns})"
