// A picture that the kernel draws, and requests to the kernel for another.

const PATIENCE = 200; // milliseconds to wait for the kernel's picture before the next request is sent

// An <img> of `model`'s PNG. `request(change)` passes the request that has not been sent yet (or null) to `change`,
// which returns the new one; `send` sends it. One is on its way at a time: the next goes when the picture has come.
export function kernelPicture(model, className, send) {
  const picture = document.createElement("img");
  picture.className = className;
  picture.draggable = false;
  let url = null, unsent = null, timer = null;

  const sendNext = () => {
    if (unsent === null) return;
    send(unsent);
    unsent = null;
    timer = setTimeout(answered, PATIENCE);
  };
  const answered = () => {
    clearTimeout(timer);
    timer = null;
    sendNext();
  };
  const draw = () => {
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
    picture.src = url;
    answered();
  };
  const describe = () => { picture.alt = model.get("alt"); }; // it comes after the picture, or alone
  const request = (change) => {
    unsent = change(unsent);
    if (timer === null) sendNext();
  };
  const remove = () => {
    model.off("change:value", draw);
    model.off("change:alt", describe);
    clearTimeout(timer);
    URL.revokeObjectURL(url);
  };
  // x and y of an event on the picture, from its top left corner, in widths and heights of the picture
  const placeOf = (event) => {
    const box = picture.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  model.on("change:value", draw);
  model.on("change:alt", describe);
  draw();
  describe();
  return { picture, request, placeOf, remove };
}
