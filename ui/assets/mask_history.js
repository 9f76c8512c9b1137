// Undo and redo within bounded memory: of a change of pixels only the tiles that it touched are kept.

import { cutOut, joined, putBack, tilesIn } from "./mask_layer.js";

const MAX_BYTES = 192 * 2 ** 20;
const MAX_STEPS = 200;

/** A step is {label, bytes, swap}: `swap()` exchanges what was with what is, and gives the rectangle that changed. */
export function makeHistory({ maxBytes = MAX_BYTES, maxSteps = MAX_STEPS } = {}) {
  const done = [];
  const undone = [];
  const weight = (steps) => steps.reduce((sum, step) => sum + step.bytes, 0);

  function push(step) {
    undone.length = 0;
    done.push(step);
    while (done.length > 1 && (done.length > maxSteps || weight(done) > maxBytes)) done.shift();
  }

  function move(from, to) {
    const step = from.pop();
    if (!step) return null;
    const rect = step.swap();
    to.push(step);
    return { label: step.label, rect };
  }

  return {
    push,
    undo: () => move(done, undone),
    redo: () => move(undone, done),
    canUndo: () => done.length > 0,
    canRedo: () => undone.length > 0,
    bytes: () => weight(done) + weight(undone),
    clear: () => (done.length = undone.length = 0),
    record: (layer) => recording(layer, push),
  };
}

/** A change of `layer` that is under way: tiles are kept before they are touched. */
function recording(layer, push) {
  const tiles = new Map(); // number -> [rectangle, its pixels before]
  const swap = () => {
    let changed = null;
    for (const tile of tiles.values()) {
      const now = packed(cutOut(layer, tile[0]));
      putBack(layer, tile[0], tile[1]);
      tile[1] = now;
      changed = joined(changed, tile[0]);
    }
    layer.version++;
    return changed;
  };
  return {
    /** Keep what is in `rect`; to be called before it changes. */
    touch(rect) {
      for (const [number, tile] of tilesIn(rect, layer)) {
        if (!tiles.has(number)) tiles.set(number, [tile, packed(cutOut(layer, tile))]);
      }
    },
    /** What a tile was like: pixels, or a number that all of its bytes are. */
    before: (number) => tiles.get(number)[1],
    commit(label) {
      if (!tiles.size) return;
      let bytes = 0;
      for (const [, pixels] of tiles.values()) bytes += typeof pixels === "number" ? 8 : pixels.length;
      push({ label, bytes, swap });
    },
    cancel: swap,
  };
}

/** A number in place of pixels whose bytes are all the same. */
function packed(pixels) {
  const first = pixels[0];
  return pixels.every((value) => value === first) ? first : pixels;
}
