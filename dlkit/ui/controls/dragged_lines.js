import { kernelPicture } from "./kernel_picture.js";

const AXES = ["rows", "columns"]; // lines between rows lie, lines between columns stand
const STEPS = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -5, PageDown: 5 };

function render({ model, el }) {
  const { picture, request, placeOf, remove } = kernelPicture(model, "divided", (change) => {
    for (const [name, value] of Object.entries(change)) model.set(name, value);
    model.save_changes();
  });
  const frame = document.createElement("div");
  frame.className = "dragged-lines";
  frame.appendChild(picture);
  el.appendChild(frame);

  // Where a line may be: a pixel at least from the edge and from its neighbours.
  const ends = (axis, index) => {
    const lines = [0, ...model.get(AXES[axis]), model.get("size")[axis]];
    return [lines[index] + 1, lines[index + 2] - 1];
  };
  const moveTo = (axis, index, wanted) => {
    const [least, most] = ends(axis, index);
    const place = Math.min(Math.max(Math.round(wanted), least), most);
    const lines = [...model.get(AXES[axis])];
    if (lines[index] === place) return;
    lines[index] = place;
    model.set(AXES[axis], lines); // at once on the page; the kernel hears of it when it has drawn the last one
    request((unsent) => ({ ...unsent, [AXES[axis]]: lines }));
  };

  function handle(axis, index) {
    const line = document.createElement("div");
    line.className = `line ${AXES[axis]}`;
    line.tabIndex = 0;
    line.setAttribute("role", "slider");
    line.setAttribute("aria-orientation", axis ? "horizontal" : "vertical");
    line.setAttribute("aria-label", `Line ${index + 1} between ${AXES[axis]}`);
    line.addEventListener("keydown", (event) => {
      const [least, most] = ends(axis, index);
      const to = { Home: least, End: most }[event.key] ?? model.get(AXES[axis])[index] + STEPS[event.key];
      if (Number.isNaN(to)) return;
      event.preventDefault();
      event.stopPropagation(); // JupyterLab's own arrow keys go from cell to cell
      moveTo(axis, index, to);
    });
    line.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      line.focus();
      line.setPointerCapture(event.pointerId);
    });
    line.addEventListener("pointermove", (event) => {
      if (!line.hasPointerCapture(event.pointerId)) return;
      moveTo(axis, index, placeOf(event)[1 - axis] * model.get("size")[axis]);
    });
    return line;
  }

  const handles = [[], []];
  const place = () => {
    AXES.forEach((name, axis) => {
      const lines = model.get(name);
      if (lines.length !== handles[axis].length) {
        handles[axis].forEach((line) => line.remove());
        handles[axis] = lines.map((_, index) => frame.appendChild(handle(axis, index)));
      }
      lines.forEach((at, index) => {
        const line = handles[axis][index];
        const [least, most] = ends(axis, index);
        line.style[axis ? "left" : "top"] = `${(at / model.get("size")[axis]) * 100}%`;
        line.setAttribute("aria-valuemin", least);
        line.setAttribute("aria-valuemax", most);
        line.setAttribute("aria-valuenow", at);
        line.setAttribute("aria-valuetext", `${at} ${name} before it`);
      });
    });
  };
  picture.addEventListener("click", (event) => {
    const [x, y] = placeOf(event);
    request((unsent) => ({ ...unsent, clicked: [y, x].map((share, axis) => share * model.get("size")[axis]) }));
  });
  for (const name of [...AXES, "size"]) model.on(`change:${name}`, place);
  place();
  return () => {
    for (const name of [...AXES, "size"]) model.off(`change:${name}`, place);
    remove();
  };
}
export default { render };
