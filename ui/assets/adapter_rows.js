// The LoRAs that are added to a model: rows, in the form of txt2img and in the Merge tab.

import { adapterRow } from "./adapter_row.js";
import { isRow, newRow } from "./adapter_value.js";
import { action, element } from "./elements.js";
import { watchForm } from "./form.js";
import { currentForm, formOf } from "./form_scope.js";
import { layoutFor, loraNamed, readLoras, watchLoras } from "./lora_shelf.js";
import { loraPicker } from "./lora_picker.js";
import { firstFileOf, History } from "./merge_recipe.js";
import { note } from "./messages.js";
import { promptTags } from "./prompt_tags.js";
import { draggableRows } from "./row_order.js";

const copyOf = (rows) => JSON.parse(JSON.stringify(rows ?? [])).filter(isRow);
const receivers = new Map(); // what adds a LoRA that another tab has chosen, by form

addEventListener("emulsion:add-adapter", (event) => receivers.get(currentForm())?.(event.detail ?? {}), true);

/**
 * host is emptied. onchange(rows, isSettled) is called at every change. tools: what stands beside the title.
 * hasCurves: whether strengths may change over the steps.
 */
export function adapterRows(host, { onchange, tools = [], hasCurves = true }) {
  const list = element("ol", "em-adapter-list", "", { "aria-label": "LoRAs" });
  const spoken = element("span", "em-spoken", "", { role: "status" });
  const adder = loraPicker({ label: "Add a LoRA", placeholder: "Add a LoRA", family: () => model.family, onpick: (name) => add(name) });
  const head = element("div", "em-adapter-title");
  head.append(element("span", "em-label", "LoRAs"), ...tools);
  host.replaceChildren(head, list, adder.box, spoken);
  let views = [];
  let model = { checkpoint: "", family: "", label: "" };
  const rows = () => views.map((view) => view.row);

  function changed(isSettled = true) {
    host.classList.toggle("em-no-adapters", !views.length);
    onchange(rows(), isSettled);
  }

  function viewOf(row) {
    const view = adapterRow({
      row,
      hasCurves,
      model: () => model,
      change: (_, isSettled) => {
        if (isSettled) view.refresh();
        changed(isSettled);
      },
      remove: () => {
        const at = views.indexOf(view);
        views.splice(at, 1);
        view.box.remove();
        changed();
        (views[at] ?? views.at(-1))?.box.querySelector(".em-handle").focus();
        if (!views.length) adder.box.querySelector("input").focus();
      },
      duplicate: () => insert(copyOf([view.row])[0], views.indexOf(view) + 1),
    });
    return view;
  }

  function insert(row, at) {
    const view = viewOf(row);
    views.splice(at, 0, view);
    list.insertBefore(view.box, list.children[at] ?? null);
    view.refresh();
    changed();
  }

  function add(name, strength) {
    const preferred = Number(loraNamed(name)?.preferred_weight) || 1;
    insert(newRow(name, strength ?? preferred), views.length);
  }

  draggableRows(list, (from, to) => {
    const [view] = views.splice(from, 1);
    views.splice(to, 0, view);
    list.insertBefore(view.box, [...list.children].filter((box) => box !== view.box)[to] ?? null);
    spoken.textContent = `${view.row.adapter.file.name} is number ${to + 1} of ${views.length}.`;
    changed();
  });

  const refresh = () => views.forEach((view) => view.refresh());
  watchLoras(refresh);

  /** Show these rows; nothing is reported. */
  function show(given) {
    const wanted = copyOf(given);
    if (JSON.stringify(wanted) === JSON.stringify(rows())) return;
    views = wanted.map((row, index) => {
      const view = views[index];
      if (view?.row.adapter.file.name !== row.adapter.file.name) return viewOf(row);
      view.show(row); // which keeps the focus and what is open
      return view;
    });
    list.replaceChildren(...views.map((view) => view.box));
    host.classList.toggle("em-no-adapters", !views.length);
    refresh();
  }

  /** The blocks and families that the rows are compared with. */
  async function useCheckpoint(checkpoint) {
    if (checkpoint === model.checkpoint) return;
    model = { checkpoint, family: "", label: "" };
    if (checkpoint) {
      try {
        const { family, label } = await layoutFor(checkpoint);
        if (model.checkpoint === checkpoint) model = { checkpoint, family, label };
      } catch {
        // A model without known blocks: the editor says so, and families are not compared.
      }
    }
    refresh();
  }

  host.classList.add("em-no-adapters");
  return { show, add, useCheckpoint, rows };
}

/** The field of the form. */
export function mount({ element: frame, props, watch, send }) {
  const history = new History();
  const undo = action("Undo", () => step(history.undo()), { hidden: true });
  const redo = action("Redo", () => step(history.redo()), { hidden: true });
  const field = adapterRows(frame.querySelector(".em-adapters"), {
    tools: [undo, redo],
    onchange: (rows, isSettled) => {
      publish(rows);
      if (isSettled) remember(rows);
    },
  });
  const tags = promptTags();
  frame.querySelector(".em-adapters").append(tags.box);
  let prompt = "";

  function publish(rows) {
    props.value = copyOf(rows);
    send.change();
  }

  function remember(rows) {
    history.remember(rows);
    drawSteps();
  }

  function drawSteps() {
    undo.hidden = !history.canUndo;
    redo.hidden = !history.canRedo;
  }

  function step(rows) {
    if (!rows) return;
    field.show(rows);
    publish(rows);
    drawSteps();
  }

  frame.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    if (event.target.matches("input:not([type=checkbox], [type=range]), textarea")) return;
    event.preventDefault();
    step(event.shiftKey ? history.redo() : history.undo());
  });
  const form = formOf(frame);
  receivers.set(form, ({ name, strength }) => {
    if (!name) return;
    field.add(name, Number.isFinite(strength) ? strength : undefined);
    note(`${name} is added to the form of ${form}.`);
  });
  watchForm((values) => {
    field.useCheckpoint(checkpointOf(values));
    if (values.prompt === prompt) return;
    prompt = values.prompt;
    tags.show(prompt);
  }, form);
  watchLoras(() => tags.show(prompt));
  watch("value", () => {
    field.show(props.value);
    remember(field.rows());
    send.change();
  });
  field.show(props.value);
  remember(field.rows());
  readLoras();
}

/** What a form makes pictures with, as far as blocks are concerned. */
export function checkpointOf({ checkpoint, recipe }) {
  if (!recipe) return checkpoint ?? "";
  try {
    return firstFileOf(JSON.parse(recipe).root);
  } catch {
    return "";
  }
}
