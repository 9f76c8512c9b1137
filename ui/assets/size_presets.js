// Shapes that have about as many pixels as the model was trained on.

import { watchModel } from "./model_defaults.js";

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
  watchModel(element, ({ native, steps }) => {
    group.replaceChildren(...RATIOS.map((ratio) => button(ratio, native ?? 512, steps.width ?? 8)));
  });

  function button(ratio, native, step) {
    const [width, height] = sides(ratio, native, step);
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

/** The sides, in steps that suit the model's native size, at about native² pixels. */
function sides([across, down], native, smallest) {
  const step = native >= 512 ? Math.max(64, smallest) : smallest;
  const unit = native / Math.sqrt(across * down);
  return [across, down].map((share) => Math.max(64, Math.round((share * unit) / step) * step));
}

export const swapped = (width, height) => [height, width];

export const chosen = (sizes) => sizes;
