// Generate waits until what was painted last is stored.

import { canvasId, formOf, PICTURE_FORMS } from "./form_scope.js";
import { flush } from "./mask_canvas.js";
import { tellProblem } from "./messages.js";

document.addEventListener(
  "click",
  async (event) => {
    const button = event.target.closest?.("button.em-generate");
    const form = formOf(button);
    if (!button || !PICTURE_FORMS.includes(form) || button.dataset.isFlushed) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    try {
      await flush(canvasId(form));
      await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))); // Gradio takes it over
      button.dataset.isFlushed = "yes";
      button.click();
    } catch (error) {
      tellProblem(`The picture could not be saved: ${error.message}`);
    } finally {
      delete button.dataset.isFlushed;
    }
  },
  true,
);
