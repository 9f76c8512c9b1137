// The forms as wholes: this browser keeps what was typed in each, and texts and pictures from elsewhere fill them.

import { sentRows } from "./adapter_value.js";
import { canvasId, canvasIn, currentForm, FIRST_FORM, formElement, PICTURE_FORMS } from "./form_scope.js";
import { setCanvas } from "./mask_canvas.js";
import { tellProblem } from "./messages.js";
import { receivePictures } from "./sent_pictures.js";
import { storePicture } from "./server.js";
import { turnTo } from "./tabs.js";

const PAUSE_MS = 300;
const SWITCHED = ["hires", "tiles"]; // parts of a request that a switch of the form turns on
const forms = new Map(); // by name

function stateOf(name) {
  if (!forms.has(name)) {
    const form = { name, watchers: new Set(), current: null, unsaved: null, timer: 0, send: null, isOpen: false };
    form.opened = new Promise((resolve) => (form.tellOpened = resolve));
    forms.set(name, form);
  }
  return forms.get(name);
}

export function mount({ element, props, send, watch }) {
  const form = stateOf(element.querySelector("[data-form]").dataset.form);
  form.send = send;
  watch("value", () => receive(form, props.value));
  send.opened({ values: kept(form.name) });
}

function receive(form, value) {
  if (value?.turn_to) fillForm(value.text, value.turn_to);
  if (value?.state !== "open" || form.isOpen) return;
  form.isOpen = true; // the server has brought back what was kept
  formElement(form.name).dataset.state = "open";
  if (form.name === FIRST_FORM) document.body.dataset.form = "open";
  form.tellOpened();
}

/** Fill a form from an infotext, or the form of another tab when the text is of its kind. */
export async function fillForm(text, name = currentForm()) {
  const form = await openForm(name);
  form.send.pasted({ text });
}

/** Put a picture into a form that begins with one. picture: a file, or the address of a picture that was made here. */
export async function givePicture(picture, name) {
  try {
    const { sha256 } = await storePicture(picture);
    await setCanvas(canvasId(name), { picture: sha256 });
  } catch (error) {
    tellProblem(`The picture could not be used: ${error.message}`);
  }
}

for (const name of PICTURE_FORMS) receivePictures(name, (url) => givePicture(url, name));

/** The form, once its tab is there and has been brought back. */
async function openForm(name) {
  if (!formElement(name)?.offsetParent) await turnTo(name);
  const form = stateOf(name);
  await form.opened;
  return form;
}

/** Call `watcher` with the values of a form by name at every change. */
export function watchForm(watcher, name = FIRST_FORM) {
  const form = stateOf(name);
  form.watchers.add(watcher);
  if (form.current) watcher(form.current);
}

/** The values of a form as they are now; null while it has not been opened. */
export const formValues = (name = currentForm()) => stateOf(name).current;

const isGiven = (value) => value !== null && value !== undefined && value !== "";
const inside = (part, values) =>
  Object.fromEntries(
    Object.entries(values)
      .map(([name, value]) => [name.split("."), value])
      .filter(([path]) => path.slice(0, -1).join(".") === part)
      .map(([path, value]) => [path.at(-1), value]),
  );

/**
 * What the values ask for (see ui/binding.py): what is empty is left out, and so are LoRAs and parts that are switched
 * off.
 */
export function requestOf(values) {
  const given = Object.fromEntries(Object.entries(values).filter(([, value]) => isGiven(value)));
  const asked = { ...inside("", given), adapters: sentRows(values.adapters) };
  delete asked.init;
  if (Number.isSafeInteger(Number(asked.seed))) asked.seed = Number(asked.seed); // larger ones stay text, which the server refuses
  if (typeof asked.recipe === "string") asked.recipe = readRecipe(asked.recipe);
  if ("detailers" in asked) asked.detailers = asked.detailers.filter((one) => one.is_on !== false);
  if (given.init) asked.init = initOf(given);
  for (const part of SWITCHED) if (given[`${part}.is_on`]) asked[part] = partOf(part, given);
  return asked;
}

/** A recipe as it was typed; as text where it is no JSON, which the server tells. */
function readRecipe(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

export function partOf(part, values) {
  const { is_on: _, ...fields } = inside(part, Object.fromEntries(Object.entries(values).filter(([, value]) => isGiven(value))));
  return fields;
}

function initOf(given) {
  const { picture, mask, borders } = canvasIn(given);
  const [aboutMask, aboutBorders] = [inside("init.mask", given), inside("init.borders", given)];
  const hasMasks = Object.keys(aboutMask).length > 0;
  return {
    ...inside("init", given),
    picture,
    mask: mask && hasMasks ? { ...aboutMask, picture: mask } : null,
    borders: borders && hasMasks ? { ...aboutBorders, ...borders } : null,
  };
}

/** Remember the values of the fields called `names` of a form, once they rest. */
export function keep(name, names, ...values) {
  const form = stateOf(name);
  form.current = Object.fromEntries(names.map((field, index) => [field, values[index]]));
  for (const watcher of form.watchers) watcher(form.current);
  if (!form.isOpen) return;
  form.unsaved = form.current;
  clearTimeout(form.timer);
  form.timer = setTimeout(() => save(form), PAUSE_MS);
}

function save(form) {
  if (form.unsaved) localStorage.setItem(keyOf(form.name), JSON.stringify(form.unsaved));
  form.unsaved = null;
}

addEventListener("pagehide", () => forms.forEach(save));

const keyOf = (name) => `emulsion.${name}`;

function kept(name) {
  try {
    return JSON.parse(localStorage.getItem(keyOf(name))) ?? {};
  } catch {
    return {};
  }
}
