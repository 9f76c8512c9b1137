// Two results as large as the window, with a line to drag between them.

import { dividedPictures } from "./divided_pictures.js";
import { element } from "./elements.js";
import { address } from "./server.js";

/** left, right: pictures as jobs have them; with a name, they are called by it. */
export function openComparison(left, right) {
  const dialog = element("dialog", "em-lightbox em-comparison", "", { "aria-label": "Comparison" });
  const { stage, line, show } = dividedPictures();
  const names = element("p", "em-lightbox-count", `${said(left)}  |  ${said(right)}`);
  const close = element("button", "em-icon em-close", "", { type: "button", "aria-label": "Close" });
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // Esc closes this, and cancels no job
  show(address(left.url), address(right.url));
  // Both are shown in the shape of the larger one, so that the line cuts them at the same place.
  const { width, height } = left.width * left.height > right.width * right.height ? left : right;
  stage.style.setProperty("--em-shape", width / height);
  dialog.append(stage, names, close);
  document.body.append(dialog);
  dialog.showModal();
  line.focus();
}

const said = ({ name, seed, width, height }) => `${name ?? `Seed ${seed}`}${width ? `, ${width} × ${height}` : ""}`;
