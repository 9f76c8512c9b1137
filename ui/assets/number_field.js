// A number, or nothing where the model decides; the slider and the buttons change the same value.

import { watchModel } from "./model_defaults.js";

export function mount({ element, props, watch, send }) {
  const frame = element.querySelector(".em-field");
  const { field, usual: fixed, whenEmpty, onlyWith } = frame.dataset;
  let size = Number(frame.dataset.step);
  const canBeEmpty = fixed === "";
  const number = element.querySelector("input[type=number]");
  const slider = element.querySelector(".em-slider");
  const reset = element.querySelector(".em-reset");
  let usual = canBeEmpty ? null : Number(fixed);

  const show = () => {
    const { value } = props;
    const isEmpty = value === null || value === undefined || value === "";
    if (document.activeElement !== number || Number(number.value) !== Number(value)) number.value = isEmpty ? "" : value;
    number.placeholder = usual ?? whenEmpty;
    if (slider) slider.value = isEmpty ? (usual ?? slider.min) : value;
    if (slider) slider.style.setProperty("--em-filled", `${filledShare(slider) * 100}%`);
    if (reset) reset.hidden = isEmpty;
    element.classList.toggle("em-follows-model", isEmpty);
  };

  const set = (value) => {
    props.value = value;
    show();
    send.change();
  };

  const typed = () => {
    if (number.value !== "") set(number.valueAsNumber);
    else if (canBeEmpty) set(null);
  };

  const step = (by) => {
    const from = number.value === "" ? Number(usual ?? number.min) : number.valueAsNumber;
    set(clamp(from + by * size, Number(number.min), Number(number.max)));
  };

  number.addEventListener("input", typed);
  number.addEventListener("change", () => {
    if (number.value === "" && !canBeEmpty) set(usual);
    else show();
  });
  slider?.addEventListener("input", () => set(slider.valueAsNumber));
  reset?.addEventListener("click", () => {
    set(null);
    number.focus();
  });
  for (const button of element.querySelectorAll(".em-step")) {
    button.addEventListener("click", () => step(Number(button.dataset.by)));
  }
  watchModel(element, ({ values, steps, has }) => {
    if (onlyWith) frame.hidden = !has.has(onlyWith);
    if (field in steps) size = number.step = slider.step = steps[field];
    if (!canBeEmpty) return;
    usual = values[field] ?? null;
    show();
  });
  watch("value", () => {
    show();
    send.change();
  });
  show();
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, Math.round(value * 1000) / 1000));

function filledShare(slider) {
  const [low, high] = [Number(slider.min), Number(slider.max)];
  return (slider.valueAsNumber - low) / (high - low);
}
