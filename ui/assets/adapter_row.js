// One LoRA of the form: whether it is used, which, how strong, and in which blocks and steps.

import { blockWeightEditor } from "./block_weight_editor.js";
import { curveField } from "./curve_field.js";
import { action, element } from "./elements.js";
import { loraPicker } from "./lora_picker.js";
import { loraNamed } from "./lora_shelf.js";
import { matchBadge } from "./match_badge.js";
import { rankField } from "./rank_field.js";
import { strengthField } from "./strength_field.js";

/**
 * row: as adapter_value.js has it. change(row, isSettled), remove() and duplicate() are called for what was done.
 * model(): {checkpoint, family}. hasCurves: whether strengths may change over the steps.
 */
export function adapterRow({ row, change, remove, duplicate, model, hasCurves }) {
  const box = element("li", "em-adapter");
  const set = (adapter, isSettled = true) => {
    row = { ...row, adapter: { ...row.adapter, ...adapter } };
    draw();
    change(row, isSettled);
  };

  const handle = element("button", "em-icon em-handle", "", { type: "button", title: "Drag, or press Alt and an arrow key" });
  const isOn = element("input", "em-switch", "", { type: "checkbox", role: "switch" });
  isOn.addEventListener("change", () => {
    row = { ...row, is_on: isOn.checked };
    draw();
    change(row, true);
  });
  const picker = loraPicker({
    label: "LoRA",
    name: row.adapter.file.name,
    family: () => model().family,
    onpick: (name) => name !== row.adapter.file.name && set({ file: { name } }),
  });
  const badge = matchBadge();
  const close = element("button", "em-icon em-close", "", { type: "button", onclick: remove });
  const head = element("div", "em-adapter-head");
  head.append(handle, isOn, picker.box, badge.button, close);

  const facts = element("p", "em-adapter-facts");
  const strength = strengthField({ label: "Strength", value: row.adapter.strength, onchange: (value, isSettled) => set({ strength: value }, isSettled) });
  const forText = strengthField({
    label: "Text encoders",
    value: row.adapter.text_encoder_strength ?? row.adapter.strength,
    onchange: (value, isSettled) => set({ text_encoder_strength: value }, isSettled),
  });
  const link = element("button", "em-icon em-link", "", {
    type: "button",
    onclick: () => set({ text_encoder_strength: row.adapter.text_encoder_strength === null ? row.adapter.strength : null }),
  });
  const strengths = element("div", "em-strengths");
  const fields = element("div", "em-strength-fields");
  fields.append(strength.box, forText.box);
  strengths.append(fields, link);

  const blocks = blockWeightEditor({
    read: () => ({ weights: row.adapter.weights ?? null, elemental: row.elemental ?? "" }),
    write: (weights, elemental, isSettled) => {
      row = { ...row, elemental };
      set({ weights }, isSettled);
    },
    checkpoint: () => model().checkpoint,
  });
  blocks.box.hidden = true;
  const curve = hasCurves ? curveField({ curve: row.adapter.curve ?? null, onchange: (found) => setOrLeaveOut("curve", found) }) : null;
  if (curve) {
    curve.box.classList.add("em-adapter-panel");
    curve.box.hidden = true;
  }
  const blocksButton = toggle("Blocks", blocks.box, () => blocks.load());
  const curveButton = curve ? toggle("Over the steps", curve.box) : null;
  const tools = element("div", "em-adapter-tools");
  const ranks = rankField({ count: row.adapter.max_rank ?? null, onchange: (count) => setOrLeaveOut("max_rank", count) });
  tools.append(blocksButton, ...(curve ? [curveButton] : []), action("Duplicate", duplicate), ranks.box);
  box.append(head, facts, strengths, tools, badge.panel, blocks.box, ...(curve ? [curve.box] : []));

  function setOrLeaveOut(field, value) {
    const { [field]: _, ...adapter } = row.adapter;
    row = { ...row, adapter: value ? { ...adapter, [field]: value } : adapter };
    draw();
    change(row, true);
  }

  function draw() {
    const { file, text_encoder_strength: own, weights, curve: points } = row.adapter;
    const isLinked = own === null || own === undefined;
    const name = file.name;
    box.classList.toggle("em-adapter-off", row.is_on === false);
    isOn.checked = row.is_on !== false;
    isOn.setAttribute("aria-label", `Use ${name}`);
    handle.setAttribute("aria-label", `Move ${name}`);
    close.setAttribute("aria-label", `Remove ${name}`);
    box.setAttribute("aria-label", name);
    forText.box.hidden = isLinked;
    link.setAttribute("aria-pressed", String(isLinked));
    link.setAttribute("aria-label", `Text encoders as strong as the denoiser: ${name}`);
    link.title = isLinked ? "Text encoders follow the strength; click to set theirs" : "Text encoders have a strength of their own; click to link them";
    blocksButton.classList.toggle("em-is-set", Boolean(weights));
    curveButton?.classList.toggle("em-is-set", Boolean(points));
    drawFacts(name);
  }

  function drawFacts(name) {
    const lora = loraNamed(name);
    const { family, label } = model();
    const isOther = Boolean(lora?.family && family && lora.family !== family);
    const problem = lora?.problem || (isOther ? `Trained for ${lora.family_label || lora.family}; this model is ${label || family}.` : "");
    facts.replaceChildren(
      ...(lora?.family_label ? [element("span", "em-chip", lora.family_label)] : []),
      ...(problem ? [element("span", "em-adapter-warning", problem)] : []),
    );
    facts.hidden = !facts.childElementCount;
    ranks.show(row.adapter.max_rank ?? null, lora?.rank?.[1]);
  }

  draw();
  return {
    box,
    get row() {
      return row;
    },
    /** Show another state of the same row. */
    show(next) {
      row = next;
      picker.show(row.adapter.file.name);
      strength.show(row.adapter.strength);
      forText.show(row.adapter.text_encoder_strength ?? row.adapter.strength);
      curve?.show(row.adapter.curve);
      blocks.show();
      draw();
    },
    /** The model or what is known of LoRAs has changed. */
    refresh() {
      draw();
      badge.look(row.is_on === false ? "" : row.adapter.file.name, model().checkpoint);
      if (!blocks.box.hidden) blocks.load();
    },
  };
}

/** A button that opens a panel of the row. */
function toggle(text, panel, onopen) {
  const button = action(text, () => {
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.hidden) onopen?.();
  }, { "aria-expanded": "false" });
  return button;
}
