// How many of a LoRA's ranks count: a whole number, or nothing for all of them.

import { element } from "./elements.js";

/** onchange(count): null for all. */
export function rankField({ count, onchange }) {
  const box = element("label", "em-ranks", "", {
    title: "How many of its ranks count: the first so many, with the scale of all. Formats without ranks are not changed.",
  });
  const number = element("input", "", "", { type: "number", min: 1, step: 1, placeholder: "all", "aria-label": "Ranks" });
  box.append(element("span", "em-label", "Ranks", { "aria-hidden": "true" }), number);

  /** The field as it is for `next` ranks out of `most`, which is 0 where that is not known. */
  function show(next, most = 0) {
    count = next;
    box.hidden = !most && count === null;
    if (most) number.max = most;
    else number.removeAttribute("max");
    if (document.activeElement !== number) number.value = count ?? "";
  }

  number.addEventListener("change", () => {
    const typed = number.valueAsNumber;
    const next = Number.isFinite(typed) && typed >= 1 ? Math.floor(typed) : null;
    number.value = next ?? "";
    if (next !== count) onchange(next);
  });
  show(count);
  return { box, show };
}
