// Which picture is looked at. Nothing picked means the newest thing there is: a preview while a job runs.

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

/** Seed of the picture on the stage as text, null when there is none. */
export function shownSeed() {
  if (!shown) return null;
  // The number has been through JSON, which rounds it above 2**53; the infotext has every digit.
  const exact = /(?:^|, )Seed: (\d+)/.exec(shown.infotext.split("\n").at(-1));
  return exact ? exact[1] : String(shown.seed);
}
