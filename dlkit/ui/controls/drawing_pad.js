// Strokes are kept as points, so that one can be taken back; the pixels are sent when the pen is lifted.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const button = (text, title, act) => {
  const element = document.createElement("button");
  element.textContent = text;
  element.title = title;
  element.className = "lm-Widget jupyter-widgets jupyter-button widget-button";
  element.addEventListener("click", act);
  return element;
};

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
  const cursor = () => { // drawn over the strokes, and never sent
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
    const arrow = ARROWS[event.key];
    if (!arrow && ![" ", "Backspace", "Delete"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab has its own use for these keys
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
    if (!first) keyboard = keyboard.map((count, axis) => Math.min(Math.max(count + arrow[axis], 0), grid - 1));
    if (!down) return redraw();
    strokes.at(-1).push(middle());
    send();
  });
  pad.addEventListener("blur", redraw);
  pad.addEventListener("focus", redraw);

  const buttons = document.createElement("div");
  buttons.className = "pad-buttons";
  buttons.append(button("Undo", "Take the last stroke back", undo), button("Clear", "Clear the pad", clear));
  model.on("msg:custom", (message) => { if (message === "clear") { strokes = []; down = false; redraw(); } });
  redraw();
  el.append(pad, buttons);
}
export default { render };
