// What a pointer, or the crosshair, does to a canvas: one tool at a time between begin and end.

import { onGrid } from "./mask_brush.js";
import { rgbOf } from "./mask_settings.js";

export const TOOLS = [
  ["brush", "Brush", "b"],
  ["eraser", "Eraser", "e"],
  ["lasso", "Lasso", "l"],
  ["rectangle", "Rectangle", "r"],
  ["hand", "Move", "h"],
];
const MIN_LASSO = 3; // points

/**
 * state: {tool, layer ("mask" or "paint"), erases}. show(outline) draws what is not painted yet: {points, isClosed} or
 * null. Points are {x, y, pressure, isPixel} in pixels of the picture; pressure from 0 to 1.
 */
export function makeTools({ document: doc, settings, state, show }) {
  let current = null;

  function inkOf(erases) {
    if (state.layer === "mask") return { value: erases ? 0 : Math.round(255 * settings.strength) };
    return { colour: rgbOf(settings.colour), opacity: erases ? 1 : settings.opacity, erases };
  }

  const tools = {
    brush: (point, erases) => painting(point, erases, erases ? "Erasing" : "Stroke"),
    eraser: (point) => painting(point, true, "Erasing"),
    lasso: (point, erases) => outlining([point], erases, "Lasso", (points, next) => [...points, next], (stroke, points) => points.length >= MIN_LASSO && stroke.coverPolygon(points)),
    rectangle: (point, erases) => outlining(cornersOf(point, point), erases, "Rectangle", (_, next) => cornersOf(point, next), (stroke, points) => stroke.coverRectangle(boxOf(points))),
  };

  function painting(first, erases, label) {
    const stroke = doc.begin(state.layer, inkOf(erases));
    const brush = ({ x, y, pressure = 1 }) => ({
      ...onGrid({ x, y }, settings.size, settings.hardness),
      radius: Math.max(0.5, (settings.size / 2) * (settings.isPressure ? pressure : 1)),
    });
    let last = brush(first);
    stroke.coverStroke(last, last, settings.hardness);
    return {
      move(point) {
        const next = brush(point);
        stroke.coverStroke(last, next, settings.hardness);
        last = next;
      },
      end() {
        stroke.commit(label);
        return label;
      },
      cancel: stroke.cancel,
    };
  }

  function outlining(points, erases, label, extend, cover) {
    show({ points });
    return {
      move(point) {
        points = extend(points, point);
        show({ points });
      },
      end() {
        show(null);
        const stroke = doc.begin(state.layer, inkOf(erases));
        cover(stroke, points);
        stroke.commit(label);
        return label;
      },
      cancel: () => show(null),
    };
  }

  return {
    get isBusy() {
      return current !== null;
    },
    begin(point, erases = state.erases) {
      current?.cancel();
      current = tools[state.tool]?.(point, erases) ?? null;
    },
    move: (point) => current?.move(point),
    /** Gives what was done, "" for nothing. */
    end() {
      const done = current?.end() ?? "";
      current = null;
      return done;
    },
    cancel() {
      current?.cancel();
      current = null;
    },
    /** The rectangle of typed numbers. */
    rectangle({ x, y, width, height }, erases = state.erases) {
      const stroke = doc.begin(state.layer, inkOf(erases));
      stroke.coverRectangle({ left: x, top: y, right: x + width, bottom: y + height });
      stroke.commit("Rectangle");
    },
  };
}

/** The corners of whole pixels between two points. Points of the crosshair are pixels, and both lie inside. */
function cornersOf(from, to) {
  const more = from.isPixel ? 1 : 0;
  const round = from.isPixel ? Math.floor : Math.round;
  const [left, right] = [Math.min(round(from.x), round(to.x)), Math.max(round(from.x), round(to.x)) + more];
  const [top, bottom] = [Math.min(round(from.y), round(to.y)), Math.max(round(from.y), round(to.y)) + more];
  return [{ x: left, y: top }, { x: right, y: top }, { x: right, y: bottom }, { x: left, y: bottom }];
}

const boxOf = ([{ x: left, y: top }, , { x: right, y: bottom }]) => ({ left, top, right, bottom });
