// What is around the stage: tools and their settings, actions on the whole mask, borders.

import { element } from "./elements.js";
import { hasBorders, MAX_BORDER, NO_BORDERS, SIDES } from "./mask_document.js";
import { BORDER_STEP } from "./mask_edges.js";
import { MAX_SIZE } from "./mask_settings.js";
import { TOOLS } from "./mask_tools.js";

const MAX_REACH = 256; // pixels

/** Gives {bar, options, actions, update}. editor: as in mask_editor.js. */
export function makePanel(editor) {
  const { state, settings, abilities } = editor;
  const updates = [];
  const update = () => updates.forEach((one) => one());
  const follow = (refresh) => updates.push(refresh);

  const icon = (name, label, onclick, given = {}) => element("button", `em-icon em-canvas-icon em-c-${name}`, label, { type: "button", title: label, "aria-label": label, onclick, ...given });
  const button = (text, onclick, given = {}) => element("button", "em-canvas-button", text, { type: "button", onclick, ...given });
  const group = (label, ...parts) => {
    const made = element("div", "em-canvas-group", "", { role: "group", "aria-label": label });
    made.append(...parts);
    return made;
  };
  const pressed = (made, isOn) => made.setAttribute("aria-pressed", isOn ? "true" : "false");

  /** A switch between two or more: [value, text] each. */
  function choice(label, pairs, read, choose) {
    const buttons = pairs.map(([value, text]) => {
      const made = button(text, () => choose(value), { "aria-pressed": "false" });
      follow(() => pressed(made, read() === value));
      return made;
    });
    const made = group(label, ...buttons);
    made.classList.add("em-canvas-choice");
    return made;
  }

  /** A slider with its number. scale: what one sees of the setting. bend: above 1 the slider is finer on the left. */
  function slide(label, name, { min = 0, max, scale = 1, bend = 1, unit = "", hint = "" }) {
    const box = element("label", `em-canvas-slide em-canvas-slide-${name}`, "", { title: hint || label });
    const range = element("input", "em-slider", "", { type: "range", min: 0, max: 1, step: 0.001, tabindex: -1, "aria-hidden": "true" });
    const number = element("input", "", "", { type: "number", min, max, step: 1, inputmode: "numeric", "aria-label": label });
    const set = (shown) => settings.set({ [name]: Math.min(max, Math.max(min, shown)) / scale });
    range.addEventListener("input", () => set(Math.round(min + (max - min) * range.valueAsNumber ** bend)));
    number.addEventListener("change", () => (Number.isFinite(number.valueAsNumber) ? set(number.valueAsNumber) : update()));
    follow(() => {
      const shown = Math.round(settings[name] * scale);
      number.value = shown;
      range.value = ((shown - min) / (max - min)) ** (1 / bend);
      range.style.setProperty("--em-filled", `${range.value * 100}%`);
    });
    box.append(element("span", "em-canvas-label", label), range, number);
    if (unit) box.append(element("span", "em-canvas-unit", unit));
    return box;
  }

  function swatch(label, name) {
    const made = element("input", "em-canvas-swatch", "", { type: "color", "aria-label": label, title: label, oninput: () => settings.set({ [name]: made.value }) });
    follow(() => (made.value = settings[name]));
    return made;
  }

  function check(label, read, write, hint = "") {
    const box = element("label", "em-canvas-check", "", { title: hint });
    const input = element("input", "em-canvas-tick", "", { type: "checkbox", onchange: () => write(input.checked) });
    box.append(input, element("span", "", label));
    follow(() => (input.checked = read()));
    return box;
  }

  function count(label, given = {}) {
    const box = element("label", "em-canvas-count");
    const input = element("input", "", "", { type: "number", step: 1, inputmode: "numeric", "aria-label": label, ...given });
    box.append(element("span", "em-canvas-label", given.shown ?? label), input);
    return [box, input];
  }

  // The bar: what one does next.
  const bar = element("div", "em-canvas-bar");
  const tools = TOOLS.map(([name, label, key]) => {
    const made = icon(name, `${label} (${key.toUpperCase()})`, () => editor.choose(name));
    follow(() => pressed(made, state.tool === name));
    return made;
  });
  const undo = icon("undo", "Undo (Ctrl+Z)", () => editor.run("undo"));
  const redo = icon("redo", "Redo (Ctrl+Shift+Z)", () => editor.run("redo"));
  follow(() => {
    undo.disabled = !editor.document.canUndo();
    redo.disabled = !editor.document.canRedo();
  });
  const scale = element("button", "em-canvas-scale", "", { type: "button", title: "Own size (1)", "aria-label": "Show the picture in its own size", onclick: editor.view.actualSize });
  follow(() => (scale.textContent = `${Math.round(editor.view.scale * 100)} %`));
  const enlarge = icon("enlarge", "Fill the window", () => editor.run("enlarge"));
  follow(() => pressed(enlarge, editor.isLarge()));
  bar.append(group("File", icon("open", "Open a picture", () => editor.run("open")), icon("remove", "Take the picture off", () => editor.run("remove"))));
  if (abilities.masks || abilities.paints) bar.append(group("Tools", ...tools));
  bar.append(group("History", undo, redo));
  const sizes = group("View", icon("less", "Smaller (-)", () => editor.view.zoomBy(1 / 1.25)), scale, icon("more", "Larger (+)", () => editor.view.zoomBy(1.25)), icon("fit", "Fit (0)", editor.view.fit), enlarge);
  sizes.classList.add("em-canvas-sizes");
  bar.append(sizes);

  // Options: of the tool.
  const options = element("div", "em-canvas-options");
  const shownFor = (made, isShown) => {
    follow(() => (made.hidden = !isShown()));
    return made;
  };
  const isBrush = () => state.tool === "brush" || state.tool === "eraser";
  const paintsOn = () => state.layer === "paint" && state.tool !== "hand";
  const shapes = () => state.tool === "lasso" || state.tool === "rectangle";
  if (abilities.masks && abilities.paints) {
    options.append(choice("Paint on", [["mask", "Mask"], ["paint", "Colours"]], () => state.layer, editor.chooseLayer));
  }
  options.append(
    shownFor(slide("Size", "size", { min: 1, max: MAX_SIZE, bend: 2.5, unit: "px", hint: "Diameter in pixels of the picture: [ and ], or Alt and the wheel" }), isBrush),
    shownFor(slide("Hardness", "hardness", { max: 100, scale: 100, unit: "%", hint: "Shift with [ and ], or Shift and the wheel. 100 % paints no grey." }), isBrush),
    shownFor(slide("Strength", "strength", { min: 1, max: 100, scale: 100, unit: "%", hint: "Below 100 % the mask is grey" }), () => state.layer === "mask" && state.tool !== "hand" && state.tool !== "eraser" && !state.erases),
    shownFor(swatch("Colour", "colour"), paintsOn),
    shownFor(slide("Opacity", "opacity", { min: 1, max: 100, scale: 100, unit: "%" }), paintsOn),
    shownFor(check("Erase", () => state.erases, (isOn) => editor.run("erases", isOn), "Takes away in place of adding (X, or the right mouse button)"), shapes),
    shownFor(check("Pen pressure", () => settings.isPressure, (isOn) => settings.set({ isPressure: isOn }), "A pen that is pressed less paints thinner"), () => isBrush() && editor.hasPen()),
    shownFor(typedRectangle(), () => state.tool === "rectangle"),
    shownFor(element("p", "em-canvas-tip", "Drag to move, turn the wheel to zoom."), () => state.tool === "hand"),
    shownFor(element("p", "em-canvas-tip", "Draw around what should change."), () => state.tool === "lasso"),
  );

  /** x, y, width and height as numbers, for those who cannot drag or want it exact. */
  function typedRectangle() {
    const form = element("form", "em-canvas-typed", "", { "aria-label": "Rectangle in numbers" });
    const inputs = ["X", "Y", "Width", "Height"].map((label, index) => count(`Rectangle ${label.toLowerCase()}`, { shown: label, min: index < 2 ? null : 1, required: true, value: 0 }));
    const fill = element("button", "em-canvas-button", "Apply", { type: "submit" });
    form.append(...inputs.map(([box]) => box), fill);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const [x, y, width, height] = inputs.map(([, input]) => input.valueAsNumber);
      editor.rectangle({ x, y, width, height });
    });
    let shownOf = null;
    follow(() => {
      const { content } = editor.document;
      if (!content || shownOf === content) return;
      shownOf = content;
      [0, 0, content.width, content.height].forEach((value, index) => (inputs[index][1].value = value));
    });
    return form;
  }

  // Actions: on all of the mask or the colours.
  const actions = element("div", "em-canvas-actions");
  if (abilities.masks) actions.append(shownFor(maskActions(), () => state.layer === "mask"), shownFor(maskLook(), () => state.layer === "mask"));
  if (abilities.paints) actions.append(shownFor(group("Colours", button("Fill", () => editor.run("fill")), button("Clear colours", () => editor.run("clear"))), () => state.layer === "paint"));
  if (abilities.borders) actions.append(borderFields());

  function maskActions() {
    const [box, reach] = count("Pixels to grow, shrink or feather by", { shown: "by", min: 1, max: MAX_REACH });
    box.append(element("span", "em-canvas-unit", "px"));
    reach.addEventListener("change", () => reach.validity.valid && reach.value && settings.set({ reach: Math.round(reach.valueAsNumber) }));
    follow(() => (reach.value = settings.reach));
    const made = element("div", "em-canvas-row");
    made.append(
      group("Mask", button("Fill", () => editor.run("fill")), button("Clear", () => editor.run("clear")), button("Invert", () => editor.run("invert"), { title: "Invert (I)" })),
      group("Edges of the mask", button("Grow", () => editor.run("grow")), button("Shrink", () => editor.run("shrink")), button("Feather", () => editor.run("feather")), box),
      group("Mask as a file", button("Load mask", () => editor.run("loadMask"), { title: "White, or what is opaque, is to change" }), button("Save mask", () => editor.run("saveMask"))),
    );
    return made;
  }

  function maskLook() {
    const made = element("div", "em-canvas-row");
    const shown = check("Show mask", () => state.isShown, () => editor.run("peek"), "M");
    made.append(shown, swatch("Colour of the mask", "tint"), slide("Mask opacity", "cover", { min: 5, max: 100, scale: 100, unit: "%" }));
    return made;
  }

  function borderFields() {
    const made = element("div", "em-canvas-row em-canvas-borders", "", { role: "group", "aria-label": "New borders" });
    made.append(element("span", "em-canvas-head", "New borders"));
    for (const side of SIDES) {
      const [box, input] = count(`New border ${side}`, { shown: side[0].toUpperCase() + side.slice(1), min: 0, max: MAX_BORDER, step: BORDER_STEP });
      input.addEventListener("change", () => {
        const pixels = Math.min(MAX_BORDER, Math.max(0, Math.round(input.valueAsNumber || 0)));
        editor.document.setBorders({ ...editor.document.borders, [side]: pixels });
        update();
      });
      follow(() => document.activeElement !== input && (input.value = editor.document.borders[side]));
      made.append(box);
    }
    const none = button("None", () => editor.document.setBorders(NO_BORDERS), { "aria-label": "No new borders" });
    follow(() => (none.disabled = !hasBorders(editor.document.borders)));
    made.append(none);
    return made;
  }

  return { bar, options, actions, update };
}
