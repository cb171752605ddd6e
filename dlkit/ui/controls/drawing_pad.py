"""A pad to draw on by mouse, pen, finger or keyboard."""

from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets
from ipywidgets.widgets.trait_types import CByteMemoryView
from jaxtyping import Float
from torch import Tensor

SIDE = 140  # pixels of the drawing, across and down
GRID = 14  # cells of the keyboard's grid, across and down
PEN = 12  # pixels: the width of a line


class DrawingPad(anywidget.AnyWidget):
    """A black pad with a white pen. `drawing` (140, 140), in [0, 1], changes when the pen is lifted.

    With the keyboard, arrow keys move the pen over a grid and Space lowers or lifts it. `lifted` counts the strokes
    that were drawn or taken back, and the presses of Clear: observe it to see each new drawing.
    """

    _esm = Path(__file__).with_name("drawing_pad.js")
    _css = Path(__file__).with_name("drawing_pad.css")
    pixels = CByteMemoryView(bytes(SIDE * SIDE)).tag(sync=True)
    lifted = traitlets.Int().tag(sync=True)
    side = traitlets.Int(SIDE).tag(sync=True)
    grid = traitlets.Int(GRID).tag(sync=True)
    pen = traitlets.Int(PEN).tag(sync=True)

    def __repr__(self) -> str:
        return f"DrawingPad({SIDE}x{SIDE} pixels)"

    @property
    def drawing(self) -> Float[Tensor, "140 140"]:
        """The pixels: black is 0, white is 1."""
        grey = np.frombuffer(self.pixels, dtype=np.uint8).reshape(SIDE, SIDE)
        return torch.from_numpy(grey.astype(np.float32) / 255)

    def clear(self) -> None:
        """Remove all strokes, here and on the page."""
        self.pixels = bytes(SIDE * SIDE)
        self.send("clear")
