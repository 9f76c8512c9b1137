// Which form something belongs to: each of txt2img, img2img and inpaint has one, called like its tab.

const PREFIX = "em-form-"; // as ui/element_ids.py has it
export const FIRST_FORM = "txt2img";
export const PICTURE_FORMS = ["img2img", "inpaint"]; // which begin with a picture, on a canvas of their own
let last = FIRST_FORM;

/** Name of the form that an element is in, "" outside of all. */
export const formOf = (element) => element?.closest?.(`[id^='${PREFIX}']`)?.id.slice(PREFIX.length) ?? "";

/** The element of a form, null while its tab has not been opened. */
export const formElement = (name) => document.getElementById(`${PREFIX}${name}`);

/** The form that can be seen, or the one that was used last. */
export function currentForm() {
  const shown = [...document.querySelectorAll(`[id^='${PREFIX}']`)].find((form) => form.offsetParent !== null);
  last = formOf(shown) || last;
  return last;
}

/** The form that can be seen when it begins with a picture, else "". */
export const pictureForm = () => PICTURE_FORMS.find((name) => formElement(name)?.offsetParent) ?? "";

/** An element of a form, such as ("box", "prompt"): see ui/element_ids.py. */
export const elementIn = (kind, name, form = currentForm()) =>
  document.getElementById([kind, ...(form === FIRST_FORM ? [] : [form]), name].join("-"));

/** The canvas of a form that begins with a picture, as mask_canvas.js knows it. */
export const canvasId = (form) => `canvas-${form}`;

/** What is on the canvas of a form, out of the form's values; {} for an empty one. */
export const canvasIn = (values) => JSON.parse(values?.init || "{}");

document.addEventListener("focusin", ({ target }) => (last = formOf(target) || last));
