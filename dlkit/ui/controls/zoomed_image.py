"""A picture that is zoomed and panned from left to right, by mouse, finger or keyboard; it says what was asked for."""

from collections.abc import Callable

import anywidget
import traitlets

CLOSEST = 1e-6  # the shortest part to zoom to; of seconds, a microsecond

# What is asked for is gathered until the kernel has answered with a picture, or has had time to.
SCRIPT = """
function render({ model, el }) {
  const picture = document.createElement("img");
  picture.className = "zoomed";
  picture.draggable = false;
  picture.tabIndex = 0;
  picture.style.cssText = "cursor: crosshair; touch-action: pan-y; max-width: 100%";
  let shown = null, asked = null, waiting = null, dragged = null;

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
    if (asked) send();
  };
  const send = () => {
    model.send(asked);
    asked = null;
    waiting = setTimeout(free, 200);
  };
  const ask = (more) => {
    const before = asked ?? { zoom: 1, pan: 0, rows: 0 };
    asked = {
      ...before, ...more, zoom: before.zoom * (more.zoom ?? 1), pan: before.pan + (more.pan ?? 0),
      rows: before.rows + (more.rows ?? 0),
    };
    if (!waiting) send();
  };
  const placeOf = (event) => {
    const box = picture.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  const point = (event) => {
    const place = placeOf(event);
    const pan = dragged ? (dragged[0] - place[0]) / (model.get("box")[1] - model.get("box")[0]) : 0;
    if (dragged) dragged = place;
    ask({ place, pan });
  };
  const turn = (event) => {
    if (document.activeElement !== picture && !event.ctrlKey) return;  // or nobody could scroll past the picture
    event.preventDefault();
    ask({ zoom: Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), place: placeOf(event) });
  };
  const press = (event) => {
    const what = {
      "+": { zoom: 1.5 }, "=": { zoom: 1.5 }, "-": { zoom: 1 / 1.5 }, "0": { zoom: 0 },
      ArrowLeft: { pan: -0.1 }, ArrowRight: { pan: 0.1 }, ArrowUp: { rows: -1 }, ArrowDown: { rows: 1 },
    }[event.key];
    if (!what || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();  // JupyterLab's own keys go from cell to cell
    ask(what);
  };

  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerdown", (event) => {
    picture.setPointerCapture(event.pointerId);
    dragged = placeOf(event);
    picture.focus({ preventScroll: true });
  });
  for (const end of ["pointerup", "pointercancel"]) picture.addEventListener(end, () => { dragged = null; });
  picture.addEventListener("wheel", turn, { passive: false });
  picture.addEventListener("keydown", press);
  model.on("change:value", draw);
  draw();
  el.appendChild(picture);
  return () => { model.off("change:value", draw); clearTimeout(waiting); URL.revokeObjectURL(shown); };
}
export default { render };
"""


class ZoomedImage(anywidget.AnyWidget):
    """A PNG, `value`, of which `box` (left, right; 0 to 1) is a part of something longer.

    `on_ask` is called with what the reader asks for: zoom (a factor; 0 for all of it), pan (in widths of the box), rows
    (to go down) and, if it was a pointer's doing, place, (x, y) from the top left, 0 to 1. The wheel zooms once
    the picture has been clicked on, or with Ctrl; + - 0 and the arrow keys work there too.
    """

    _esm = SCRIPT
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    box = traitlets.List(traitlets.Float(), default_value=[0.0, 1.0], minlen=2, maxlen=2).tag(sync=True)

    def on_ask(self, act: Callable[[dict], object]) -> None:
        self.on_msg(lambda _, asked, __: act(asked))


def zoomed(shown: tuple[float, float], whole: tuple[float, float], factor: float, about: float) -> tuple[float, float]:
    """The part of the whole that is shown, `factor` times as close, while the time `about` keeps its place."""
    begin, end = shown
    length = whole[1] - whole[0]
    wide = min(max((end - begin) / factor, min(CLOSEST, length)), length) if factor else length
    return moved((about - (about - begin) / (end - begin) * wide, about + (end - about) / (end - begin) * wide), whole)


def moved(shown: tuple[float, float], whole: tuple[float, float], by: float = 0.0) -> tuple[float, float]:
    """The part moved by so much of its own length, as far as the whole goes."""
    wide = shown[1] - shown[0]
    begin = min(max(shown[0] + by * wide, whole[0]), whole[1] - wide)
    return max(begin, whole[0]), min(begin + wide, whole[1])
