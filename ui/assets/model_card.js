// What a checkpoint says about itself. All of it comes from a file, so it is only ever text.

import { publishModel } from "./model_defaults.js";

export function mount({ element, props, watch }) {
  const card = element.querySelector(".em-model");

  const show = () => {
    const facts = props.value ?? {};
    card.replaceChildren();
    card.classList.toggle("em-model-problem", Boolean(facts.problem));
    if (facts.problem) {
      card.append(line("em-model-text", facts.problem));
      return publishModel(element, {});
    }
    card.append(chips(facts));
    if (facts.title) card.append(line("em-model-title", facts.title));
    if (facts.usage_hint) card.append(line("em-model-text", facts.usage_hint));
    if (facts.usual) card.append(usual(facts));
    if (facts.parts?.length) card.append(parts(facts.parts));
    publishModel(element, modelOf(facts));
  };

  watch("value", show);
  show();
}

function modelOf({ defaults = {}, native_size: native, size_step: step, has_shift: hasShift, picture_use: pictureUse }) {
  const has = [];
  if (hasShift) has.push("shift");
  if (pictureUse) has.push(pictureUse);
  if (defaults.distilled_guidance !== null && defaults.distilled_guidance !== undefined) has.push("distilled_guidance");
  return { values: { ...defaults, width: native, height: native }, steps: { width: step, height: step }, has };
}

function chips(facts) {
  const row = line("em-chips", "");
  if (facts.family) row.append(chip(facts.family));
  if (facts.native_size) row.append(chip(`${facts.native_size} × ${facts.native_size}`));
  if (facts.is_refiner) row.append(chip("refiner"));
  if (facts.picture_use === "inpainting") row.append(chip("for inpainting"));
  if (facts.picture_use === "editing") row.append(chip("edits pictures"));
  if (facts.licence) row.append(chip(facts.licence, "Licence"));
  return row;
}

function usual({ usual: text, defaults }) {
  const row = line("em-model-text", text);
  row.prepend(label("Usual"));
  if (defaults?.reason) {
    const reason = document.createElement("span");
    reason.className = "em-model-reason";
    reason.textContent = ` (${defaults.reason})`;
    row.append(reason);
  }
  return row;
}

/** Each part of the model with where it comes from; those inside of the checkpoint in one group. */
function parts(all) {
  const row = line("em-model-text em-model-parts", "");
  const inside = all.filter(([, , kind]) => kind === "inside").map(([name]) => name);
  row.append(label("Parts"));
  if (inside.length) row.append(part(`${inside.join(", ")} inside`, "inside"));
  for (const [name, where, kind] of all) {
    if (kind !== "inside") row.append(part(kind === "file" ? `${name} from ${where}` : `${name} ${where}`, kind));
  }
  return row;
}

function part(text, kind) {
  const element = document.createElement("span");
  element.className = "em-model-part";
  element.dataset.kind = kind;
  element.textContent = text;
  return element;
}

function label(text) {
  const element = document.createElement("span");
  element.className = "em-model-label";
  element.textContent = text;
  return element;
}

function line(className, text) {
  const element = document.createElement("div");
  element.className = className;
  element.textContent = text;
  return element;
}

function chip(text, title = "") {
  const element = document.createElement("span");
  element.className = "em-chip";
  element.textContent = text;
  if (title) element.title = title;
  return element;
}
