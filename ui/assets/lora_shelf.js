// What the server knows of LoRAs, asked for once and shared by all rows of the page.

import { ask } from "./server.js";

let known = [];
const watchers = new Set();
const answers = new Map(); // promises by address

export const lorasKnown = () => known;
export const loraNamed = (name) => known.find((lora) => lora.name === name);

/** Call `watcher` whenever the list was read. */
export function watchLoras(watcher) {
  watchers.add(watcher);
}

/** Read the list again. The page says at its top when the server does not answer. */
export async function readLoras() {
  try {
    known = (await ask("api/v1/loras")).loras;
  } catch {
    return;
  }
  for (const watcher of watchers) watcher();
}

/** An answer that stays the same for as long as the page is open; one that failed is asked for again. */
function once(path) {
  if (!answers.has(path)) {
    const answer = ask(path);
    answer.catch(() => answers.delete(path));
    answers.set(path, answer);
  }
  return answers.get(path);
}

const query = (values) => new URLSearchParams(values).toString();

export const layoutFor = (checkpoint) => once(`api/v1/merge/layout?${query({ checkpoint })}`);
export const presetsFor = (checkpoint) => once(`api/v1/loras/block-presets?${query({ checkpoint })}`);
export const reportOf = (name, checkpoint) => once(`api/v1/loras/report?${query({ name, checkpoint })}`);
