// The seed as text: a number above 2**53 would be rounded.

import { currentForm, formOf } from "./form_scope.js";
import { note } from "./messages.js";
import { shownSeed } from "./selection.js";

const fields = new Map(); // what sets the seed of each form

/** Put a seed into the form that can be seen. */
export const useSeed = (seed) => fields.get(currentForm())?.(seed);

export function mount({ element, props, watch, send }) {
  const input = element.querySelector("input");

  const show = () => {
    const text = String(props.value ?? "");
    if (input.value !== text) input.value = text;
    element.classList.toggle("em-follows-model", text === "");
  };

  const setSeed = (seed) => {
    props.value = seed;
    show();
    send.change();
  };
  fields.set(formOf(element), setSeed);

  input.addEventListener("input", () => {
    props.value = input.value.trim();
    element.classList.toggle("em-follows-model", props.value === "");
    send.change();
  });
  element.querySelector(".em-dice").addEventListener("click", () => setSeed(""));
  element.querySelector(".em-reuse").addEventListener("click", () => {
    const seed = shownSeed();
    if (seed === null) note("There is no picture yet whose seed could be used.", "problem");
    else setSeed(seed);
  });
  watch("value", () => {
    show();
    send.change();
  });
  show();
}
