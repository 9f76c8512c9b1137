// A number with a slider below it, for pages that are made by scripts alone; it looks like ui/components/number_field.py.

import { element } from "./elements.js";

let count = 0;

/** min, max: of what may be typed; slider: [low, high] of the slider. Gives {box, read(), write(value)}. */
export function slidNumber({ label, value, min, max, step, slider, onchange }) {
  const id = `em-slid-${++count}`;
  const box = element("div", "em-field");
  const head = element("div", "em-field-head");
  const number = element("input", "", "", { id, type: "number", inputmode: "decimal", autocomplete: "off", min, max, step: "any" });
  // It says the same as the number and is for the mouse alone.
  const range = element("input", "em-slider", "", { type: "range", tabindex: "-1", "aria-hidden": "true", min: slider[0], max: slider[1], step });
  let last = value;

  function show(isTyping = false) {
    if (!isTyping) number.value = last;
    range.value = last;
    range.style.setProperty("--em-filled", `${((range.valueAsNumber - slider[0]) / (slider[1] - slider[0])) * 100}%`);
  }
  function set(next, isTyping) {
    last = next;
    show(isTyping);
    onchange();
  }
  number.addEventListener("input", () => number.value !== "" && number.validity.valid && set(number.valueAsNumber, true));
  number.addEventListener("change", () => show());
  range.addEventListener("input", () => set(range.valueAsNumber, false));
  head.append(element("label", "", label, { for: id }), number);
  box.append(head, range);
  show();
  return { box, read: () => last, write: (next) => set(next, false) };
}
