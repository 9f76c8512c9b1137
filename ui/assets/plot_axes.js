// One axis of a plot: what changes, found by typing, and the values it takes.

import { combobox } from "./combobox.js";
import { action, element, select } from "./elements.js";
import { ask } from "./server.js";

let loading = null;

/** What axes can change, as the server tells it. */
export const axisKinds = () => (loading ??= ask("api/v1/plots/axes").catch((error) => ((loading = null), Promise.reject(error))));

const USUAL = {
  seed: "1-4",
  steps: "10, 20, 40",
  guidance_scale: "3, 5, 7",
  parameter: "0-1 [5]",
  block: "0-1 [5]",
  adapter: "0-1 [5]",
  "init.denoising_strength": "0.3-0.9 [4]",
};
const HINTS = {
  whole: "1, 2, 5 or 1-5 or 1-9 (+2) or 1-100 [5]",
  number: "0, 0.5, 1 or 0-1 [5] or 0-1 (+0.25)",
  switch: "true, false",
  name: "names, with commas between them",
  text: 'texts, with commas between them; "one, text"',
};

/**
 * name, title: of the axis, for labels. kind: what it begins with, "" for nothing. targetsOf(kind): [value, label] pairs that a
 * target is chosen from, or null for a field. onchange(): something is different now.
 * Gives {box, read(), write({kind, target, values}), redraw(), tell(problem)}.
 */
export function axisEditor({ name, title = `${name} axis`, kind = "", values = "", kinds, targetsOf = () => null, onchange = () => {} }) {
  let chosen = kind;
  const box = element("div", "em-axis");
  const text = element("input", "", "", { type: "text", autocomplete: "off", spellcheck: "false", "aria-label": `Values of ${name}`, oninput: onchange });
  const target = element("span", "em-target");
  const all = action("All", () => write({ kind: chosen, values: facts().choices.map(([key]) => quoted(key)).join(", ") }), { title: "All there are" });
  const said = element("p", "em-axis-said", "", { role: "status" });
  const facts = () => kinds.find((entry) => entry.kind === chosen);
  const picker = combobox({
    label: title,
    listLabel: `Kinds of ${name}`,
    text: facts()?.label ?? "None",
    placeholder: "What changes",
    find: found,
    nothing: () => "Nothing is called that.",
    onpick: (key) => {
      chosen = key;
      text.value = USUAL[key] ?? (facts()?.choices.length ? facts().choices.slice(0, 3).map(([value]) => quoted(value)).join(", ") : "");
      redraw();
      onchange();
    },
  });

  function found(words) {
    const none = { title: "", options: "none".includes(words.join(" ")) ? [option("", "None")] : [] };
    const groups = new Map([["", none]]);
    for (const entry of kinds) {
      const all = `${entry.label} ${entry.kind} ${entry.group}`.toLowerCase();
      if (!words.every((word) => all.includes(word))) continue;
      if (!groups.has(entry.group)) groups.set(entry.group, { title: entry.group, options: [] });
      groups.get(entry.group).options.push(option(entry.kind, entry.label));
    }
    return [...groups.values()];
  }

  const option = (key, label) => ({ key, isChosen: key === chosen, lines: [element("span", "em-pick-name", label)] });

  function redraw() {
    const entry = facts();
    picker.show(entry?.label ?? "None");
    text.hidden = !entry;
    text.placeholder = entry ? HINTS[entry.values] : "";
    all.hidden = !entry?.choices.length;
    said.hidden = !entry;
    const before = targetField()?.value;
    const pairs = entry?.target ? targetsOf(chosen) : null;
    if (!entry?.target) target.replaceChildren();
    else if (pairs) target.replaceChildren(select(pairs, pairs.some(([key]) => key === before) ? before : (pairs[0]?.[0] ?? ""), onchange, { "aria-label": `What of ${name}` }));
    else if (!target.querySelector("input")) {
      target.replaceChildren(element("input", "", "", { type: "text", autocomplete: "off", placeholder: entry.target, title: entry.target, "aria-label": `What of ${name}`, oninput: onchange }));
    } else Object.assign(target.querySelector("input"), { placeholder: entry.target, title: entry.target });
  }

  const targetField = () => target.querySelector("select, input");

  function write({ kind: next, target: of = "", values: given }) {
    chosen = next;
    text.value = given;
    redraw();
    if (targetField() && of) targetField().value = of;
    onchange();
  }

  text.value = values;
  redraw();
  const row = element("div", "em-axis-row");
  row.append(picker.box, target, text, all);
  box.append(element("div", "em-label", title, { "aria-hidden": "true" }), row, said);
  return {
    box,
    redraw,
    write,
    read: () => (facts() ? { kind: chosen, target: targetField()?.value.trim() ?? "", values: text.value } : null),
    tell(problem, count) {
      said.textContent = problem || (count ? `${count} ${count === 1 ? "value" : "values"}` : "");
      said.classList.toggle("em-merge-problem", Boolean(problem));
      text.setAttribute("aria-invalid", String(Boolean(problem)));
    },
  };
}

const quoted = (text) => (/[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
