// Which LoRA: a searchable list with the family that each was trained for.

import { combobox } from "./combobox.js";
import { element } from "./elements.js";
import { lorasKnown, readLoras } from "./lora_shelf.js";

const OTHER = "For other models";

/** family(): that of the model, "" while it is not known. onpick is called with a name. */
export function loraPicker({ label, name = "", placeholder = "", family, onpick }) {
  let chosen = name;
  const find = (words) => {
    const fits = (lora) => words.every((word) => textOf(lora).includes(word));
    const found = lorasKnown().filter(fits);
    const isForOther = (lora) => Boolean(family() && lora.family && lora.family !== family());
    return [
      { title: family() ? "For this model" : "LoRAs", options: found.filter((lora) => !isForOther(lora)).map(optionOf) },
      { title: OTHER, options: found.filter(isForOther).map(optionOf) },
    ];
  };
  const optionOf = (lora) => ({ key: lora.name, isChosen: lora.name === chosen, title: lora.problem || lora.description || "", lines: linesOf(lora) });
  const picker = combobox({
    label,
    listLabel: "LoRAs",
    text: name,
    placeholder,
    find,
    nothing: () => (lorasKnown().length ? "No LoRA fits these words." : "There is no LoRA in models/loras yet."),
    onopen: readLoras,
    onpick,
  });
  return {
    box: picker.box,
    show(next) {
      chosen = next;
      picker.show(next);
    },
  };
}

const textOf = (lora) => [lora.name, lora.title, lora.alias, lora.family_label, lora.activation_text].filter(Boolean).join(" ").toLowerCase();

function linesOf(lora) {
  const line = element("span", "em-pick-line");
  line.append(element("span", "em-pick-name", lora.name));
  if (lora.family_label) line.append(element("span", "em-chip", lora.family_label));
  const also = lora.problem || [lora.title !== lora.name && lora.title, lora.activation_text].filter(Boolean).join(" · ");
  return also ? [line, element("span", lora.problem ? "em-pick-also em-adapter-problem" : "em-pick-also", also)] : [line];
}
