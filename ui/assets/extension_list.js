// Extensions and their problems. Names and messages are theirs, so they are only ever text.

const STATES = { on: "On", off: "Switched off", failed: "Failed" };

export function mount({ element, props, watch }) {
  const list = element.querySelector(".em-extensions");
  const show = () => {
    const entries = props.value ?? [];
    list.replaceChildren(...(entries.length ? entries.map(entry) : [textIn("p", "em-quiet", "There are no extensions.")]));
  };
  watch("value", show);
  show();
}

function entry(extension) {
  const card = textIn("article", "em-extension", "");
  const head = textIn("div", "em-extension-head", "");
  head.append(textIn("h2", "em-extension-name", extension.name));
  if (extension.version) head.append(textIn("span", "em-quiet", extension.version));
  const state = textIn("span", "em-chip", STATES[extension.state]);
  state.dataset.state = extension.state;
  head.append(state);
  card.append(head);
  if (extension.description) card.append(textIn("p", "em-extension-text", extension.description));
  const about = [extension.author && `by ${extension.author}`, extension.licence, needs(extension.needs)].filter(Boolean);
  if (about.length) card.append(textIn("p", "em-quiet", about.join(" · ")));
  for (const problem of extension.problems) card.append(textIn("p", "em-extension-problem", problem));
  return card;
}

function needs(names) {
  const words = { net: "opens connections", fs: "writes outside its folder", pip: "needs more packages" };
  return names.map((name) => words[name] ?? name).join(", ");
}

function textIn(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
