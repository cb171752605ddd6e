// ipywidgets gives the handle of a slider no name: here it gets that of its label, and the text beside it as its value.
const above = (element) => element.parentElement?.closest(".jupyter-widgets");

function name(root) {
  for (const slider of root.querySelectorAll(".widget-slider")) {
    const handle = slider.querySelector(".noUi-handle");
    const label = slider.querySelector(".widget-label")?.textContent.trim();
    const value = slider.querySelector(".widget-readout")?.textContent.trim();
    for (const [attribute, text] of [["aria-label", label], ["aria-valuetext", value]]) {
      if (handle && text && handle.getAttribute(attribute) !== text) handle.setAttribute(attribute, text);
    }
  }
}

function render({ el }) {
  el.style.display = "none";
  let observer;
  const begin = () => {
    let root = el;
    for (let next = above(el); next; next = above(next)) root = next;
    name(root);
    observer = new MutationObserver(() => name(root));
    observer.observe(root, {
      subtree: true,
      childList: true,
      characterData: true,
      attributes: true,
      attributeFilter: ["aria-valuetext"],
    });
  };
  const frame = requestAnimationFrame(begin); // when it is on the page
  return () => {
    cancelAnimationFrame(frame);
    observer?.disconnect();
  };
}

export default { render };
