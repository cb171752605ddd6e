import { kernelPicture } from "./kernel_picture.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clip = (value, most) => Math.min(Math.max(value, 0), most);

function render({ model, el }) {
  const { picture, request, placeOf, remove } = kernelPicture(model, "pointed", (place) => {
    model.set("place", place);
    model.save_changes();
  });
  const ends = (axis) => [model.get("box")[axis], model.get("box")[axis + 2]];
  const cellOf = (place) => model.get("cells").map((count, axis) => {
    const [first, last] = ends(axis);
    return clip(Math.floor((place[axis] - first) / (last - first) * count), count - 1);
  });
  const middleOf = (cell) => model.get("cells").map((count, axis) => {
    const [first, last] = ends(axis);
    return first + (clip(cell[axis], count - 1) + 0.5) / count * (last - first);
  });

  const point = (event) => {
    const place = placeOf(event).map((value) => clip(value, 1));
    request((unsent) => {
      const from = cellOf(unsent ?? model.get("place"));
      const sameCell = from.length && cellOf(place).every((index, axis) => index === from[axis]);
      return event.type === "pointermove" && sameCell ? unsent : place;
    });
  };
  const walk = (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab's own arrow keys go from cell to cell
    request((unsent) => middleOf(cellOf(unsent ?? model.get("place")).map((index, axis) => index + arrow[axis])));
  };

  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerenter", point);
  picture.addEventListener("pointerdown", (event) => { point(event); picture.focus(); });
  if (model.get("cells").length) {
    picture.tabIndex = 0;
    picture.addEventListener("keydown", walk);
  }
  el.appendChild(picture);
  return remove;
}
export default { render };
