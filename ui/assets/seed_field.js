// The seed as text: a number above 2**53 would be rounded.

import { shownSeed } from "./selection.js";
import { note } from "./messages.js";

let setSeed = null;

/** Put a seed into the field. */
export const useSeed = (seed) => setSeed?.(seed);

export function mount({ element, props, watch, send }) {
  const input = element.querySelector("input");

  const show = () => {
    const text = String(props.value ?? "");
    if (input.value !== text) input.value = text;
    element.classList.toggle("em-follows-model", text === "");
  };

  setSeed = (seed) => {
    props.value = seed;
    show();
    send.change();
  };

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
