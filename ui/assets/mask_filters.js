// Changes to the whole of a mask: inverted, grown, shrunk, feathered. Each gives the rectangle that changed.

import { boundsOf, clipped, cutOut, putBack, whole, widened } from "./mask_layer.js";

const EIGHTH = 1 / (2 + Math.SQRT2); // share of an octagon's reach that each of its slanted sides has

export function invert(layer) {
  const { data } = layer;
  for (let at = 0; at < data.length; at++) data[at] = 255 - data[at];
  return whole(layer);
}

/** Every pixel becomes the largest within `reach` pixels: an octagon, exact along both axes. */
export const grow = (layer, reach) => around(layer, reach, (pixels, size) => dilate(pixels, size, reach));

/** Every pixel becomes the smallest around it. What lies beyond the picture's edge takes nothing away. */
export const shrink = (layer, reach) =>
  around(layer, reach, (pixels, size) => {
    negate(pixels);
    dilate(pixels, size, reach);
    negate(pixels);
  });

/** Edges become slopes that reach this far to both sides. */
export const feather = (layer, reach) => around(layer, reach, (pixels, size) => smooth(pixels, size, reach));

/** The rectangle that a change reaching this far can touch, or null where there is nothing. */
export function touched(layer, reach) {
  const bounds = boundsOf(layer);
  return bounds && clipped(widened(bounds, reach + 1), layer);
}

function around(layer, reach, change) {
  const rect = touched(layer, reach);
  if (!rect || reach < 1) return null;
  const pixels = cutOut(layer, rect);
  change(pixels, { width: rect.right - rect.left, height: rect.bottom - rect.top });
  putBack(layer, rect, pixels);
  return rect;
}

function negate(pixels) {
  for (let at = 0; at < pixels.length; at++) pixels[at] = 255 - pixels[at];
}

/** An octagon is a square made larger by two diagonals, and each of the four is a maximum along lines. */
function dilate(pixels, { width, height }, reach) {
  const slant = Math.min(Math.round(reach * EIGHTH), Math.floor((reach - 1) / 2));
  const straight = reach - 2 * slant;
  const line = largestAlong(pixels, Math.max(width, height));
  for (let y = 0; y < height; y++) line(y * width, 1, width, straight);
  for (let x = 0; x < width; x++) line(x, width, height, straight);
  if (!slant) return;
  for (const [x, y] of rim(width, height)) {
    line(y * width + x, width + 1, Math.min(width - x, height - y), slant);
  }
  for (const [x, y] of rim(width, height)) {
    line(y * width + (width - 1 - x), width - 1, Math.min(width - x, height - y), slant);
  }
}

/** Where diagonals begin: the first row, and the first column below it. */
function* rim(width, height) {
  for (let x = 0; x < width; x++) yield [x, 0];
  for (let y = 1; y < height; y++) yield [0, y];
}

/** Replaces pixels of a line by the largest within `half` of them, in three comparisons each (van Herk, 1992). */
function largestAlong(pixels, longest) {
  const values = new Uint8Array(longest);
  const forward = new Uint8Array(longest);
  const backward = new Uint8Array(longest);
  return (start, stride, count, half) => {
    const size = 2 * half + 1;
    for (let i = 0; i < count; i++) {
      const value = (values[i] = pixels[start + i * stride]);
      forward[i] = i % size === 0 ? value : Math.max(value, forward[i - 1]);
    }
    for (let i = count - 1; i >= 0; i--) {
      const isLast = i === count - 1 || (i + 1) % size === 0;
      backward[i] = isLast ? values[i] : Math.max(values[i], backward[i + 1]);
    }
    for (let i = 0; i < count; i++) {
      const from = i - half;
      const to = Math.min(count - 1, i + half);
      // At the ends of the line one of the two runs would reach too far.
      if (from < 0) pixels[start + i * stride] = forward[to];
      else if (Math.floor(from / size) === Math.floor(to / size)) pixels[start + i * stride] = backward[from];
      else pixels[start + i * stride] = Math.max(backward[from], forward[to]);
    }
  };
}

/** Three running means, which come close to a Gaussian. */
function smooth(pixels, { width, height }, reach) {
  const values = Uint16Array.from(pixels, (value) => value * 256);
  const third = Math.floor(reach / 3);
  for (const half of [third, third, reach - 2 * third].filter((half) => half > 0)) {
    for (let y = 0; y < height; y++) meanAlong(values, y * width, 1, width, half);
    for (let x = 0; x < width; x++) meanAlong(values, x, width, height, half);
  }
  for (let at = 0; at < pixels.length; at++) pixels[at] = Math.min(255, Math.round(values[at] / 256));
}

function meanAlong(values, start, stride, count, half) {
  const line = new Uint16Array(count);
  for (let i = 0; i < count; i++) line[i] = values[start + i * stride];
  const at = (i) => line[Math.min(count - 1, Math.max(0, i))];
  let sum = 0;
  for (let i = -half; i <= half; i++) sum += at(i);
  for (let i = 0; i < count; i++) {
    values[start + i * stride] = Math.round(sum / (2 * half + 1));
    sum += at(i + half + 1) - at(i - half);
  }
}
