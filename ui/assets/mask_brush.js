// How much of each pixel a brush, a lasso or a rectangle covers: 0 to 255 in a layer of one channel.
// Pixel (x, y) has its middle at (x + 0.5, y + 0.5). What is hard has no edge in between: 0 or 255.

import { clipped, isEmpty, joined, whole } from "./mask_layer.js";

const SMALL = 8; // pixels; a hard brush up to this size keeps to the grid, so that it has the same shape everywhere

/** Where a hard, small brush of this size stands, for a point. */
export function onGrid({ x, y }, size, hardness) {
  if (size > SMALL || hardness < 1) return { x, y };
  const isOdd = Math.round(size) % 2 === 1;
  return isOdd ? { x: Math.floor(x) + 0.5, y: Math.floor(y) + 0.5 } : { x: Math.round(x), y: Math.round(y) };
}

/** Draw from one {x, y, radius} to the next; hardness from 0 to 1. Gives the rectangle that may have changed. */
export function coverStroke(coverage, from, to, hardness) {
  const distance = Math.hypot(to.x - from.x, to.y - from.y);
  const isEven = Math.abs(from.radius - to.radius) < 0.25;
  const parts = isEven ? 1 : Math.min(64, Math.max(1, Math.ceil(distance / Math.max(1, from.radius / 4))));
  let changed = null;
  for (let part = 0; part < parts; part++) {
    const [start, end] = [between(from, to, part / parts), between(from, to, (part + 1) / parts)];
    changed = joined(changed, coverCapsule(coverage, start, end, hardness));
  }
  return changed;
}

const between = (from, to, share) => ({
  x: from.x + (to.x - from.x) * share,
  y: from.y + (to.y - from.y) * share,
  radius: from.radius + (to.radius - from.radius) * share,
});

/** All that is within `end.radius` of the line between two points. */
function coverCapsule(coverage, start, end, hardness) {
  const { data, width } = coverage;
  const { radius } = end;
  const rect = clipped(
    {
      left: Math.min(start.x, end.x) - radius,
      top: Math.min(start.y, end.y) - radius,
      right: Math.max(start.x, end.x) + radius,
      bottom: Math.max(start.y, end.y) + radius,
    },
    coverage,
  );
  const [dx, dy] = [end.x - start.x, end.y - start.y];
  const length2 = dx * dx + dy * dy;
  const core = radius * hardness;
  const [core2, radius2] = [core * core, radius * radius];
  for (let y = rect.top; y < rect.bottom; y++) {
    const middle = y + 0.5;
    let [first, last] = [0, 1]; // the part of the line that is near enough to this row
    if (dy !== 0) {
      const [one, other] = [(middle - radius - start.y) / dy, (middle + radius - start.y) / dy];
      first = Math.max(0, Math.min(one, other));
      last = Math.min(1, Math.max(one, other));
    }
    if (first > last) continue;
    const [one, other] = [start.x + dx * first, start.x + dx * last];
    const left = Math.max(rect.left, Math.floor(Math.min(one, other) - radius));
    const right = Math.min(rect.right, Math.ceil(Math.max(one, other) + radius));
    for (let x = left; x < right; x++) {
      const px = x + 0.5 - start.x;
      const py = middle - start.y;
      const along = length2 ? Math.min(1, Math.max(0, (px * dx + py * dy) / length2)) : 0;
      const distance2 = (px - dx * along) ** 2 + (py - dy * along) ** 2;
      const at = y * width + x;
      if (distance2 <= core2) data[at] = 255;
      else if (distance2 < radius2) {
        const fallen = (Math.sqrt(distance2) - core) / (radius - core);
        const value = 255 * (1 - fallen * fallen * (3 - 2 * fallen));
        if (value > data[at]) data[at] = value;
      }
    }
  }
  return rect;
}

/** The inside of a closed line through points; where it winds around itself is inside, too. */
export function coverPolygon(coverage, points) {
  const { data, width } = coverage;
  const rect = clipped(
    {
      left: Math.min(...points.map((point) => point.x)),
      top: Math.min(...points.map((point) => point.y)),
      right: Math.max(...points.map((point) => point.x)),
      bottom: Math.max(...points.map((point) => point.y)),
    },
    coverage,
  );
  for (let y = rect.top; y < rect.bottom; y++) {
    const crossings = crossingsAt(points, y + 0.5);
    let winding = 0;
    crossings.forEach(([x, direction], index) => {
      winding += direction;
      if (winding === 0 || index + 1 === crossings.length) return;
      const left = Math.max(rect.left, Math.ceil(x - 0.5));
      const right = Math.min(rect.right, Math.ceil(crossings[index + 1][0] - 0.5));
      if (left < right) data.fill(255, y * width + left, y * width + right);
    });
  }
  return rect;
}

/** Where the line crosses a height, from left to right: [x, 1 downwards or -1 upwards]. */
function crossingsAt(points, y) {
  const found = [];
  points.forEach((from, index) => {
    const to = points[(index + 1) % points.length];
    if (from.y <= y === to.y <= y) return;
    found.push([from.x + ((y - from.y) / (to.y - from.y)) * (to.x - from.x), from.y <= y ? 1 : -1]);
  });
  return found.sort(([one], [other]) => one - other);
}

export function coverRectangle(coverage, rect) {
  const inside = clipped(rect, coverage);
  if (isEmpty(inside)) return null;
  for (let y = inside.top; y < inside.bottom; y++) {
    coverage.data.fill(255, y * coverage.width + inside.left, y * coverage.width + inside.right);
  }
  return inside;
}

export function uncover(coverage, rect = whole(coverage)) {
  const inside = clipped(rect, coverage);
  for (let y = inside.top; y < inside.bottom; y++) {
    coverage.data.fill(0, y * coverage.width + inside.left, y * coverage.width + inside.right);
  }
}
