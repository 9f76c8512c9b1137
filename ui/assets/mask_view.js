// A canvas as it is seen: moved, zoomed, the mask in a colour above the picture. After a stroke only the part of the
// screen that it touched is drawn again, straight from the layer, so that the size of the picture does not matter.

import { element } from "./elements.js";
import { hasBorders } from "./mask_document.js";
import { clipped, isEmpty, joined, widened } from "./mask_layer.js";

const [MIN_SCALE, MAX_SCALE] = [1 / 64, 64]; // screen pixels for a pixel of the picture
const MARGIN = 12; // around a picture that fits, in CSS pixels
const MAX_RATIO = 2;
const MAX_SAMPLES = 3; // along each axis, of the layer for one pixel of the screen
const SQUARE = 8; // of the chequerboard behind transparent pictures, in CSS pixels

/** look: {tint: [r, g, b], opacity, isShown}, read at every drawing. moved(): the place or scale has changed. */
export function makeView({ stage, document: doc, look, moved }) {
  const below = element("canvas", "em-canvas-layer", "", { "aria-hidden": "true" });
  const above = element("canvas", "em-canvas-layer", "", { "aria-hidden": "true" });
  stage.prepend(below, above);
  const [picture, overlay] = [below.getContext("2d"), above.getContext("2d")];
  let ratio = 1; // device pixels for a CSS pixel
  let scale = 1; // device pixels for a pixel of the picture
  let [originX, originY] = [0, 0]; // of the picture, in device pixels
  let isFitted = true;
  let frame = 0;
  let isPictureStale = true;
  let dirty = null; // in pixels of the picture; "all" for everything

  const size = () => ({ width: below.width, height: below.height });

  /** The picture with its new borders, in its own pixels. */
  function extent() {
    const { width, height } = doc.content;
    const { left, top, right, bottom } = doc.borders;
    return { left: -left, top: -top, right: width + right, bottom: height + bottom };
  }

  function resize() {
    const { clientWidth, clientHeight } = stage;
    if (!clientWidth || !clientHeight) return; // in a closed tab
    ratio = Math.min(MAX_RATIO, devicePixelRatio || 1);
    const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
    if (width !== below.width || height !== below.height) {
      [originX, originY] = [originX + (width - below.width) / 2, originY + (height - below.height) / 2];
      for (const canvas of [below, above]) [canvas.width, canvas.height] = [width, height];
    }
    if (isFitted) fit();
    else redraw();
  }

  function fit() {
    if (!doc.content) return redraw();
    const { left, top, right, bottom } = extent();
    const { width, height } = size();
    const room = MARGIN * 2 * ratio;
    isFitted = true;
    scale = limited(Math.min((width - room) / (right - left), (height - room) / (bottom - top), 8 * ratio));
    originX = (width - (right - left) * scale) / 2 - left * scale;
    originY = (height - (bottom - top) * scale) / 2 - top * scale;
    redraw();
  }

  /** Change the scale; what is at (x, y) in CSS pixels of the stage stays there. */
  function zoomTo(next, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const by = limited(next) / scale;
    originX = x * ratio - (x * ratio - originX) * by;
    originY = y * ratio - (y * ratio - originY) * by;
    scale = limited(next);
    keepInSight();
    redraw();
  }

  function panBy(x, y) {
    originX += x * ratio;
    originY += y * ratio;
    keepInSight();
    redraw();
  }

  /** A corner of the picture stays on the stage, so that it cannot be lost. */
  function keepInSight() {
    isFitted = false;
    const { left, top, right, bottom } = extent();
    const { width, height } = size();
    const edge = 48 * ratio;
    originX = Math.min(width - edge - left * scale, Math.max(edge - right * scale, originX));
    originY = Math.min(height - edge - top * scale, Math.max(edge - bottom * scale, originY));
  }

  function redraw() {
    isPictureStale = true;
    dirty = "all";
    schedule();
    moved();
  }

  function schedule() {
    frame ||= requestAnimationFrame(draw);
  }

  function draw() {
    frame = 0;
    if (isPictureStale) drawPicture();
    if (dirty) drawLayers(dirty === "all" ? null : dirty);
    isPictureStale = false;
    dirty = null;
  }

  function drawPicture() {
    picture.clearRect(0, 0, below.width, below.height);
    const { content } = doc;
    if (!content) return;
    if (hasBorders(doc.borders)) drawBorders();
    const [left, top, right, bottom] = [originX, originY, originX + content.width * scale, originY + content.height * scale].map(Math.round);
    picture.fillStyle = chequers();
    picture.fillRect(left, top, right - left, bottom - top);
    const level = content.levels.findLast((one) => one.width >= content.width * scale) ?? content.levels[0];
    picture.imageSmoothingEnabled = scale < 2 * ratio;
    picture.imageSmoothingQuality = "medium";
    picture.drawImage(level, left, top, right - left, bottom - top);
  }

  function drawBorders() {
    const { left, top, right, bottom } = extent();
    const box = [originX + left * scale, originY + top * scale, (right - left) * scale, (bottom - top) * scale];
    const style = getComputedStyle(stage);
    picture.fillStyle = stripes(style.getPropertyValue("--em-raised"), style.getPropertyValue("--em-line-strong"));
    picture.fillRect(...box);
    picture.strokeStyle = style.getPropertyValue("--em-accent");
    picture.lineWidth = ratio;
    picture.setLineDash([6 * ratio, 4 * ratio]);
    picture.strokeRect(...box);
    picture.setLineDash([]);
  }

  const chequers = () => pattern(2 * SQUARE * ratio, (tile, side) => {
    tile.fillStyle = "#8b857c";
    tile.fillRect(0, 0, side, side);
    tile.fillStyle = "#a7a197";
    tile.fillRect(0, 0, side / 2, side / 2);
    tile.fillRect(side / 2, side / 2, side / 2, side / 2);
  });

  const stripes = (ground, line) => pattern(10 * ratio, (tile, side) => {
    tile.fillStyle = ground;
    tile.fillRect(0, 0, side, side);
    tile.strokeStyle = line;
    tile.lineWidth = ratio;
    for (const shift of [-side, 0, side]) {
      tile.moveTo(shift, side);
      tile.lineTo(shift + side, 0);
    }
    tile.stroke();
  });

  function pattern(side, paint) {
    const tile = new OffscreenCanvas(Math.round(side), Math.round(side));
    paint(tile.getContext("2d"), Math.round(side));
    return picture.createPattern(tile, "repeat");
  }

  /** The layers in a rectangle of the picture, or in all of the stage. */
  function drawLayers(rect) {
    const { content } = doc;
    if (!content) return overlay.clearRect(0, 0, above.width, above.height);
    const { left, top, right, bottom } = rect ?? { left: 0, top: 0, right: content.width, bottom: content.height };
    const place = { left: originX + left * scale, top: originY + top * scale, right: originX + right * scale, bottom: originY + bottom * scale };
    const seen = clipped(widened(place, 1), size());
    if (!rect) overlay.clearRect(0, 0, above.width, above.height);
    if (isEmpty(seen)) return;
    const image = overlay.createImageData(seen.right - seen.left, seen.bottom - seen.top);
    const placement = { left: originX - seen.left, top: originY - seen.top, scale };
    if (content.paint) paintInto(image, content.paint, placement);
    if (look.isShown) tintInto(image, content.mask, placement, look);
    overlay.putImageData(image, seen.left, seen.top);
  }

  doc.watch(({ kind, rect }) => {
    if (kind === "picture") return fit();
    if (kind === "borders") return isFitted && !stage.dataset.dragging ? fit() : redraw();
    if (rect && dirty !== "all") dirty = joined(dirty, rect);
    if (rect) schedule();
  });
  new ResizeObserver(resize).observe(stage);
  resize();

  return {
    fit,
    redraw,
    panBy,
    actualSize: () => zoomTo(1),
    zoomBy: (factor, x, y) => zoomTo(scale * factor, x, y),
    /** The place in the picture of a place in the window. */
    toPicture(clientX, clientY) {
      const box = stage.getBoundingClientRect();
      return { x: ((clientX - box.left - stage.clientLeft) * ratio - originX) / scale, y: ((clientY - box.top - stage.clientTop) * ratio - originY) / scale };
    },
    /** The place on the stage, in CSS pixels, of a place in the picture. */
    toStage: ({ x, y }) => ({ x: (originX + x * scale) / ratio, y: (originY + y * scale) / ratio }),
    /** CSS pixels for a pixel of the picture. */
    get cssScale() {
      return scale / ratio;
    },
    /** Device pixels for a pixel of the picture: 1 is the picture's own size. */
    get scale() {
      return scale;
    },
  };
}

const limited = (scale) => Math.min(MAX_SCALE, Math.max(MIN_SCALE, scale));

/** For each of `count` pixels of the screen, `samples` places in the layer; -1 beside it. */
function placesAlong(count, samples, origin, scale, length) {
  const places = new Int32Array(count * samples);
  for (let at = 0; at < places.length; at++) {
    const place = Math.floor(((at + 0.5) / samples - origin) / scale);
    places[at] = place >= 0 && place < length ? place : -1;
  }
  return places;
}

/** The mask in one colour, above what is in `image` already. */
function tintInto(image, mask, { left, top, scale }, { tint, opacity }) {
  const samples = Math.min(MAX_SAMPLES, Math.max(1, Math.ceil(1 / scale)));
  const columns = placesAlong(image.width, samples, left, scale, mask.width);
  const rows = placesAlong(image.height, samples, top, scale, mask.height);
  const pixels = image.data;
  const full = samples * samples * 255;
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < image.width; x++) {
      let sum = 0;
      for (let j = y * samples; j < (y + 1) * samples; j++) {
        if (rows[j] < 0) continue;
        const start = rows[j] * mask.width;
        for (let i = x * samples; i < (x + 1) * samples; i++) if (columns[i] >= 0) sum += mask.data[start + columns[i]];
      }
      if (sum) lay(pixels, (y * image.width + x) * 4, tint, (sum / full) * opacity);
    }
  }
}

/** A colour over the pixel at `at`, which may be transparent. */
function lay(pixels, at, colour, cover) {
  const left = (pixels[at + 3] / 255) * (1 - cover);
  const alpha = cover + left;
  for (let channel = 0; channel < 3; channel++) {
    pixels[at + channel] = left ? (colour[channel] * cover + pixels[at + channel] * left) / alpha : colour[channel];
  }
  pixels[at + 3] = alpha * 255;
}

function paintInto(image, paint, { left, top, scale }) {
  const columns = placesAlong(image.width, 1, left, scale, paint.width);
  const rows = placesAlong(image.height, 1, top, scale, paint.height);
  const [from, to] = [new Uint32Array(paint.data.buffer), new Uint32Array(image.data.buffer)];
  for (let y = 0; y < image.height; y++) {
    if (rows[y] < 0) continue;
    for (let x = 0; x < image.width; x++) {
      if (columns[x] >= 0) to[y * image.width + x] = from[rows[y] * paint.width + columns[x]];
    }
  }
}
