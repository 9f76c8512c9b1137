// Detail passes: regions of the finished picture that are made again, one pass after the other.

import { action, element, labelled, numberInput, select } from "./elements.js";
import { canvasId, canvasIn, formOf, PICTURE_FORMS } from "./form_scope.js";
import { flush } from "./mask_canvas.js";
import { note } from "./messages.js";
import { openRegions } from "./region_drawing.js";
import { regionsText, readRegions } from "./regions.js";
import { shownPicture } from "./selection.js";
import { address } from "./server.js";

const NEW = { rectangles: [], mask: null, detector: null, denoising_strength: 0.4, padding: 32, prompt: "", is_on: true };

export function mount({ element: frame, props, watch, send }) {
  const host = frame.querySelector(".em-passes");
  const list = element("ol", "em-pass-list", "", { "aria-label": "Detail passes" });
  const add = action("Add a pass", () => {
    passes.push({ ...NEW, rectangles: [] });
    changed();
    draw();
    list.lastElementChild.querySelector("textarea").focus();
  });
  const hint = element("p", "em-hint", "Regions of the finished picture are made again at the model's own size and put back.");
  host.replaceChildren(hint, list, add);
  let passes = [];
  const form = formOf(frame);
  const detectors = JSON.parse(host.dataset.detectors);
  const hasCanvas = PICTURE_FORMS.includes(form);

  function changed() {
    props.value = JSON.parse(JSON.stringify(passes));
    send.change();
  }

  function draw() {
    list.replaceChildren(...passes.map(cardOf));
  }

  function cardOf(pass, index) {
    const card = element("li", "em-pass");
    const set = (field, value) => {
      pass[field] = value;
      changed();
    };
    const isOn = element("input", "", "", { type: "checkbox", "aria-label": `Pass ${index + 1} is on`, checked: pass.is_on !== false });
    isOn.addEventListener("change", () => set("is_on", isOn.checked));
    const remove = element("button", "em-icon em-close", "", { type: "button", "aria-label": `Remove pass ${index + 1}` });
    remove.addEventListener("click", () => {
      passes.splice(index, 1);
      changed();
      draw();
      add.focus();
    });
    const head = element("div", "em-pass-head");
    head.append(isOn, element("span", "em-label", `Pass ${index + 1}`), remove);
    const numbers = element("div", "em-pass-numbers");
    numbers.append(
      labelled("Pass strength", numberInput(pass.denoising_strength, (value) => set("denoising_strength", value), { min: 0, max: 1, step: 0.05 })),
      labelled("Pass padding", numberInput(pass.padding, (value) => set("padding", value), { min: 0, max: 1024, step: 1 })),
      labelled("Pass size", openNumber(pass.size, (value) => set("size", value), { min: 64, max: 4096, step: 8, placeholder: "model" })),
      labelled("Pass steps", openNumber(pass.steps, (value) => set("steps", value), { min: 1, max: 1000, step: 1, placeholder: "as picture" })),
    );
    const prompt = element("textarea", "", "", { rows: 1, placeholder: "As the picture's", "aria-label": `Prompt of pass ${index + 1}` });
    prompt.value = pass.prompt ?? "";
    prompt.addEventListener("input", () => set("prompt", prompt.value));
    card.append(head, whereOf(pass, index), numbers, labelled("Prompt", prompt));
    return card;
  }

  /** Rectangles, a mask or a detector: only one of them at a time. */
  function whereOf(pass, index) {
    const box = element("div", "em-pass-where");
    if (pass.mask || pass.detector) {
      const what = element("div", "em-pass-mask");
      if (pass.mask) what.append(element("img", "", "", { alt: "Mask of this pass", src: address(`api/v1/pictures/${pass.mask}/thumb`) }));
      what.append(
        element("span", "em-quiet", pass.mask ? "Each part of this mask" : `What "${pass.detector}" finds`),
        action("Use rectangles", () => {
          Object.assign(pass, { mask: null, detector: null });
          changed();
          draw();
        }),
      );
      box.append(what);
      return box;
    }
    const text = element("textarea", "em-pass-regions", "", { rows: 2, spellcheck: "false", placeholder: "x, y, width, height", "aria-label": `Rectangles of pass ${index + 1}` });
    text.value = regionsText(pass.rectangles ?? []);
    text.addEventListener("input", () => {
      const found = readRegions(text.value);
      text.setCustomValidity(found ? "" : "Four whole numbers a line: x, y, width, height.");
      if (!found) return;
      pass.rectangles = found;
      changed();
    });
    const tools = element("div", "em-actions");
    tools.append(
      action("Draw on the picture", () => {
        const picture = shownPicture();
        if (!picture) return note("There is no picture yet to draw on.", "problem");
        openRegions(picture, pass.rectangles ?? [], (rectangles) => {
          pass.rectangles = rectangles;
          text.value = regionsText(rectangles);
          changed();
        });
      }),
    );
    if (hasCanvas) {
      tools.append(
        action("Use the painted mask", async () => {
          const { mask } = canvasIn({ init: await flush(canvasId(form)) });
          if (!mask) return note("Nothing is painted on the canvas.", "problem");
          Object.assign(pass, { mask, rectangles: [] });
          changed();
          draw();
        }),
      );
    }
    if (detectors.length) {
      const find = (detector) => {
        Object.assign(pass, { detector, rectangles: [] });
        changed();
        draw();
      };
      tools.append(select([["", "Find with"], ...detectors], "", find, { "aria-label": `Detector of pass ${index + 1}` }));
    }
    box.append(labelled("Rectangles", text, "In pixels, one a line: x, y, width, height."), tools);
    return box;
  }

  const show = () => {
    const given = props.value ?? [];
    if (JSON.stringify(given) === JSON.stringify(passes)) return;
    passes = JSON.parse(JSON.stringify(given));
    draw();
  };
  watch("value", () => {
    show();
    send.change();
  });
  show();
}

/** A number that may be left empty, which is null. */
function openNumber(value, onchange, given) {
  const made = element("input", "", "", { type: "number", ...given });
  made.value = value ?? "";
  made.addEventListener("change", () => onchange(Number.isFinite(made.valueAsNumber) ? made.valueAsNumber : null));
  return made;
}
