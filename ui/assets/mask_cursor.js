// What shows where one paints: the brush as a circle, the crosshair of the keyboard, and outlines under way.

import { element } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";

export function makeCursor({ stage, view, settings, state }) {
  const circle = element("div", "em-canvas-circle", "", { "aria-hidden": "true", hidden: true });
  const cross = element("div", "em-canvas-cross", "", { "aria-hidden": "true", hidden: true });
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("class", "em-canvas-outline");
  drawing.setAttribute("aria-hidden", "true");
  const lines = ["em-canvas-outline-dark", "em-canvas-outline-light"].map((name) => {
    const line = document.createElementNS(SVG, "polygon");
    line.setAttribute("class", name);
    drawing.append(line);
    return line;
  });
  stage.append(drawing, circle, cross);
  let place = null; // of the circle's middle on the stage, in CSS pixels
  let crossAt = null; // of the crosshair, in pixels of the picture
  let outline = null; // points in pixels of the picture

  function update() {
    const isBrush = state.tool === "brush" || state.tool === "eraser";
    circle.hidden = !place || !isBrush;
    cross.hidden = !crossAt;
    if (crossAt) put(cross, view.toStage({ x: crossAt.x + 0.5, y: crossAt.y + 0.5 }));
    if (place && isBrush) {
      const side = Math.max(2, settings.size * view.cssScale);
      circle.style.width = circle.style.height = `${side}px`;
      put(circle, place);
    }
    const points = (outline ?? []).map((point) => view.toStage(point)).map(({ x, y }) => `${x},${y}`);
    for (const line of lines) line.setAttribute("points", points.join(" "));
  }

  return {
    update,
    follow(clientX, clientY) {
      const box = stage.getBoundingClientRect();
      place = { x: clientX - box.left - stage.clientLeft, y: clientY - box.top - stage.clientTop };
      crossAt = null;
      update();
    },
    cross(at) {
      crossAt = { ...at };
      place = view.toStage({ x: at.x + 0.5, y: at.y + 0.5 });
      update();
    },
    hide() {
      place = crossAt = null;
      update();
    },
    outline(shown) {
      outline = shown?.points ?? null;
      update();
    },
  };
}

function put(shown, { x, y }) {
  shown.style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
}
