// Rectangles drawn on a picture that fills the window.

import { action, element } from "./elements.js";
import { address } from "./server.js";

const SMALLEST = 8; // pixels of the picture

/** picture: as jobs have it. rectangles: those that are there. onDone(rectangles) is called when the window is closed. */
export function openRegions(picture, rectangles, onDone) {
  const dialog = element("dialog", "em-lightbox em-regions", "", { "aria-label": "Rectangles on the picture" });
  const stage = element("div", "em-region-stage");
  const image = element("img", "", "", { alt: picture.prompt ?? "", src: address(picture.url), draggable: "false" });
  const bar = element("div", "em-region-bar");
  let drawn = [...rectangles];
  let start = null;
  stage.style.setProperty("--em-shape", picture.width / picture.height);

  const draw = (fresh = null) => {
    for (const box of stage.querySelectorAll(".em-region")) box.remove();
    for (const [index, one] of [...drawn, ...(fresh ? [fresh] : [])].entries()) stage.append(boxOf(one, index));
  };

  function boxOf(one, index) {
    const box = element("button", "em-region", "", { type: "button", "aria-label": `Remove rectangle ${index + 1}`, title: "Remove" });
    const share = (value, whole) => `${(100 * value) / whole}%`;
    Object.assign(box.style, {
      left: share(one.x, picture.width),
      top: share(one.y, picture.height),
      width: share(one.width, picture.width),
      height: share(one.height, picture.height),
    });
    box.addEventListener("click", () => {
      drawn.splice(index, 1);
      draw();
    });
    return box;
  }

  const at = (event) => {
    const frame = stage.getBoundingClientRect();
    const limited = (share) => Math.min(1, Math.max(0, share));
    return [
      Math.round(limited((event.clientX - frame.left) / frame.width) * picture.width),
      Math.round(limited((event.clientY - frame.top) / frame.height) * picture.height),
    ];
  };
  const between = ([ax, ay], [bx, by]) => ({
    x: Math.min(ax, bx),
    y: Math.min(ay, by),
    width: Math.abs(bx - ax),
    height: Math.abs(by - ay),
  });

  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest(".em-region")) return;
    start = at(event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => start && draw(between(start, at(event))));
  stage.addEventListener("pointerup", (event) => {
    if (!start) return;
    const made = between(start, at(event));
    start = null;
    if (made.width >= SMALLEST && made.height >= SMALLEST) drawn.push(made);
    draw();
  });
  bar.append(
    element("span", "", "Draw rectangles; click one to remove it."),
    action("Done", () => dialog.close()),
  );
  dialog.addEventListener("close", () => {
    dialog.remove();
    onDone(drawn);
  });
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // Esc closes this, and cancels no job
  stage.append(image);
  dialog.append(stage, bar);
  document.body.append(dialog);
  draw();
  dialog.showModal();
}
