"""A picture that knows where the pointer is: what ipywidgets' own Image does not say."""

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
  const point = (event) => {
    const box = picture.getBoundingClientRect();
    const clip = (part) => Math.min(Math.max(part, 0), 1);
    wanted = [clip((event.clientX - box.left) / box.width), clip((event.clientY - box.top) / box.height)];
    if (!waiting) send();
  };

  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerdown", point);
  model.on("change:value", draw);
  draw();
  el.appendChild(picture);
  return () => { model.off("change:value", draw); clearTimeout(waiting); URL.revokeObjectURL(shown); };
}
export default { render };
"""


class PointedImage(anywidget.AnyWidget):
    """A PNG, `value`, and where the mouse, pen or finger is on it: `place`, (x, y) from its top left, both 0 to 1."""

    _esm = SCRIPT
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    place = traitlets.List(traitlets.Float(), default_value=[0.5, 0.5], minlen=2, maxlen=2).tag(sync=True)
