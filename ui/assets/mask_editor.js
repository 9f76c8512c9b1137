// The editor of one canvas: its stage, what is around it, and the commands that both give.

import { element } from "./elements.js";
import { encodePng } from "./grey_png.js";
import { makeCursor } from "./mask_cursor.js";
import { makeContent } from "./mask_document.js";
import { makeEdges } from "./mask_edges.js";
import { feather, grow, invert, shrink, touched } from "./mask_filters.js";
import { connectKeys } from "./mask_keys.js";
import { meanOf, putBack, whole } from "./mask_layer.js";
import { makePanel } from "./mask_panel.js";
import { decode, levelsOf, maskFrom } from "./mask_pictures.js";
import { connectPointer } from "./mask_pointer.js";
import { rgbOf } from "./mask_settings.js";
import { makeTools, TOOLS } from "./mask_tools.js";
import { makeView } from "./mask_view.js";

const REST_MS = 300; // before the share of the mask is counted
const USUAL_SHARE = 12; // of the shorter side, that a brush is wide at first
const KEYS_HELP = "Arrow keys move the crosshair, Space paints at it, Enter puts the tool down and lifts it again.";

/** abilities: {masks, paints, borders}. failed(error) tells the user. Gives {openFile, undoes, dispose}. */
export function makeEditor({ root, name, document: doc, settings, abilities, failed }) {
  const state = { tool: "brush", layer: abilities.masks ? "mask" : "paint", erases: false, isShown: true, isSpaceDown: false, hasPanned: false };
  if (!abilities.masks && !abilities.paints) state.tool = "hand";
  let hasPen = false;
  let restTimer = 0;

  const stage = element("div", "em-canvas-stage", "", { tabindex: 0, role: "application", "aria-label": `${name}: canvas`, "aria-description": KEYS_HELP });
  const empty = element("div", "em-canvas-empty");
  const facts = element("p", "em-canvas-facts");
  const spoken = element("p", "em-spoken", "", { role: "status" });
  const look = {
    get tint() {
      return rgbOf(settings.tint);
    },
    get opacity() {
      return settings.cover;
    },
    get isShown() {
      return state.isShown;
    },
  };
  let refresh = () => {};
  const view = makeView({ stage, document: doc, look, moved: () => refresh() });
  const cursor = makeCursor({ stage, view, settings, state });
  const tools = makeTools({ document: doc, settings, state, show: cursor.outline });
  const announce = (text) => (spoken.textContent = text);

  const filters = { invert: [invert, "Inverted"], grow: [grow, "Grown"], shrink: [shrink, "Shrunk"], feather: [feather, "Feathered"] };
  const commands = {
    undo: () => announce(said(doc.undo(), "Undone", "Nothing to undo")),
    redo: () => announce(said(doc.redo(), "Done again", "Nothing to do again")),
    fill: () => everywhere("Filled", (layer) => (state.layer === "mask" ? layer.data.fill(255) : fillWith(layer, [...rgbOf(settings.colour), Math.round(255 * settings.opacity)]))),
    clear: () => everywhere("Cleared", (layer) => layer.data.fill(0)),
    invert: () => filter("invert"),
    grow: () => filter("grow"),
    shrink: () => filter("shrink"),
    feather: () => filter("feather"),
    peek: () => {
      state.isShown = !state.isShown;
      announce(state.isShown ? "The mask is shown." : "The mask is hidden.");
      view.redraw();
    },
    erases: (isOn = !state.erases) => {
      state.erases = isOn;
      announce(isOn ? "Erasing." : "Painting.");
    },
    open: () => choose("image/*", openFile),
    remove: () => doc.open(null, undefined, "Picture"),
    loadMask: () => choose("image/*", loadMask),
    saveMask: () => saveMask(doc.content),
    enlarge: () => setLarge(!isLarge()),
  };

  const editor = {
    document: doc,
    view,
    tools,
    settings,
    state,
    cursor,
    abilities,
    announce,
    hasPen: () => hasPen,
    isLarge,
    run(command, ...given) {
      if (!doc.content && !["open", "enlarge", "undo", "redo"].includes(command)) return;
      commands[command](...given);
      refresh();
    },
    choose(tool) {
      tools.cancel();
      state.tool = tool;
      stage.dataset.tool = tool;
      announce(TOOLS.find(([known]) => known === tool)[1]);
      refresh();
    },
    chooseLayer(layer) {
      tools.cancel();
      state.layer = layer;
      refresh();
    },
    rectangle(rect) {
      tools.rectangle(rect);
      editor.finished("Rectangle");
    },
    /** What a tool did is told to those who do not see it. */
    finished(label) {
      if (label) announce(`${label}: done.`);
      refresh();
    },
    /** Back into the page. Gives whether it was large. */
    shrink() {
      const was = isLarge();
      setLarge(false);
      return was;
    },
  };

  function filter(kind) {
    const [change, label] = filters[kind];
    if (state.layer !== "mask") return;
    const { mask } = doc.content;
    const rect = kind === "invert" ? whole(mask) : touched(mask, settings.reach);
    const isDone = rect && doc.apply("mask", label, (layer) => change(layer, settings.reach), rect);
    announce(isDone ? `${label}.` : "The mask is empty.");
  }

  function everywhere(label, change) {
    doc.apply(state.layer, label, (layer) => {
      change(layer);
      return whole(layer);
    });
    announce(`${label}.`);
  }

  function isLarge() {
    return root.classList.contains("em-canvas-large");
  }

  function setLarge(isOn) {
    if (isOn === isLarge()) return;
    root.classList.toggle("em-canvas-large", isOn);
    document.body.classList.toggle("em-canvas-over", isOn);
    requestAnimationFrame(view.fit);
    stage.focus({ preventScroll: true });
    refresh();
  }

  async function openFile(file) {
    try {
      root.dataset.busy = "yes";
      const bitmap = await decode(file, file.name);
      doc.open(makeContent({ bitmap, levels: await levelsOf(bitmap), blob: file }), undefined, "Picture");
      if (settings.isUsual) settings.set({ size: Math.min(bitmap.width, bitmap.height) / USUAL_SHARE });
      announce(`Picture of ${bitmap.width} by ${bitmap.height} pixels opened.`);
    } catch (error) {
      failed(error);
    } finally {
      delete root.dataset.busy;
    }
  }

  async function loadMask(file) {
    try {
      const { content } = doc;
      const bitmap = await decode(file, file.name);
      const layer = maskFrom(bitmap, content.width, content.height);
      if (content !== doc.content) return;
      doc.apply("mask", "Mask loaded", (mask) => {
        putBack(mask, whole(mask), layer.data);
        return whole(mask);
      });
      const isFitting = bitmap.width === content.width && bitmap.height === content.height;
      announce(isFitting ? "Mask loaded." : `The mask of ${bitmap.width} by ${bitmap.height} pixels was brought to the picture's size.`);
    } catch (error) {
      failed(error);
    }
  }

  async function saveMask({ mask }) {
    const url = URL.createObjectURL(await encodePng(mask));
    element("a", "", "", { href: url, download: "mask.png" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  function choose(accept, use) {
    const input = element("input", "", "", { type: "file", accept, onchange: () => input.files[0] && use(input.files[0]) });
    input.click();
  }

  function tellFacts() {
    const { content } = doc;
    facts.textContent = content ? [`${content.width} × ${content.height}`, ...masked(content)].join(" · ") : "";
  }

  const masked = ({ mask }) => (abilities.masks ? [`${(100 * meanOf(mask)).toFixed(1)} % masked`] : []);

  // Putting it together.
  const panel = makePanel(editor);
  const moveEdges = abilities.borders ? makeEdges({ stage, document: doc, view }) : () => {};
  const hint = element("p", "em-canvas-hint", "Drop or paste a picture here");
  const back = element("button", "em-canvas-button", "Bring the last picture back", { type: "button", onclick: () => editor.run("undo") });
  empty.append(element("span", "em-canvas-mark", "", { "aria-hidden": "true" }), hint, element("button", "em-canvas-button em-canvas-open", "Open a picture", { type: "button", onclick: commands.open }), back);
  stage.append(empty);
  const foot = element("div", "em-canvas-foot");
  foot.append(facts, panel.actions);
  const body = element("div", "em-canvas-body");
  body.append(panel.bar, panel.options, stage, foot, spoken);
  root.replaceChildren(body);
  stage.dataset.tool = state.tool;

  refresh = () => {
    root.dataset.empty = doc.content ? "no" : "yes";
    back.hidden = !doc.canUndo();
    stage.dataset.layer = state.layer;
    panel.update();
    moveEdges();
    cursor.update();
  };
  connectPointer(stage, editor);
  connectKeys(stage, editor);
  settings.watch(() => {
    refresh();
    view.redraw();
  });
  doc.watch(({ kind }) => {
    clearTimeout(restTimer);
    restTimer = setTimeout(tellFacts, kind === "pixels" ? REST_MS : 0);
    if (kind !== "pixels") refresh();
  });
  stage.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "pen" || hasPen) return;
    hasPen = true;
    refresh();
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Tab" && isLarge()) keepInside(event);
    // From everywhere in the editor; in the stage mask_keys.js has seen it before.
    if (event.key === "Escape" && !event.defaultPrevented && editor.shrink()) event.preventDefault();
    const isUndo = (event.ctrlKey || event.metaKey) && ["z", "y"].includes(event.key.toLowerCase());
    if (!isUndo || event.defaultPrevented || event.target.matches("input")) return;
    event.preventDefault();
    editor.run(event.key.toLowerCase() === "y" || event.shiftKey ? "redo" : "undo");
  });
  /** What lies behind an editor that fills the window is not reached by Tab. */
  function keepInside(event) {
    const stops = [...root.querySelectorAll("button, input, [tabindex]")].filter((one) => one.tabIndex >= 0 && !one.disabled && one.checkVisibility());
    const [from, to] = event.shiftKey ? [stops[0], stops.at(-1)] : [stops.at(-1), stops[0]];
    if (document.activeElement !== from) return;
    event.preventDefault();
    to.focus();
  }

  refresh();
  tellFacts();
  return { openFile, announce, stage };
}

const said = (label, done, otherwise) => (label ? `${done}: ${label}.` : `${otherwise}.`);

function fillWith({ data }, colour) {
  for (let at = 0; at < data.length; at++) data[at] = colour[at % 4];
}
