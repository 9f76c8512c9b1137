// How large pictures become: by a factor, or to a size.

import { action, element, labelled } from "./elements.js";
import { halfToEven } from "./rounding.js";
import { slidNumber } from "./slid_number.js";

const WAYS = [["factor", "By a factor"], ["size", "To a size"]];
const [MOST_SIDE, MOST_PIXELS, MOST_SCALE] = [16384, 150e6, 16]; // as the server has them
const FACTORS = [1.5, 2, 3, 4, 8];
const USUAL = { way: "factor", scale: 2, width: 1920, height: 1080, crop: true };

/** kept: as `values` gives it. changed(): called after every change. */
export function sizeFields(host, kept, changed) {
  const values = { ...USUAL, ...kept };
  const ways = element("div", "em-actions em-extras-ways", "", { role: "group", "aria-label": "How the size is given" });
  const scale = slidNumber({
    label: "Factor",
    value: values.scale,
    min: 1,
    max: MOST_SCALE,
    step: 0.25,
    slider: [1, 8],
    onchange() {
      values.scale = scale.read();
      changed();
    },
  });
  const factors = element("div", "em-shapes", "", { role: "group", "aria-label": "Factors" });
  factors.append(...FACTORS.map((factor) => element("button", "em-shape", `× ${factor}`, { type: "button", onclick: () => scale.write(factor) })));
  const byFactor = element("div", "em-extras-way");
  byFactor.append(scale.box, factors);
  const crop = element("input", "", "", { type: "checkbox", checked: values.crop });
  const check = element("label", "em-check");
  check.append(crop, document.createTextNode("Crop what hangs over"));
  crop.addEventListener("change", () => {
    values.crop = crop.checked;
    changed();
  });
  const side = (name) => {
    const input = element("input", "", "", { type: "number", inputmode: "numeric", min: 1, max: MOST_SIDE, step: 1, autocomplete: "off", placeholder: "follows" });
    input.value = values[name] ?? "";
    input.addEventListener("input", () => {
      values[name] = Number.isFinite(input.valueAsNumber) ? input.valueAsNumber : null;
      draw();
      changed();
    });
    return input;
  };
  const sides = element("div", "em-extras-sides");
  sides.append(labelled("Width", side("width")), labelled("Height", side("height")));
  const hint = element("p", "em-hint");
  const bySize = element("div", "em-extras-way");
  bySize.append(sides, check, hint);
  host.replaceChildren(ways, byFactor, bySize);

  function draw() {
    ways.replaceChildren(...WAYS.map(([way, text]) => action(text, () => turn(way), { "aria-pressed": String(way === values.way) })));
    byFactor.hidden = values.way !== "factor";
    bySize.hidden = values.way !== "size";
    const hasBoth = Boolean(values.width && values.height);
    check.hidden = !hasBoth;
    hint.textContent = hasBoth ? "Pictures cover this size; without cropping they may be larger along a side." : "An empty side follows from the picture.";
  }

  function turn(way) {
    values.way = way;
    draw();
    ways.querySelector("[aria-pressed=true]").focus();
    changed();
  }

  draw();
  return {
    values: () => values,
    /** The fields of the request. Throws when neither side is given. */
    read() {
      if (values.way === "factor") return { scale: values.scale };
      if (!values.width && !values.height) throw new Error("type a width, a height, or both.");
      return { width: values.width, height: values.height, crop: values.crop };
    },
    after: (picture) => said(sizeAfter(picture, values)),
  };
}

/** {made, kept}: what the picture is enlarged to, and what of it is kept; null while no size is given. */
function sizeAfter({ width, height }, { way, scale, width: toWidth, height: toHeight, crop }) {
  if (way === "size" && !toWidth && !toHeight) return null;
  const [across, down] = [toWidth / width, toHeight / height]; // 0 for an empty side
  const factor = way === "factor" ? scale : Math.max(across, down);
  const made = [width, height].map((side) => Math.max(1, halfToEven(side * factor)));
  if (way === "factor" || !toWidth || !toHeight) return { made, kept: made };
  const covering = [Math.max(made[0], toWidth), Math.max(made[1], toHeight)];
  return { made: covering, kept: crop ? [toWidth, toHeight] : covering };
}

function said(sizes) {
  if (!sizes) return { text: "", isTooLarge: false };
  const { made, kept } = sizes;
  const isTooLarge = Math.max(...made) > MOST_SIDE || made[0] * made[1] > MOST_PIXELS;
  return { text: isTooLarge ? `${made.join(" × ")} is too large` : `→ ${kept.join(" × ")}`, isTooLarge };
}
