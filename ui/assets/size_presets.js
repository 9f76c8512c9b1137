// Shapes that have about as many pixels as the model was trained on.

import { watchDefaults } from "./model_defaults.js";

const RATIOS = [
  [1, 1],
  [4, 3],
  [3, 2],
  [16, 9],
  [3, 4],
  [2, 3],
  [9, 16],
];

export function mount({ element, props, send }) {
  const group = element.querySelector(".em-shapes");
  watchDefaults(({ width: native }) => {
    group.replaceChildren(...RATIOS.map((ratio) => button(ratio, native ?? 512)));
  });

  function button(ratio, native) {
    const [width, height] = sides(ratio, native);
    const element = document.createElement("button");
    element.type = "button";
    element.className = "em-shape";
    element.title = `${width} × ${height}`;
    const outline = document.createElement("span");
    outline.className = "em-outline";
    outline.style.aspectRatio = `${ratio[0]} / ${ratio[1]}`;
    outline.classList.toggle("em-tall", ratio[1] > ratio[0]);
    element.append(outline, `${ratio[0]}:${ratio[1]}`);
    element.addEventListener("click", () => {
      props.value = [width, height];
      send.select();
    });
    return element;
  }
}

/** The sides, in steps that the model's native size can be divided by, at about native² pixels. */
function sides([across, down], native) {
  const step = native >= 512 ? 64 : 8;
  const unit = native / Math.sqrt(across * down);
  return [across, down].map((share) => Math.max(64, Math.round((share * unit) / step) * step));
}

export const swapped = (width, height) => [height, width];

export const chosen = (sizes) => sizes;
