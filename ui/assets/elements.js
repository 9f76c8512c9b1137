// Pieces of pages made by scripts. Names come from files, so they are only ever text.

/** An element with a class, a text, and attributes or listeners ("onclick"). */
export function element(tag, className = "", text = "", given = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  return made;
}

export const action = (text, onclick, given = {}) =>
  element("button", "em-action", text, { type: "button", onclick, ...given });

/** A label above a control. */
export function labelled(text, control, hint = "") {
  const field = element("label", "em-field em-labelled");
  field.append(element("span", "em-label", text), control);
  if (hint) field.append(element("span", "em-hint", hint));
  return field;
}

/** A select of [value, text] pairs. Several groups: [{group, options}]. */
export function select(options, value, onchange, given = {}) {
  const made = element("select", "em-select", "", { onchange: () => onchange(made.value), ...given });
  const fill = (parent, pairs) => parent.append(...pairs.map(([key, text]) => element("option", "", text, { value: key })));
  for (const entry of options) {
    if (Array.isArray(entry)) fill(made, [entry]);
    else {
      const group = element("optgroup", "", "", { label: entry.group });
      fill(group, entry.options);
      made.append(group);
    }
  }
  made.value = value;
  return made;
}

export function numberInput(value, onchange, given = {}) {
  const made = element("input", "", "", { type: "number", step: "any", ...given });
  made.value = value;
  made.addEventListener("change", () => {
    if (Number.isFinite(made.valueAsNumber)) onchange(made.valueAsNumber);
    else made.value = value;
  });
  return made;
}
