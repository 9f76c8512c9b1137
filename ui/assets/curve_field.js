// A strength over the steps as text, "1@0, 0@0.5", with a small drawing of it.

import { curveText, readCurve } from "./adapter_value.js";
import { element, select } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, MARGIN] = [160, 44, 4];

/** onchange(curve) with null for none. */
export function curveField({ curve, onchange }) {
  const box = element("div", "em-curve");
  const text = element("input", "", "", { type: "text", spellcheck: "false", autocomplete: "off", placeholder: "1@0, 0@0.5", "aria-label": "Strength over the steps" });
  const unit = select([["share", "of all steps"], ["steps", "in steps"]], "share", () => read(), { "aria-label": "What positions are" });
  const problem = element("p", "em-adapter-problem", "", { role: "alert", hidden: true });
  const line = document.createElementNS(SVG, "polyline");
  const zero = document.createElementNS(SVG, "line");
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  drawing.setAttribute("class", "em-curve-drawing");
  drawing.setAttribute("aria-hidden", "true");
  drawing.append(zero, line);
  const row = element("div", "em-curve-row");
  row.append(text, unit, drawing);
  box.append(
    row,
    problem,
    element("p", "em-hint", "strength@position, from left to right: 1@0, 0@0.5 fades it out until the middle. It goes in place of the strength of the denoiser."),
  );

  function read() {
    try {
      const found = readCurve(text.value, unit.value === "steps");
      problem.hidden = true;
      text.removeAttribute("aria-invalid");
      draw(found);
      if (JSON.stringify(found) !== JSON.stringify(curve)) onchange((curve = found));
      unit.value = found?.in_steps ? "steps" : "share";
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      text.setAttribute("aria-invalid", "true");
    }
  }

  function show(next) {
    curve = next ?? null;
    if (document.activeElement !== text) text.value = curveText(curve);
    unit.value = curve?.in_steps ? "steps" : "share";
    draw(curve);
  }

  function draw(shown) {
    drawing.toggleAttribute("hidden", !shown);
    if (!shown) return;
    const end = Math.max(1, shown.points.at(-1)[0]);
    const strengths = [0, ...shown.points.map(([, strength]) => strength)];
    const [low, high] = [Math.min(...strengths), Math.max(...strengths, Math.min(...strengths) + 0.1)];
    const x = (position) => MARGIN + (position / end) * (WIDTH - 2 * MARGIN);
    const y = (strength) => HEIGHT - MARGIN - ((strength - low) / (high - low)) * (HEIGHT - 2 * MARGIN);
    const points = [[0, shown.points[0][1]], ...shown.points, [end, shown.points.at(-1)[1]]];
    line.setAttribute("points", points.map(([position, strength]) => `${x(position)},${y(strength)}`).join(" "));
    for (const [name, value] of Object.entries({ x1: MARGIN, x2: WIDTH - MARGIN, y1: y(0), y2: y(0) })) zero.setAttribute(name, value);
  }

  text.addEventListener("change", read);
  show(curve);
  return { box, show };
}
