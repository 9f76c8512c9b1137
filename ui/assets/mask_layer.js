// The pixels of a layer at the full size of its picture: {width, height, channels, data, version}.
// Rectangles are {left, top, right, bottom} in pixels; right and bottom are outside.

export const TILE = 256; // pixels, of the squares that are kept for undo

export const makeLayer = (width, height, channels) => ({
  width,
  height,
  channels,
  data: new Uint8Array(width * height * channels),
  version: 0, // grows with every change
});

export const whole = ({ width, height }) => ({ left: 0, top: 0, right: width, bottom: height });
export const isEmpty = (rect) => !rect || rect.left >= rect.right || rect.top >= rect.bottom;

/** The part of `rect` that lies in something of this size, in whole pixels. */
export const clipped = (rect, { width, height }) => ({
  left: Math.max(0, Math.floor(rect.left)),
  top: Math.max(0, Math.floor(rect.top)),
  right: Math.min(width, Math.ceil(rect.right)),
  bottom: Math.min(height, Math.ceil(rect.bottom)),
});

export const widened = (rect, by) => ({ left: rect.left - by, top: rect.top - by, right: rect.right + by, bottom: rect.bottom + by });

/** The smallest rectangle around two, of which either may be null. */
export function joined(one, other) {
  if (isEmpty(one)) return other;
  if (isEmpty(other)) return one;
  return {
    left: Math.min(one.left, other.left),
    top: Math.min(one.top, other.top),
    right: Math.max(one.right, other.right),
    bottom: Math.max(one.bottom, other.bottom),
  };
}

/** The smallest rectangle around what is not 0 (in layers of colours: not transparent), or null. */
export function boundsOf({ width, height, channels, data }) {
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0; y < height; y++) {
    const start = y * width * channels + channels - 1;
    let first = 0;
    while (first < width && data[start + first * channels] === 0) first++;
    if (first === width) continue;
    let last = width - 1;
    while (data[start + last * channels] === 0) last--;
    left = Math.min(left, first);
    right = Math.max(right, last + 1);
    top = Math.min(top, y);
    bottom = y + 1;
  }
  return right > left ? { left, top, right, bottom } : null;
}

/** The mean of a layer of one channel, from 0 to 1. */
export function meanOf({ data }) {
  let sum = 0;
  for (let at = 0; at < data.length; at++) sum += data[at];
  return data.length ? sum / data.length / 255 : 0;
}

/** A copy of a rectangle, row by row. */
export function cutOut({ width, channels, data }, { left, top, right, bottom }) {
  const row = (right - left) * channels;
  const cut = new Uint8Array(row * (bottom - top));
  for (let y = top; y < bottom; y++) {
    const from = (y * width + left) * channels;
    cut.set(data.subarray(from, from + row), (y - top) * row);
  }
  return cut;
}

/** Put back what `cutOut` gave, or one number everywhere. */
export function putBack({ width, channels, data }, { left, top, right, bottom }, pixels) {
  const row = (right - left) * channels;
  for (let y = top; y < bottom; y++) {
    const to = (y * width + left) * channels;
    if (typeof pixels === "number") data.fill(pixels, to, to + row);
    else data.set(pixels.subarray((y - top) * row, (y - top + 1) * row), to);
  }
}

/** The tiles that a rectangle touches: [number, rectangle] each. */
export function tilesIn(rect, layer) {
  const across = Math.ceil(layer.width / TILE);
  const inside = clipped(rect, layer);
  const found = [];
  if (isEmpty(inside)) return found;
  for (let row = Math.floor(inside.top / TILE); row * TILE < inside.bottom; row++) {
    for (let column = Math.floor(inside.left / TILE); column * TILE < inside.right; column++) {
      const [left, top] = [column * TILE, row * TILE];
      found.push([row * across + column, clipped({ left, top, right: left + TILE, bottom: top + TILE }, layer)]);
    }
  }
  return found;
}
