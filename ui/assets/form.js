// The form as a whole: this browser keeps what was typed, and texts from elsewhere fill it.

import { sentRows } from "./adapter_value.js";

const KEY = "emulsion.txt2img";
const PAUSE_MS = 300;
let timer = 0;
const watchers = new Set();
let current = null; // values by name
let unsaved = null;
let sendText = null;

export function mount({ send, watch }) {
  sendText = (text) => send.pasted({ text });
  watch("value", () => (document.body.dataset.form = "open")); // the server has brought back what was kept
  send.opened({ values: kept() });
}

/** Fill the form from an infotext. */
export const fillForm = (text) => sendText?.(text);

/** Call `watcher` with the values by name at every change. */
export function watchForm(watcher) {
  watchers.add(watcher);
  if (current) watcher(current);
}

/** What the values ask for: what is empty is left out, and so are LoRAs that are switched off. */
export function requestOf(values) {
  const isGiven = ([, value]) => value !== null && value !== undefined && value !== "";
  const asked = Object.fromEntries(Object.entries(values).filter(isGiven));
  return { ...asked, adapters: sentRows(values.adapters) };
}

/** Remember the values of the fields called `names`, once they rest. */
export function keep(names, ...values) {
  current = Object.fromEntries(names.map((name, index) => [name, values[index]]));
  for (const watcher of watchers) watcher(current);
  if (document.body.dataset.form !== "open") return;
  unsaved = current;
  clearTimeout(timer);
  timer = setTimeout(save, PAUSE_MS);
}

function save() {
  if (unsaved) localStorage.setItem(KEY, JSON.stringify(unsaved));
  unsaved = null;
}

addEventListener("pagehide", save);

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
