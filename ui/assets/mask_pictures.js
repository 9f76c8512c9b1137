// Pictures on their way: from files to something that can be drawn, from layers to stored files, and back.

import { encodePng } from "./grey_png.js";
import { makeLayer } from "./mask_layer.js";
import { address, ask } from "./server.js";

// Colours as the file has them: what is painted and saved must not pass through a profile of the screen.
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
const SMALLEST = 1024; // pixels on the longer side, of the smallest of the pictures that are made for small scales

/** A picture that will not come back. */
export class GoneError extends Error {}

export const storedUrl = (hash) => address(`api/v1/pictures/${encodeURIComponent(hash)}`);

/** Store a file as it is. Gives {sha256, width, height, has_alpha, url}. */
export const store = (blob) =>
  ask("api/v1/pictures", undefined, { method: "POST", body: blob, headers: { "Content-Type": blob.type || "application/octet-stream" } });

export const storeLayer = async (layer) => store(await encodePng(layer));

/** A stored file. */
export async function stored(hash) {
  const answer = await fetch(storedUrl(hash));
  if (answer.ok) return answer.blob();
  if (answer.status === 404) throw new GoneError(`the picture ${hash.slice(0, 12)} is not stored here any more. Open its file again.`);
  throw new Error(`the server answered ${answer.status} for the picture ${hash.slice(0, 12)}.`);
}

/** The picture in a file, turned as its EXIF data say. */
export async function decode(blob, name = "The file") {
  try {
    return await createImageBitmap(blob, AS_STORED);
  } catch {
    throw new Error(`${name} could not be read as a picture by this browser. Save it as PNG, JPEG or WebP.`);
  }
}

/** The picture, and smaller ones of which each has half the sides of the one before. */
export async function levelsOf(bitmap) {
  const levels = [bitmap];
  let [width, height] = [bitmap.width, bitmap.height];
  while (Math.max(width, height) > SMALLEST) {
    [width, height] = [Math.max(1, Math.round(width / 2)), Math.max(1, Math.round(height / 2))];
    levels.push(await createImageBitmap(levels.at(-1), { resizeWidth: width, resizeHeight: height, resizeQuality: "medium" }));
  }
  return levels;
}

/** RGBA bytes of a picture, brought to a size without smoothing if it has another. */
export function pixelsOf(bitmap, width = bitmap.width, height = bitmap.height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

/** A picture as a mask: what is opaque if it has transparent parts, else what is light. */
export function maskFrom(bitmap, width, height) {
  const pixels = pixelsOf(bitmap, width, height);
  const layer = makeLayer(width, height, 1);
  const hasAlpha = isTransparent(pixels);
  for (let at = 0; at < layer.data.length; at++) {
    const from = at * 4;
    const light = 0.299 * pixels[from] + 0.587 * pixels[from + 1] + 0.114 * pixels[from + 2];
    layer.data[at] = hasAlpha ? pixels[from + 3] : Math.round(light);
  }
  return layer;
}

export function paintFrom(bitmap, width, height) {
  const layer = makeLayer(width, height, 4);
  layer.data.set(pixelsOf(bitmap, width, height));
  return layer;
}

export function isTransparent(pixels) {
  for (let at = 3; at < pixels.length; at += 4) if (pixels[at] !== 255) return true;
  return false;
}

/** The picture with the paint on it, as a layer. Where nothing is painted its bytes stay. */
export function painted(bitmap, paint) {
  const below = pixelsOf(bitmap);
  const channels = isTransparent(below) ? 4 : 3;
  const layer = makeLayer(paint.width, paint.height, channels);
  for (let at = 0; at < paint.width * paint.height; at++) {
    const cover = paint.data[at * 4 + 3] / 255;
    const left = (below[at * 4 + 3] / 255) * (1 - cover);
    const alpha = cover + left;
    for (let channel = 0; channel < 3; channel++) {
      const was = below[at * 4 + channel];
      const mixed = cover === 0 ? was : (paint.data[at * 4 + channel] * cover + was * left) / alpha;
      layer.data[at * channels + channel] = Math.round(mixed);
    }
    if (channels === 4) layer.data[at * 4 + 3] = Math.round(alpha * 255);
  }
  return layer;
}
