// Changes to the whole of a mask: inverted, grown, shrunk, feathered. Each gives the rectangle that changed.

import { boundsOf, clipped, cutOut, putBack, whole, widened } from "./mask_layer.js";

const BLOCK = 32; // pixels, of the squares that are transposed at once
const EIGHTH = 1 / (2 + Math.SQRT2); // share of an octagon's reach that each of its slanted sides has

export function invert(layer) {
  const { data } = layer;
  for (let at = 0; at < data.length; at++) data[at] = 255 - data[at];
  return whole(layer);
}

/** Every pixel becomes the largest within `reach` pixels: an octagon, exact along both axes. */
export const grow = (layer, reach) => around(layer, reach, (pixels, size) => dilated(pixels, size, reach));

/** Every pixel becomes the smallest around it. What lies beyond the picture's edge takes nothing away. */
export const shrink = (layer, reach) =>
  around(layer, reach, (pixels, size) => {
    negate(pixels);
    dilated(pixels, size, reach);
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

/** With room around, since the way from one pixel to another may lead over the picture's edge. */
function dilated(pixels, { width, height }, reach) {
  const size = { width: width + 2 * reach, height: height + 2 * reach };
  const rect = { left: reach, top: reach, right: reach + width, bottom: reach + height };
  const wide = { ...size, channels: 1, data: new Uint8Array(size.width * size.height) };
  putBack(wide, rect, pixels);
  dilate(wide.data, size, reach);
  pixels.set(cutOut(wide, rect));
}

/** An octagon is a square made larger by two diagonals, and each of the four is a maximum along lines. */
function dilate(pixels, { width, height }, reach) {
  const slant = Math.min(Math.round(reach * EIGHTH), Math.floor((reach - 1) / 2));
  const straight = reach - 2 * slant;
  alongBoth(pixels, { width, height }, (values, across, down) => {
    const line = largestAlong(values, across);
    for (let y = 0; y < down; y++) line(y * across, 1, across, straight);
  });
  if (!slant) return;
  const line = largestAlong(pixels, Math.max(width, height));
  for (const [x, y] of rim(width, height)) line(y * width + x, width + 1, Math.min(width - x, height - y), slant);
  for (const [x, y] of rim(width, height)) line(y * width + (width - 1 - x), width - 1, Math.min(width - x, height - y), slant);
}

/** Change all rows, and then all columns as rows of the transposed pixels, which lie next to each other in memory. */
function alongBoth(pixels, { width, height }, changeRows) {
  changeRows(pixels, width, height);
  const turned = transposed(pixels, width, height);
  changeRows(turned, height, width);
  pixels.set(transposed(turned, height, width));
}

function transposed(pixels, width, height) {
  const turned = new pixels.constructor(pixels.length);
  for (let top = 0; top < height; top += BLOCK) {
    for (let left = 0; left < width; left += BLOCK) {
      const [bottom, right] = [Math.min(height, top + BLOCK), Math.min(width, left + BLOCK)];
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) turned[x * height + y] = pixels[y * width + x];
    }
  }
  return turned;
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
function smooth(pixels, size, reach) {
  const third = Math.floor(reach / 3);
  const halves = [third, third, reach - 2 * third].filter((half) => half > 0);
  const values = new Uint16Array(pixels.length);
  for (let at = 0; at < pixels.length; at++) values[at] = pixels[at] * 256;
  alongBoth(values, size, (rows, across, down) => {
    const line = new Uint16Array(across + 2 * reach); // with its ends continued
    for (const half of halves) for (let y = 0; y < down; y++) meanAlong(rows, y * across, across, half, line);
  });
  for (let at = 0; at < pixels.length; at++) pixels[at] = Math.min(255, Math.round(values[at] / 256));
}

function meanAlong(values, start, count, half, line) {
  line.fill(values[start], 0, half);
  line.set(values.subarray(start, start + count), half);
  line.fill(values[start + count - 1], half + count, count + 2 * half);
  const size = 2 * half + 1;
  let sum = 0;
  for (let i = 0; i < size - 1; i++) sum += line[i];
  for (let i = 0; i < count; i++) {
    sum += line[i + size - 1];
    values[start + i] = Math.round(sum / size);
    sum -= line[i];
  }
}
