// Two pictures over one another with a line to drag: left of it the one, right of it the other.

import { element } from "./elements.js";

/** {stage, line, show(left, right)}: the element, its slider, and what takes two addresses of pictures. */
export function dividedPictures() {
  const [under, over] = [element("img", "", "", { alt: "" }), element("img", "em-over", "", { alt: "" })];
  const line = element("input", "em-divider", "", {
    type: "range",
    min: 0,
    max: 100,
    step: 0.5,
    value: 50,
    "aria-label": "Divider between the two pictures",
  });
  const stage = element("div", "em-compare-stage");
  const move = () => stage.style.setProperty("--em-divide", `${line.value}%`);
  line.addEventListener("input", move);
  stage.append(under, over, line);
  move();
  return {
    stage,
    line,
    show(left, right) {
      over.src = left;
      under.src = right;
    },
  };
}
