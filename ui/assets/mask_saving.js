// What is on a canvas becomes stored pictures, and the value of the component that names them; and back.

import { makeContent, NO_BORDERS, SIDES, hasBorders } from "./mask_document.js";
import { boundsOf } from "./mask_layer.js";
import { decode, levelsOf, maskFrom, painted, paintFrom, store, stored, storeLayer } from "./mask_pictures.js";

const PAUSE_MS = 250; // after the last stroke

/** changed(text) is told each new value; failed(error) what went wrong when nobody waited for it. */
export function makeSaving({ document: doc, changed, failed }) {
  let timer = 0;
  let running = null; // a promise
  let loading = Promise.resolve();
  let loads = 0;
  let isStale = false;
  let text = "";

  doc.watch(() => later());

  function later() {
    isStale = true;
    clearTimeout(timer);
    timer = setTimeout(() => settle().catch(failed), PAUSE_MS);
  }

  /** Store what is not stored yet. Gives the value, which then is what one sees. */
  async function flush() {
    await loading;
    return settle();
  }

  async function settle() {
    clearTimeout(timer);
    while (isStale || running) {
      running ??= save().finally(() => (running = null));
      await running;
    }
    return text;
  }

  async function save() {
    isStale = false;
    const { content } = doc;
    try {
      const next = content ? JSON.stringify(await namesOf(content)) : "";
      if (content !== doc.content) isStale = true;
      else if (!isStale) tell(next);
    } catch (error) {
      isStale = true; // it can be tried again
      throw error;
    }
  }

  async function namesOf(content) {
    content.hash ??= (await store(content.blob)).sha256;
    content.blob = null;
    const mask = await maskName(content);
    const { width, height } = content;
    const { paint, flat } = await paintNames(content);
    const borders = hasBorders(doc.borders) ? { ...doc.borders } : null;
    const names = { picture: flat ?? content.hash, mask, width, height, borders };
    return paint ? { ...names, base: content.hash, paint } : names;
  }

  function tell(next) {
    if (next === text) return;
    text = next;
    changed(text);
  }

  async function load(next, label) {
    const mine = ++loads;
    const given = next ? JSON.parse(next) : {};
    const content = given.picture ? await contentOf(given) : null;
    if (mine !== loads) return;
    doc.open(content, bordersOf(given.borders), label);
    await settle();
  }

  return {
    flush,
    get text() {
      return text;
    },
    /** Take over a value from elsewhere: its pictures are fetched. Of several at once the last one counts. */
    load(next, label = "") {
      const task = load(next, label);
      loading = task.catch(() => {}); // whoever asked is told
      return task;
    },
  };
}

/** The hash of the mask; null where nothing is masked. */
async function maskName(content) {
  const { mask, stored: names } = content;
  if (names.mask?.version !== mask.version) {
    const { version } = mask;
    names.mask = { version, hash: boundsOf(mask) ? (await storeLayer(mask)).sha256 : null };
  }
  return names.mask.hash;
}

/** The hashes of the colours and of the picture with them; of nothing where there are none. */
async function paintNames(content) {
  const { paint, stored: names } = content;
  if (!paint) return {};
  if (names.paint?.version !== paint.version) {
    const { version } = paint;
    if (!boundsOf(paint)) names.paint = { version };
    else {
      const flat = (await storeLayer(painted(content.bitmap, paint))).sha256;
      names.paint = { version, flat, paint: (await storeLayer(paint)).sha256 };
    }
  }
  return names.paint;
}

async function contentOf({ picture, mask, base, paint }) {
  const hash = base ?? picture;
  const blob = await stored(hash);
  const bitmap = await decode(blob, "The stored picture");
  const content = makeContent({ bitmap, levels: await levelsOf(bitmap), hash });
  if (mask) {
    content.mask = maskFrom(await decode(await stored(mask), "The stored mask"), bitmap.width, bitmap.height);
    content.stored.mask = { version: 0, hash: mask };
  }
  if (paint && base) {
    content.paint = paintFrom(await decode(await stored(paint), "The stored paint"), bitmap.width, bitmap.height);
    content.stored.paint = { version: 0, flat: picture, paint };
  }
  return content;
}

const bordersOf = (given) => (given ? Object.fromEntries(SIDES.map((side) => [side, Math.max(0, Math.round(given[side] ?? 0))])) : NO_BORDERS);
