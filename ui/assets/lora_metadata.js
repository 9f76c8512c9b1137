// What the header of a file says of it, and changing that. Changes are gathered and written into the file at once.

import { action, element } from "./elements.js";
import { note } from "./messages.js";
import { ask } from "./server.js";

const SHOWN = 600; // letters of a value that is not being edited

/** A part of the details. `onsaved` is called when the file has been written. */
export function metadataEditor(lora, onsaved) {
  const details = element("details", "em-lora-part em-lora-metadata");
  const list = element("div", "em-lora-pairs");
  const state = element("p", "em-lora-state", "", { role: "status" });
  const save = action("Save into the file", () => write());
  const add = action("Add a line", () => list.append(added()));
  const summary = element("summary");
  const buttons = element("div", "em-actions");
  let rows = []; // {box, key(), change(), tell(text)}
  buttons.append(add, save);
  details.append(summary, list, state, buttons);
  fill(lora.metadata);
  // Made when it is looked at: some files have hundreds of lines.
  details.addEventListener("toggle", () => details.open && list.replaceChildren(...rows.map(({ box }) => box)), { once: true });

  function fill(metadata) {
    const pairs = Object.entries(metadata);
    summary.textContent = `Metadata: ${pairs.length} line${pairs.length === 1 ? "" : "s"}`;
    rows = pairs.sort(([one], [other]) => one.localeCompare(other)).map(([key, value]) => pair(key, String(value)));
    if (details.open) list.replaceChildren(...rows.map(({ box }) => box));
    count();
  }

  function pair(key, value) {
    const box = element("div", "em-lora-pair");
    const problem = element("p", "em-lora-problem", "", { hidden: true });
    const shown = element("p", "em-lora-value", value.length > SHOWN ? `${value.slice(0, SHOWN)} …` : value);
    const area = element("textarea", "", "", { rows: "3", "aria-label": `Value of ${key}`, hidden: true, spellcheck: "false" });
    const edit = action("Edit", () => open(), { "aria-label": `Edit ${key}` });
    const remove = action("Remove", () => toggle(), { "aria-label": `Remove ${key}`, "aria-pressed": "false" });
    let isRemoved = false;
    const open = () => {
      area.value = value;
      [shown.hidden, area.hidden, edit.hidden] = [true, false, true];
      area.focus();
    };
    const toggle = () => {
      isRemoved = !isRemoved;
      remove.setAttribute("aria-pressed", String(isRemoved));
      box.toggleAttribute("data-removed", isRemoved);
      count();
    };
    area.addEventListener("input", count);
    const head = element("div", "em-lora-pair-head");
    head.append(element("code", "", key), edit, remove);
    box.append(head, shown, area, problem);
    const change = () => (isRemoved ? null : area.hidden || area.value === value ? undefined : area.value);
    return { box, key: () => key, change, tell: (text) => tell(problem, text) };
  }

  function added() {
    const box = element("div", "em-lora-pair");
    const name = element("input", "", "", { type: "text", placeholder: "Name", "aria-label": "Name of the new line", spellcheck: "false" });
    const area = element("textarea", "", "", { rows: "2", placeholder: "Value", "aria-label": "Value of the new line" });
    const problem = element("p", "em-lora-problem", "", { hidden: true });
    const drop = action("Remove", () => {
      rows = rows.filter((row) => row.box !== box);
      box.remove();
      count();
    }, { "aria-label": "Remove the new line" });
    const head = element("div", "em-lora-pair-head");
    head.append(name, drop);
    box.append(head, area, problem);
    box.addEventListener("input", count);
    rows.push({ box, key: () => name.value.trim(), change: () => (name.value || area.value ? area.value : undefined), tell: (text) => tell(problem, text), isNew: true });
    queueMicrotask(() => name.focus());
    return box;
  }

  function changed() {
    return rows.filter((row) => row.change() !== undefined);
  }

  function count() {
    const number = changed().length;
    save.disabled = number === 0;
    state.dataset.kind = "asking";
    state.textContent = number ? `${number} change${number === 1 ? "" : "s"} that ${number === 1 ? "is" : "are"} not saved.` : "";
  }

  function tell(problem, text) {
    problem.textContent = text;
    problem.hidden = !text;
  }

  function isSound() {
    const names = new Map();
    let sound = true;
    for (const row of rows) {
      const key = row.key();
      const said = !key ? "A line needs a name." : names.has(key) && row.isNew ? "There is a line of this name already." : "";
      row.tell(row.isNew && row.change() === undefined ? "" : said);
      if (said && row.change() !== undefined) sound = false;
      names.set(key, row);
    }
    return sound;
  }

  async function write() {
    if (!isSound()) return;
    const changes = changed();
    const metadata = Object.fromEntries(changes.map((row) => [row.key(), row.change()]));
    save.disabled = true;
    state.textContent = "Writing ...";
    try {
      await ask("api/v1/loras/metadata", { name: lora.name, metadata }, { method: "PUT" });
    } catch (error) {
      save.disabled = false;
      state.textContent = "";
      const named = changes.filter((row) => error.message.includes(row.key()));
      for (const row of named.length ? named : changes) row.tell(error.message);
      return;
    }
    const kept = Object.entries({ ...lora.metadata, ...metadata }).filter(([, value]) => value !== null);
    lora = { ...lora, metadata: Object.fromEntries(kept) };
    fill(lora.metadata);
    state.dataset.kind = "done";
    state.textContent = "Saved.";
    note("The metadata are in the file.");
    onsaved();
  }

  return details;
}
