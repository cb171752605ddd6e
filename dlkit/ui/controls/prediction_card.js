let cards = 0; // radio buttons of one card share a name

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// What stands between backticks is code.
const marked = (text) => text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));

function render({ model, el }) {
  const name = `prediction-${(cards += 1)}`;
  const choices = model.get("choices");
  const answers = element("div");
  for (const choice of choices) {
    const radio = element("input", { type: "radio", name, value: choice });
    answers.append(element("label", {}, radio, ...marked(choice)));
  }
  const number = element("input", { type: "text", inputMode: "decimal" });
  number.setAttribute("aria-label", `Your number ${model.get("unit")}`);
  if (!choices.length) answers.append(number, ` ${model.get("unit")}`);

  const sure = element("select", {}, element("option", { value: "" }, "choose"));
  model.get("levels").forEach((level, index) => {
    const text = index ? `${level} %` : `${level} %: a guess`;
    sure.append(element("option", { value: level }, text));
  });
  const keep = element("button", { type: "button" }, "Keep my prediction");
  const status = element("div", { className: "status" });
  status.setAttribute("role", "status");
  const row = element("div", { className: "row" }, element("label", {}, "How sure are you? ", sure), keep);
  const legend = element("legend", {}, ...marked(model.get("question")));
  const card = element("fieldset", { className: "prediction" }, legend, answers, row, status);

  const said = () => (choices.length ? answers.querySelector("input:checked")?.value ?? "" : number.value.trim());
  const show = () => {
    const kept = model.get("said");
    for (const radio of answers.querySelectorAll("input[type=radio]")) radio.checked = radio.value === kept;
    number.value = choices.length ? "" : kept;
    sure.value = model.get("sure") || "";
  };
  const tell = () => { status.replaceChildren(...marked(model.get("status"))); };
  const lock = () => { for (const each of [...answers.querySelectorAll("input"), sure, keep]) each.disabled = model.get("locked"); };

  keep.addEventListener("click", () => {
    const missing = [said() ? "" : choices.length ? "choose an answer" : "give a number", sure.value ? "" : "say how sure you are"];
    const words = missing.filter(Boolean).join(", and ");
    if (words) status.textContent = `Before it is kept, ${words}.`;
    else model.send({ said: said(), sure: Number(sure.value) });
  });
  card.addEventListener("keydown", (event) => {
    event.stopPropagation(); // JupyterLab's own keys go from cell to cell
    if (event.key === "Enter" && event.target === number) keep.click();
  });
  model.on("change:said change:sure", show);
  model.on("change:status", tell);
  model.on("change:locked", lock);
  show();
  tell();
  lock();
  el.appendChild(card);
}
export default { render };
