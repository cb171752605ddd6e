"""A picture that knows where the pointer is, and that arrow keys walk over: what ipywidgets' own Image does not say."""

import math

import anywidget
import traitlets

# One place is sent at a time: the next when the kernel has answered with a picture, or has had time to.
SCRIPT = """
function render({ model, el }) {
  const picture = document.createElement("img");
  picture.className = "pointed";
  picture.draggable = false;
  picture.style.cursor = "crosshair";
  let shown = null, wanted = null, waiting = null;

  const draw = () => {
    if (shown) URL.revokeObjectURL(shown);
    shown = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
    picture.src = shown;
    picture.alt = model.get("alt");
    free();
  };
  const free = () => {
    clearTimeout(waiting);
    waiting = null;
    if (wanted) send();
  };
  const send = () => {
    model.set("place", wanted);
    model.save_changes();
    wanted = null;
    waiting = setTimeout(free, 200);
  };
  const clip = (part) => Math.min(Math.max(part, 0), 1);
  const go = (place) => {
    wanted = place;
    if (!waiting) send();
  };
  const cellOf = (place) => model.get("cells").map((count, axis) => {
    const [first, last] = [model.get("box")[axis], model.get("box")[axis + 2]];
    return Math.min(Math.max(Math.floor((place[axis] - first) / (last - first) * count), 0), count - 1);
  });
  const point = (event) => {
    const box = picture.getBoundingClientRect();
    const place = [clip((event.clientX - box.left) / box.width), clip((event.clientY - box.top) / box.height)];
    const from = cellOf(wanted ?? model.get("place"));
    const moving = event.type === "pointermove" && from.length;
    if (!moving || cellOf(place).some((cell, axis) => cell !== from[axis])) go(place);  // nothing new inside a cell
  };
  const walk = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();  // JupyterLab's own arrow keys go from cell to cell
    go(cellOf(wanted ?? model.get("place")).map((cell, axis) => {
      const [count, first, last] = [model.get("cells")[axis], model.get("box")[axis], model.get("box")[axis + 2]];
      return first + (Math.min(Math.max(cell + step[axis], 0), count - 1) + 0.5) / count * (last - first);
    }));
  };

  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerenter", point);
  picture.addEventListener("pointerdown", (event) => { point(event); picture.focus(); });
  if (model.get("cells").length) {
    picture.tabIndex = 0;
    picture.addEventListener("keydown", walk);
  }
  model.on("change:value", draw);
  draw();
  el.appendChild(picture);
  return () => { model.off("change:value", draw); clearTimeout(waiting); URL.revokeObjectURL(shown); };
}
export default { render };
"""


class PointedImage(anywidget.AnyWidget):
    """A PNG, `value`, and where the mouse, pen or finger is on it: `place`, (x, y) from its top left, both 0 to 1.

    With `cells`, how many there are across and down, arrow keys move the place from the middle of one to the
    next's, and the pointer's place is sent when it comes to another. They fill the `box` (left, top, right, bottom) of
    the picture, by default all of it; a place outside it is in the nearest.
    """

    _esm = SCRIPT
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    place = traitlets.List(traitlets.Float(), default_value=[0.5, 0.5], minlen=2, maxlen=2).tag(sync=True)
    cells = traitlets.List(traitlets.Int(min=1), maxlen=2).tag(sync=True)
    box = traitlets.List(traitlets.Float(), default_value=[0.0, 0.0, 1.0, 1.0], minlen=4, maxlen=4).tag(sync=True)

    def cell(self) -> tuple[int, int]:
        """Row and column of the cell that the place is in."""
        column, row = (
            min(max(math.floor((part - first) / (last - first) * count), 0), count - 1)
            for part, first, last, count in zip(self.place, self.box[:2], self.box[2:], self.cells, strict=True)
        )
        return row, column

    def go_to(self, row: int, column: int) -> None:
        """Move the place to the middle of a cell, if it is not in it."""
        if self.cell() != (row, column):
            (left, top, right, bottom), (across, down) = self.box, self.cells
            self.place = [
                left + (column + 0.5) / across * (right - left),
                top + (row + 0.5) / down * (bottom - top),
            ]
