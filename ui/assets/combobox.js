// A field with a list below it that is searched by typing: how rules and LoRAs are chosen.

import { element } from "./elements.js";

let count = 0;

/**
 * label: of the field. text: what it shows while it is closed. find(words): the groups for the words that were typed,
 * [{title, options: [{key, isChosen, title, lines: [element]}]}]. nothing(): what is said when there are none.
 * onopen: called when the list opens; it may return a promise, behind which the list is filled again.
 * onpick: called with the key of an option.
 */
export function combobox({ label, listLabel = label, text = "", placeholder = "", find, nothing, onopen, onpick }) {
  const id = `em-pick-${++count}`;
  const box = element("div", "em-pick");
  const input = element("input", "em-pick-search", "", {
    type: "text",
    role: "combobox",
    placeholder,
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": label,
    "aria-expanded": "false",
    "aria-controls": id,
    "aria-autocomplete": "list",
  });
  const list = element("div", "em-pick-list", "", { id, role: "listbox", "aria-label": listLabel, hidden: true });
  let options = [];
  let at = -1;
  input.value = text;
  box.append(input, list);

  function fill(typed) {
    const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
    options = [];
    list.replaceChildren();
    for (const { title, options: found } of find(words)) {
      if (!found.length) continue;
      const group = element("div", "em-pick-group", "", { role: "group", "aria-label": title });
      group.append(element("div", "em-pick-group-name", title, { "aria-hidden": "true" }), ...found.map(optionOf));
      list.append(group);
    }
    if (!options.length) list.append(element("p", "em-quiet", nothing()));
    at = Math.max(0, options.findIndex((option) => option.getAttribute("aria-selected") === "true"));
    mark();
  }

  function optionOf({ key, isChosen, title = "", lines }) {
    const option = element("div", "em-pick-option", "", {
      id: `${id}-${options.length}`,
      role: "option",
      "aria-selected": String(Boolean(isChosen)),
      title,
    });
    option.dataset.key = key;
    option.append(...lines);
    option.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    option.addEventListener("click", () => pick(key));
    options.push(option);
    return option;
  }

  function mark() {
    options.forEach((option, index) => option.classList.toggle("em-marked", index === at));
    const marked = options[at];
    if (marked && !list.hidden) marked.scrollIntoView({ block: "nearest" });
    if (marked) input.setAttribute("aria-activedescendant", marked.id);
    else input.removeAttribute("aria-activedescendant");
  }

  function open(typed) {
    const wasHidden = list.hidden;
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    fill(typed);
    if (wasHidden) onopen?.()?.then(() => !list.hidden && fill(input.value === text ? "" : input.value));
  }

  function close() {
    list.hidden = true;
    input.value = text;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function pick(key) {
    close();
    onpick(key);
  }

  input.addEventListener("click", () => {
    if (!list.hidden) return;
    input.select();
    open("");
  });
  input.addEventListener("input", () => open(input.value));
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.altKey) return; // which moves rows
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && list.hidden) open("");
    else if (by && options.length) at = (at + by + options.length) % options.length;
    else if (event.key === "Enter" && !list.hidden && options[at]) pick(options[at].dataset.key);
    else if (event.key === "Escape" && !list.hidden) close();
    else return;
    event.preventDefault();
    event.stopPropagation(); // Esc closes this list, and cancels no job
    mark();
  });

  return {
    box,
    input,
    show(next) {
      text = next;
      if (list.hidden) input.value = text;
    },
  };
}
