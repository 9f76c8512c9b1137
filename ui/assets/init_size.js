// The size of the picture that a form begins with: what an empty field means, and factors of it.

import { watchForm } from "./form.js";
import { canvasIn, formOf } from "./form_scope.js";
import { publishSize, watchModel } from "./model_defaults.js";
import { halfToEven } from "./rounding.js";

const FACTORS = [0.5, 1, 1.5, 2, 3, 4];
const [SMALLEST, LARGEST] = [64, 16384];

export function mount({ element, props, send }) {
  const group = element.querySelector(".em-factors");
  let size = null; // of the picture with its new borders; null where a part of it is made at the model's own size
  let isBordered = false; // then sides are rounded up, as the engine does it
  let step = 8;

  const draw = () => {
    group.hidden = !size;
    if (size) group.replaceChildren(...FACTORS.map(button));
    publishSize(element, size && scaled(1));
  };
  const rounded = (value) => Math.min(LARGEST, Math.max(SMALLEST, (isBordered ? Math.ceil : halfToEven)(value / step) * step));
  const scaled = (factor) => ({ width: rounded(size.width * factor), height: rounded(size.height * factor) });

  function button(factor) {
    const { width, height } = scaled(factor);
    const made = document.createElement("button");
    made.type = "button";
    made.className = "em-shape";
    made.title = factor === 1 ? `As the picture: ${width} × ${height}` : `${width} × ${height}`;
    made.textContent = factor === 1 ? "Picture" : `× ${factor}`;
    made.addEventListener("click", () => {
      props.value = factor === 1 ? [null, null] : [width, height]; // empty follows the picture
      send.select();
    });
    return made;
  }

  watchForm((values) => {
    const { width, height, mask, borders } = canvasIn(values);
    const { left = 0, top = 0, right = 0, bottom = 0 } = borders ?? {};
    const isPart = Boolean(mask) && values["init.mask.area"] === "masked";
    const next = width && !isPart ? { width: width + left + right, height: height + top + bottom } : null;
    if (JSON.stringify(next) === JSON.stringify(size) && isBordered === Boolean(borders)) return;
    [size, isBordered] = [next, Boolean(borders)];
    draw();
  }, formOf(element));
  watchModel(element, ({ steps }) => {
    if (step === (steps.width ?? 8)) return;
    step = steps.width ?? 8;
    draw();
  });
}
