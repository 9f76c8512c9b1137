// A strength: a slider from -2 to 2 and a number from -10 to 10, with the arrow keys and the wheel.

import { element } from "./elements.js";
import { HIGHEST, LOWEST, limited } from "./adapter_value.js";

const [LOW, HIGH, STEP] = [-2, 2, 0.05];
const share = (value) => `${(100 * (Math.min(HIGH, Math.max(LOW, value)) - LOW)) / (HIGH - LOW)}%`;

/** onchange(value, isSettled): the second is false while a gesture goes on. */
export function strengthField({ label, value, onchange }) {
  const box = element("div", "em-strength", "", { role: "group", "aria-label": label });
  const range = element("input", "em-slider", "", { type: "range", min: LOW, max: HIGH, step: STEP, tabindex: -1, "aria-hidden": "true" });
  const number = element("input", "em-strength-number", "", { type: "number", min: LOWEST, max: HIGHEST, step: "any", "aria-label": label });
  box.append(element("span", "em-label", label, { "aria-hidden": "true" }), range, number);

  function set(next, isSettled) {
    value = limited(next);
    show(value);
    onchange(value, isSettled);
  }

  function show(next) {
    value = next;
    range.value = next;
    if (document.activeElement !== number || number.valueAsNumber !== next) number.value = next;
    range.style.setProperty("--em-from", share(Math.min(0, next)));
    range.style.setProperty("--em-to", share(Math.max(0, next)));
  }

  range.addEventListener("input", () => set(range.valueAsNumber, false));
  range.addEventListener("change", () => onchange(value, true));
  range.addEventListener("dblclick", () => set(1, true));
  number.addEventListener("input", () => {
    const typed = number.valueAsNumber;
    if (!Number.isFinite(typed) || limited(typed) !== typed) return;
    value = typed;
    range.value = typed;
    onchange(value, false);
  });
  number.addEventListener("change", () => set(Number.isFinite(number.valueAsNumber) ? number.valueAsNumber : value, true));
  number.addEventListener("keydown", (event) => {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!by || event.altKey) return;
    event.preventDefault();
    set(value + by * STEP * (event.shiftKey ? 10 : 1), true);
  });
  number.addEventListener(
    "wheel",
    (event) => {
      if (document.activeElement !== number || !event.deltaY) return; // the page scrolls otherwise
      event.preventDefault();
      set(value - Math.sign(event.deltaY) * STEP, true);
    },
    { passive: false },
  );
  show(value);
  return { box, show };
}
