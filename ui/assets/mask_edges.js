// Handles at the edges of the picture, which draw new borders out of it.

import { element } from "./elements.js";
import { MAX_BORDER, SIDES } from "./mask_document.js";

const DIRECTIONS = { left: [-1, 0], top: [0, -1], right: [1, 0], bottom: [0, 1] };
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
export const BORDER_STEP = 8; // pixels; the sides of latents are multiples of it

export function makeEdges({ stage, document: doc, view }) {
  const handles = SIDES.map((side) => [side, handle(side)]);
  stage.append(...handles.map(([, made]) => made));

  function handle(side) {
    const made = element("div", `em-canvas-edge em-canvas-edge-${side}`, "", {
      role: "slider",
      tabindex: 0,
      "aria-label": `New border: ${side}`,
      "aria-orientation": side === "left" || side === "right" ? "horizontal" : "vertical",
      "aria-valuemin": 0,
      "aria-valuemax": MAX_BORDER,
      title: `Drag outwards for a new border (${side})`,
      onpointerdown: (event) => drag(event, side, made),
      onkeydown: (event) => press(event, side),
    });
    return made;
  }

  function drag(event, side, made) {
    if (event.button !== 0) return;
    event.preventDefault();
    event.stopPropagation();
    made.focus({ preventScroll: true });
    made.setPointerCapture(event.pointerId);
    const before = doc.borders;
    const [right, down] = DIRECTIONS[side];
    const [x, y] = [event.clientX, event.clientY];
    stage.dataset.dragging = side;
    const move = (moved) => {
      const by = ((moved.clientX - x) * right + (moved.clientY - y) * down) / view.cssScale;
      doc.setBorders({ ...before, [side]: stepped(before[side] + by) }, "");
    };
    const end = () => {
      made.removeEventListener("pointermove", move);
      delete stage.dataset.dragging;
      const after = doc.borders;
      doc.setBorders(before, "");
      doc.setBorders(after);
    };
    made.addEventListener("pointermove", move);
    made.addEventListener("lostpointercapture", end, { once: true });
  }

  function press(event, side) {
    const [right, down] = DIRECTIONS[side];
    const [x, y] = KEYS[event.key] ?? [0, 0];
    const by = (x * right + y * down) * (event.shiftKey ? 8 : 1) * BORDER_STEP;
    const next = event.key === "Home" ? 0 : by ? stepped(doc.borders[side] + by) : null;
    if (next === null) return;
    event.preventDefault();
    event.stopPropagation();
    doc.setBorders({ ...doc.borders, [side]: next });
  }

  /** Put the handles where the edges are. */
  return function update() {
    const { content, borders } = doc;
    for (const [side, made] of handles) {
      made.hidden = !content;
      if (!content) continue;
      made.setAttribute("aria-valuenow", borders[side]);
      made.setAttribute("aria-valuetext", `${borders[side]} pixels`);
      const [left, top, right, bottom] = [-borders.left, -borders.top, content.width + borders.right, content.height + borders.bottom];
      const x = { left, right }[side] ?? (left + right) / 2;
      const y = { top, bottom }[side] ?? (top + bottom) / 2;
      const at = view.toStage({ x, y });
      made.style.transform = `translate(${at.x}px, ${at.y}px) translate(-50%, -50%)`;
    }
  };
}

const stepped = (pixels) => Math.min(MAX_BORDER, Math.max(0, Math.round(pixels / BORDER_STEP) * BORDER_STEP));
