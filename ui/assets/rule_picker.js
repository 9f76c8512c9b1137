// Which merge rule: a list in groups by the models that it takes, with a search over names, formulas and explanations.

import { element } from "./elements.js";

const GROUPS = [
  ["One model", (rule) => most(rule) === 1],
  ["Two models", (rule) => most(rule) === 2],
  ["Three models and more", (rule) => most(rule) > 2 && rule.extra_models === 0],
  ["Any number of models", (rule) => rule.extra_models > 0],
];
const most = (rule) => rule.roles.length + rule.extra_models;
let count = 0;

/** A combobox. `onpick` is called with the name of a rule. */
export function rulePicker(rules, chosen, onpick) {
  const id = `em-rules-${++count}`;
  const box = element("div", "em-rule-picker");
  const input = element("input", "em-rule-search", "", {
    type: "text",
    role: "combobox",
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": "Rule",
    "aria-expanded": "false",
    "aria-controls": id,
    "aria-autocomplete": "list",
  });
  const list = element("div", "em-rule-list", "", { id, role: "listbox", "aria-label": "Rules", hidden: true });
  const label = rules.find((rule) => rule.name === chosen)?.label ?? "";
  let options = [];
  let at = -1;
  input.value = label;
  box.append(input, list);

  function fill(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (rule) => {
      const all = [rule.name, rule.label, rule.formula, rule.explanation].join(" ").toLowerCase();
      return words.every((word) => all.includes(word));
    };
    options = [];
    list.replaceChildren();
    for (const [title, belongs] of GROUPS) {
      const found = rules.filter((rule) => belongs(rule) && fits(rule));
      if (!found.length) continue;
      const group = element("div", "em-rule-group", "", { role: "group", "aria-label": title });
      group.append(element("div", "em-rule-group-name", title, { "aria-hidden": "true" }), ...found.map(optionOf));
      list.append(group);
    }
    if (!options.length) list.append(element("p", "em-quiet", "No rule fits."));
    at = Math.max(0, options.findIndex((option) => option.dataset.rule === chosen));
    mark();
  }

  function optionOf(rule) {
    const option = element("div", "em-rule", "", {
      id: `${id}-${rule.name}`,
      role: "option",
      "aria-selected": String(rule.name === chosen),
      title: rule.explanation,
    });
    option.dataset.rule = rule.name;
    option.append(element("span", "em-rule-name", rule.label), element("span", "em-rule-formula", rule.formula));
    option.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    option.addEventListener("click", () => pick(rule.name));
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

  function open(text) {
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    fill(text);
  }

  function close() {
    list.hidden = true;
    input.value = label;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function pick(name) {
    close();
    if (name !== chosen) onpick(name);
  }

  input.addEventListener("click", () => {
    if (!list.hidden) return;
    input.select();
    open("");
  });
  input.addEventListener("input", () => open(input.value));
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && list.hidden) open("");
    else if (by && options.length) at = (at + by + options.length) % options.length;
    else if (event.key === "Enter" && !list.hidden && options[at]) pick(options[at].dataset.rule);
    else if (event.key === "Escape" && !list.hidden) close();
    else return;
    event.preventDefault();
    event.stopPropagation(); // Esc closes this list, and cancels no job
    mark();
  });
  return box;
}
