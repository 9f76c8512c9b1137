// Which picture is looked at. Nothing picked means the newest thing there is: a preview while a job runs.

import { seedOf } from "./exact_seed.js";

const watchers = new Set();
let picked = null; // address of a picture
let shown = null; // the picture on the stage

export const pickedUrl = () => picked;

export function watchSelection(watcher) {
  watchers.add(watcher);
}

export function pick(url) {
  picked = url;
  for (const watcher of watchers) watcher();
}

/** Look at the newest thing again, as when a job was just asked for. */
export const followNewest = () => pick(null);

/** Called with every picture that comes on the stage; null for none. */
export function setShown(picture) {
  shown = picture;
}

/** The picture on the stage, as jobs have it; null when there is none. */
export const shownPicture = () => shown;

/** Seed of the picture on the stage as text, null when there is none. */
export function shownSeed() {
  return shown && seedOf(shown);
}
