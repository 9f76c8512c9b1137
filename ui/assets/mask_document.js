// What is edited: a picture, its mask, the colours painted on it, and new borders around it. All changes can be undone.

import { coverPolygon, coverRectangle, coverStroke, uncover } from "./mask_brush.js";
import { blend } from "./mask_blend.js";
import { makeHistory } from "./mask_history.js";
import { joined, makeLayer, whole } from "./mask_layer.js";

export const SIDES = ["left", "top", "right", "bottom"];
export const NO_BORDERS = Object.freeze({ left: 0, top: 0, right: 0, bottom: 0 });
export const MAX_BORDER = 4096;
export const hasBorders = (borders) => SIDES.some((side) => borders[side] > 0);

/**
 * A picture that can be edited. blob: its file; hash: its name in the store, null until it is there.
 * stored: which version of a layer is in the store, and under which names.
 */
export function makeContent({ bitmap, levels, blob = null, hash = null, mask = null, paint = null }) {
  const { width, height } = bitmap;
  return { bitmap, levels, width, height, blob, hash, mask: mask ?? makeLayer(width, height, 1), paint, stored: { mask: null, paint: null } };
}

/** `watch(watcher)`: called with {kind: "picture" | "pixels" | "borders", rect} after every change. */
export function makeDocument() {
  const history = makeHistory();
  const watchers = new Set();
  let content = null;
  let borders = NO_BORDERS;
  let coverage = null; // of the stroke that is under way; empty in between
  let stroke = null;

  const tell = (kind, rect = null) => watchers.forEach((watcher) => watcher({ kind, rect }));

  function exchange(next, nextBorders) {
    const before = [content, borders];
    [content, borders] = [next, nextBorders];
    if (coverage?.width !== content?.width || coverage?.height !== content?.height) coverage = null;
    return before;
  }

  /** Another picture, or null for none; `label` makes it a step that can be undone. */
  function open(next, nextBorders = NO_BORDERS, label = "") {
    stroke?.cancel();
    let other = exchange(next, nextBorders);
    const swap = () => {
      other = exchange(...other);
      tell("picture");
      return null;
    };
    if (label && other[0]) history.push({ label, bytes: sizeOf(other[0]), swap });
    tell("picture");
  }

  /** `isOne`: goes together with the changes before it, as while a border is dragged. */
  function setBorders(next, label = "Borders") {
    let other = borders;
    if (SIDES.every((side) => next[side] === borders[side])) return;
    borders = { ...next };
    if (label) {
      const swap = () => {
        [borders, other] = [other, borders];
        tell("borders");
        return null;
      };
      history.push({ label, bytes: 64, swap });
    }
    tell("borders");
  }

  const layerOf = (kind) => (kind === "mask" ? content.mask : (content.paint ??= makeLayer(content.width, content.height, 4)));

  /** Begin a stroke on a layer ("mask" or "paint"). Its `cover...` may be called any number of times before the end. */
  function begin(kind, ink) {
    stroke?.cancel();
    const layer = layerOf(kind);
    const step = history.record(layer);
    coverage ??= makeLayer(content.width, content.height, 1);
    let touched = null;
    const lay = (rect) => {
      if (!rect) return;
      touched = joined(touched, rect);
      step.touch(rect);
      blend(layer, coverage, rect, step.before, ink);
      tell("pixels", rect);
    };
    const end = () => {
      if (touched) uncover(coverage, touched);
      stroke = null;
    };
    stroke = {
      coverStroke: (from, to, hardness) => lay(coverStroke(coverage, from, to, hardness)),
      coverPolygon: (points) => lay(coverPolygon(coverage, points)),
      coverRectangle: (rect) => lay(coverRectangle(coverage, rect)),
      commit(label) {
        end();
        step.commit(label);
        tell("pixels", touched);
      },
      cancel() {
        end();
        tell("pixels", step.cancel());
      },
    };
    return stroke;
  }

  /** Change a whole layer by a function that gives the rectangle it changed; `reach` says where it may write. */
  function apply(kind, label, change, rect) {
    stroke?.cancel();
    const layer = layerOf(kind);
    const step = history.record(layer);
    step.touch(rect ?? whole(layer));
    const changed = change(layer);
    if (!changed) return false;
    layer.version++;
    step.commit(label);
    tell("pixels", changed);
    return true;
  }

  function step(move) {
    stroke?.cancel();
    const done = move();
    if (done?.rect) tell("pixels", done.rect);
    return done?.label ?? "";
  }

  return {
    watch: (watcher) => {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
    get content() {
      return content;
    },
    get borders() {
      return borders;
    },
    get isDrawing() {
      return stroke !== null;
    },
    open,
    setBorders,
    begin,
    apply,
    undo: () => step(history.undo),
    redo: () => step(history.redo),
    canUndo: history.canUndo,
    canRedo: history.canRedo,
  };
}

const sizeOf = ({ width, height, paint }) => width * height * (paint ? 9 : 5);
