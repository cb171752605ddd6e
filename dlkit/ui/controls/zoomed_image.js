import { kernelPicture } from "./kernel_picture.js";

const KEYS = {
  "+": { zoom: 1.5 }, "=": { zoom: 1.5 }, "-": { zoom: 1 / 1.5 }, "0": { zoom: 0 },
  ArrowLeft: { pan: -0.1 }, ArrowRight: { pan: 0.1 }, ArrowUp: { rows: -1 }, ArrowDown: { rows: 1 },
};

function render({ model, el }) {
  const { picture, request, placeOf, remove } = kernelPicture(model, "zoomed", (asked) => model.send(asked));
  picture.tabIndex = 0;
  let dragged = null;

  const ask = (more) => request((unsent) => {
    const before = unsent ?? { zoom: 1, pan: 0, rows: 0 };
    return {
      ...before, ...more, zoom: before.zoom * (more.zoom ?? 1), pan: before.pan + (more.pan ?? 0),
      rows: before.rows + (more.rows ?? 0),
    };
  });
  const point = (event) => {
    const place = placeOf(event);
    const pan = dragged ? (dragged[0] - place[0]) / (model.get("box")[1] - model.get("box")[0]) : 0;
    if (dragged) dragged = place;
    ask({ place, pan });
  };
  const turn = (event) => {
    if (document.activeElement !== picture && !event.ctrlKey) return; // or the page could not be scrolled past it
    event.preventDefault();
    ask({ zoom: Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), place: placeOf(event) });
  };
  const press = (event) => {
    const asked = KEYS[event.key];
    if (!asked || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab's own keys go from cell to cell
    ask(asked);
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
  el.appendChild(picture);
  return remove;
}
export default { render };
