// A picture as large as the window, with the arrow keys to the next; a click shows its own pixels.

import { address } from "./server.js";

let dialog = null;

/** Show pictures[index]; `onMove` is called with the address of every picture that is turned to. */
export function openLightbox(pictures, index, onMove) {
  dialog?.remove();
  dialog = document.createElement("dialog");
  dialog.className = "em-lightbox";
  dialog.setAttribute("aria-label", "Picture");
  dialog.tabIndex = -1;
  const image = new Image();
  const count = document.createElement("p");
  count.className = "em-lightbox-count";

  const show = () => {
    const picture = pictures[index];
    image.src = address(picture.url);
    image.alt = picture.prompt || "Picture without a prompt";
    dialog.classList.remove("em-own-size");
    count.textContent = `${index + 1} of ${pictures.length} · ${picture.width} × ${picture.height}`;
  };
  const move = (by) => {
    index = (index + by + pictures.length) % pictures.length;
    show();
    onMove(pictures[index].url);
  };

  dialog.append(
    image,
    count,
    button("em-previous", "Previous picture", () => move(-1)),
    button("em-next", "Next picture", () => move(1)),
    button("em-close", "Close", () => dialog.close()),
  );
  image.addEventListener("click", () => dialog.classList.toggle("em-own-size"));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) move(by);
    event.stopPropagation(); // Esc closes this, and cancels no job
  });
  show();
  document.body.append(dialog);
  dialog.showModal();
  dialog.focus(); // the dialog itself, so that no button looks chosen
}

function button(name, label, onClick) {
  const element = document.createElement("button");
  element.type = "button";
  element.className = `em-icon ${name}`;
  element.setAttribute("aria-label", label);
  element.addEventListener("click", onClick);
  return element;
}
