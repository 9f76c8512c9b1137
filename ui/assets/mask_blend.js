// Ink on a layer: what it becomes where a stroke covers it, from what it was before the stroke.

import { clipped, tilesIn } from "./mask_layer.js";

/**
 * Blend `ink` into `layer` inside of `rect`, as much as `coverage` says.
 * before(tile): the pixels of a tile before the stroke, so that a stroke over itself adds nothing.
 * ink: {value} of a layer of one channel; {colour: [r, g, b], opacity, erases} of one of colours.
 */
export function blend(layer, coverage, rect, before, ink) {
  const mix = layer.channels === 1 ? mixGrey : mixColour;
  const inside = clipped(rect, layer);
  for (const [number, tile] of tilesIn(inside, layer)) {
    const part = {
      left: Math.max(inside.left, tile.left),
      top: Math.max(inside.top, tile.top),
      right: Math.min(inside.right, tile.right),
      bottom: Math.min(inside.bottom, tile.bottom),
    };
    mix(layer, coverage, part, tile, before(number), ink);
  }
  layer.version++;
}

function mixGrey({ data, width }, coverage, part, tile, old, { value }) {
  const across = tile.right - tile.left;
  const isEven = typeof old === "number";
  for (let y = part.top; y < part.bottom; y++) {
    let at = y * width + part.left;
    let from = (y - tile.top) * across + part.left - tile.left;
    for (let x = part.left; x < part.right; x++, at++, from++) {
      const cover = coverage.data[at];
      if (cover === 0) continue;
      const was = isEven ? old : old[from];
      data[at] = cover === 255 ? value : (was * (255 - cover) + value * cover + 127) / 255;
    }
  }
}

function mixColour({ data, width }, coverage, part, tile, old, { colour, opacity, erases }) {
  const across = tile.right - tile.left;
  const was = (index) => (typeof old === "number" ? old : old[index]);
  for (let y = part.top; y < part.bottom; y++) {
    for (let x = part.left; x < part.right; x++) {
      const at = y * width + x;
      const cover = (coverage.data[at] / 255) * opacity;
      if (cover === 0) continue;
      const from = ((y - tile.top) * across + x - tile.left) * 4;
      const left = (was(from + 3) / 255) * (1 - cover); // what stays of the old alpha
      const alpha = erases ? left : cover + left;
      data[at * 4 + 3] = Math.round(alpha * 255);
      for (let channel = 0; channel < 3; channel++) {
        const mixed = erases || alpha === 0 ? was(from + channel) : (colour[channel] * cover + was(from + channel) * left) / alpha;
        data[at * 4 + channel] = Math.round(mixed);
      }
    }
  }
}
