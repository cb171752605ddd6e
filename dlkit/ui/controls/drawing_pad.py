"""A pad to draw on by mouse, pen, finger or keyboard: what ipywidgets has none of."""

import anywidget
import numpy as np
import torch
import traitlets
from ipywidgets.widgets.trait_types import CByteMemoryView
from jaxtyping import Float
from torch import Tensor

SIDE, GRID, PEN = (
    140,
    14,
    12,
)  # pixels of the pad; cells of the keyboard's grid, across and down; the pen's width, pixels

# Strokes are kept as points, so that one can be taken back; each is sent, as pixels, when the pen is lifted.
SCRIPT = """
function render({ model, el }) {
  const [side, grid, pen] = ["side", "grid", "pen"].map((name) => model.get(name));
  const cell = side / grid;
  const pad = document.createElement("canvas");
  pad.width = pad.height = side;
  pad.tabIndex = 0;
  pad.className = "pad";
  pad.setAttribute("role", "application");
  pad.setAttribute("aria-label", "Drawing pad: arrow keys move the pen over a grid, Space lowers or lifts it, "
    + "Backspace takes the last stroke back, Delete clears the pad.");
  pad.style.cssText = "width: 280px; height: 280px; background: black; cursor: crosshair; touch-action: none;";
  const ink = pad.getContext("2d", { willReadFrequently: true });
  let strokes = [], stroke = null, pointer = null, keyboard = null, down = false;

  const paint = () => {
    ink.fillStyle = "black";
    ink.fillRect(0, 0, side, side);
    ink.strokeStyle = ink.fillStyle = "white";
    ink.lineCap = ink.lineJoin = "round";
    ink.lineWidth = pen;
    for (const points of strokes) {
      ink.beginPath();
      ink.moveTo(...points[0]);
      for (const point of points) ink.lineTo(...point);
      ink.stroke();
    }
  };
  const cursor = () => {  // drawn over the strokes, and never sent
    if (!keyboard || document.activeElement !== pad) return;
    ink.strokeStyle = down ? "#E69F00" : "#56B4E9";
    ink.lineWidth = 1.5;
    ink.strokeRect(keyboard[0] * cell + 1, keyboard[1] * cell + 1, cell - 2, cell - 2);
  };
  const redraw = () => { paint(); cursor(); };
  const send = () => {
    paint();
    const { data } = ink.getImageData(0, 0, side, side);
    const grey = new Uint8Array(side * side);
    for (let i = 0; i < grey.length; i++) grey[i] = data[4 * i];
    cursor();
    model.set("pixels", new DataView(grey.buffer));
    model.set("lifted", model.get("lifted") + 1);
    model.save_changes();
  };
  const clear = () => { strokes = []; down = false; send(); };
  const undo = () => { strokes.pop(); down = false; send(); };

  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [(event.clientX - box.left) * side / box.width, (event.clientY - box.top) * side / box.height];
  };
  pad.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    event.preventDefault();
    pad.focus();
    pointer = event.pointerId;
    pad.setPointerCapture(pointer);
    keyboard = null;
    down = false;
    strokes.push(stroke = [at(event)]);
    redraw();
  });
  pad.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    for (const part of event.getCoalescedEvents?.() ?? []) stroke.push(at(part));
    stroke.push(at(event));
    redraw();
  });
  const lift = (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    send();
  };
  pad.addEventListener("pointerup", lift);
  pad.addEventListener("pointercancel", lift);

  const middle = () => keyboard.map((count) => (count + 0.5) * cell);
  pad.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step && ![" ", "Backspace", "Delete"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();  // JupyterLab has other plans for these keys
    if (event.key === "Delete") return clear();
    if (event.key === "Backspace") return undo();
    const first = keyboard === null;
    keyboard ??= [Math.floor(grid / 2), Math.floor(grid / 2)];
    if (event.key === " ") {
      down = !down;
      if (!down) return redraw();
      strokes.push([middle()]);
      return send();
    }
    if (!first) keyboard = keyboard.map((count, axis) => Math.min(Math.max(count + step[axis], 0), grid - 1));
    if (!down) return redraw();
    strokes.at(-1).push(middle());
    send();
  });
  pad.addEventListener("blur", redraw);
  pad.addEventListener("focus", redraw);

  const button = (text, title, act) => {
    const one = document.createElement("button");
    one.textContent = text;
    one.title = title;
    one.className = "lm-Widget jupyter-widgets jupyter-button widget-button";
    one.style.width = "138px";
    one.addEventListener("click", act);
    return one;
  };
  const buttons = document.createElement("div");
  buttons.append(button("Undo", "Take the last stroke back", undo), button("Clear", "Clear the pad", clear));
  model.on("msg:custom", (message) => { if (message === "clear") { strokes = []; down = false; redraw(); } });
  redraw();
  el.append(pad, buttons);
}
export default { render };
"""


class DrawingPad(anywidget.AnyWidget):
    """A black pad for a white pen. `drawing` is what is on it, (140, 140) in [0, 1]; it changes as the pen is lifted.

    With the keyboard, arrow keys move the pen over a grid and Space lowers or lifts it. `observe(..., "lifted")` tells
    of each stroke that was drawn or taken back, and of each press of Clear.
    """

    _esm = SCRIPT
    pixels = CByteMemoryView(bytes(SIDE * SIDE)).tag(sync=True)
    lifted = traitlets.Int().tag(sync=True)
    side = traitlets.Int(SIDE).tag(sync=True)
    grid = traitlets.Int(GRID).tag(sync=True)
    pen = traitlets.Int(PEN).tag(sync=True)

    @property
    def drawing(self) -> Float[Tensor, "140 140"]:
        grey = np.frombuffer(self.pixels, dtype=np.uint8).reshape(SIDE, SIDE)
        return torch.from_numpy(grey.astype(np.float32) / 255)

    def clear(self) -> None:
        """Take all strokes away, here and on the page."""
        self.pixels = bytes(SIDE * SIDE)
        self.send("clear")
