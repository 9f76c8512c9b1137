// What a checkpoint says about itself. All of it comes from a file, so it is only ever text.

import { publishDefaults } from "./model_defaults.js";

export function mount({ element, props, watch }) {
  const card = element.querySelector(".em-model");

  const show = () => {
    const facts = props.value ?? {};
    card.replaceChildren();
    card.classList.toggle("em-model-problem", Boolean(facts.problem));
    if (facts.problem) {
      card.append(line("em-model-text", facts.problem));
      return publishDefaults({});
    }
    const chips = line("em-chips", "");
    if (facts.family) chips.append(chip(facts.family));
    if (facts.native_size) chips.append(chip(`${facts.native_size} × ${facts.native_size}`));
    if (facts.licence) chips.append(chip(facts.licence, "Licence"));
    card.append(chips);
    if (facts.title) card.append(line("em-model-title", facts.title));
    if (facts.usage_hint) card.append(line("em-model-text", facts.usage_hint));
    publishDefaults({ ...facts.defaults, width: facts.native_size, height: facts.native_size });
  };

  watch("value", show);
  show();
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
