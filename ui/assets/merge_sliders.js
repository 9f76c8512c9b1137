// Vertical sliders side by side that can be drawn across like a curve.

import { element } from "./elements.js";
import { rounded, valueOf } from "./merge_recipe.js";

const OUTSIDE = new Set(["TE", "VAE", "REST"]);

/**
 * Sliders for the blocks of a layout. `host` is emptied. read(): {weights, parameter}; write(weights) when something
 * was set, settle() when a gesture has ended; tell(block) with what the pointer is on. usual: what a double click sets,
 * null for the base value again.
 */
export function sliderBank(host, { layout, read, write, settle, tell, usual = null }) {
  const columns = new Map();
  const bank = element("div", "em-bank", "", { role: "group", "aria-label": "Weights by block" });
  let group = null;
  for (const block of layout.blocks) {
    if (!group || group.dataset.group !== block.group) {
      group = element("div", `em-bank-group${OUTSIDE.has(block.group) ? " em-bank-outside" : ""}`);
      group.dataset.group = block.group;
      bank.append(group);
    }
    const column = columnOf(block);
    columns.set(block.name, column);
    group.append(column.box);
  }
  host.replaceChildren(bank);

  function columnOf(block) {
    const box = element("div", "em-block");
    const share = block.share >= 0.0005 ? `${(100 * block.share).toFixed(block.share < 0.01 ? 2 : 1)} %` : "0 %";
    box.title = `${block.label}: ${share} of the ${OUTSIDE.has(block.group) ? "file" : "network"}. ${block.hint}`;
    const track = element("div", "em-track", "", {
      role: "slider",
      tabindex: 0,
      "aria-orientation": "vertical",
      "aria-label": block.label,
    });
    track.dataset.block = block.name;
    const size = element("i", "em-block-share");
    size.style.height = `${Math.max(2, 100 * Math.sqrt(Math.min(1, block.share * 4)))}%`;
    track.append(size, element("b", "em-block-fill"), element("s", "em-knob"));
    const typed = element("input", "em-typed", "", { type: "text", inputmode: "decimal", "aria-label": `${block.label}, number` });
    typed.addEventListener("change", () => {
      const value = Number(typed.value.replace(",", "."));
      if (typed.value.trim() === "") set(block.name, null);
      else if (Number.isFinite(value) && Math.abs(value) <= 10) set(block.name, rounded(value));
      draw();
      settle();
    });
    track.addEventListener("keydown", (event) => onKey(event, block.name));
    track.addEventListener("focus", () => tell(block));
    box.addEventListener("pointerenter", () => tell(block));
    const name = block.name.startsWith(block.group) ? block.name.slice(block.group.length) : block.name; // the group has its own title
    const apart = element("span", "em-block-apart");
    box.append(track, typed, element("span", "em-block-name", name || block.name), apart);
    return { box, track, typed, apart, block };
  }

  function range() {
    const { minimum, maximum } = read().parameter;
    return [minimum, maximum];
  }

  /** null: the base value again. */
  function set(name, value) {
    const { weights } = read();
    const blocks = { ...weights.blocks };
    if (value === null) delete blocks[name];
    else blocks[name] = value;
    write({ ...weights, blocks });
  }

  function onKey(event, name) {
    const [low, high] = range();
    const step = (high - low) / (event.shiftKey ? 10 : 100);
    const now = valueOf(read().weights, name);
    const to = {
      ArrowUp: now + step,
      ArrowDown: now - step,
      PageUp: now + (high - low) / 10,
      PageDown: now - (high - low) / 10,
      Home: low,
      End: high,
      Delete: null,
      Backspace: null,
    }[event.key];
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const names = [...columns.keys()];
      const next = names[names.indexOf(name) + (event.key === "ArrowRight" ? 1 : -1)];
      if (next) columns.get(next).track.focus();
      event.preventDefault();
    }
    if (to === undefined) return;
    event.preventDefault();
    set(name, to === null ? null : rounded(Math.min(high, Math.max(low, to))));
    draw();
    settle();
  }

  // One gesture over many sliders: what lies between two positions of a fast pointer is drawn, too.
  let last = null;
  bank.addEventListener("pointerdown", (event) => {
    const track = event.target.closest(".em-track");
    if (!track || event.button !== 0) return;
    track.focus({ preventScroll: true });
    bank.setPointerCapture(event.pointerId);
    last = null;
    follow(event);
    event.preventDefault();
  });
  bank.addEventListener("pointermove", (event) => bank.hasPointerCapture(event.pointerId) && follow(event));
  bank.addEventListener("pointerup", () => last && ((last = null), settle()));
  // While the pointer is held by the bank, a double click is the bank's.
  bank.addEventListener("dblclick", (event) => {
    const track = document.elementFromPoint(event.clientX, event.clientY)?.closest(".em-track");
    if (!track) return;
    set(track.dataset.block, usual);
    draw();
    settle();
  });
  bank.addEventListener("pointercancel", () => (last = null));

  function follow(event) {
    const [low, high] = range();
    const all = [...columns.values()];
    const rects = all.map(({ track }) => track.getBoundingClientRect());
    const distances = rects.map((rect) => Math.abs((rect.left + rect.right) / 2 - event.clientX));
    const index = distances.indexOf(Math.min(...distances));
    const rect = rects[index];
    const share = 1 - (event.clientY - rect.top) / rect.height;
    const value = rounded(Math.round((low + Math.min(1, Math.max(0, share)) * (high - low)) * 100) / 100);
    const { weights } = read();
    const blocks = { ...weights.blocks };
    const from = last ?? { index, value };
    const steps = Math.max(1, Math.abs(index - from.index));
    for (let step = 0; step <= steps; step += 1) {
      const at = from.index + Math.sign(index - from.index) * step;
      if (step > 0 || !last) blocks[all[at].block.name] = rounded(from.value + ((value - from.value) * step) / steps);
    }
    if (index === from.index) blocks[all[index].block.name] = value;
    last = { index, value };
    write({ ...weights, blocks });
    tell(all[index].block);
    draw();
  }

  function draw() {
    const { weights, parameter } = read();
    const [low, high] = [parameter.minimum, parameter.maximum];
    for (const { box, track, typed, block } of columns.values()) {
      const isOwn = block.name in weights.blocks;
      const value = valueOf(weights, block.name);
      box.classList.toggle("em-block-follows", !isOwn);
      track.style.setProperty("--em-at", Math.min(1, Math.max(0, (value - low) / (high - low || 1))));
      track.setAttribute("aria-valuemin", low);
      track.setAttribute("aria-valuemax", high);
      track.setAttribute("aria-valuenow", value);
      track.setAttribute("aria-valuetext", isOwn ? `${value}` : `${value}, as the base`);
      if (document.activeElement !== typed) typed.value = String(Number(value.toFixed(2))).replace(/^(-?)0\./, "$1.");
    }
  }

  /** What was found of A and B, by block; null for nothing. */
  function showDistances(found) {
    for (const { apart, block } of columns.values()) {
      const distance = found?.get(block.name)?.distance;
      apart.textContent = distance === undefined ? "" : `${Number((100 * distance).toPrecision(2))}%`;
    }
  }

  draw();
  return { draw, showDistances };
}
