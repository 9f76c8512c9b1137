// Canvases by the ids of their components. What is on one survives a change of the tab and a reload of the page.

import { makeDocument } from "./mask_document.js";
import { makeEditor } from "./mask_editor.js";
import { GoneError } from "./mask_pictures.js";
import { makeSaving } from "./mask_saving.js";
import { makeSettings } from "./mask_settings.js";
import { tellProblem } from "./messages.js";
import { address } from "./server.js";

const keyOf = (id) => `emulsion.canvas.${id}`;
const canvases = new Map(); // id -> what `canvasOf` gives; it outlives its element
const settings = makeSettings();
const OURS = ["outputs/", "api/v1/pictures/"];
const failed = (error) => tellProblem(`The canvas: ${error.message}`);

export function mount({ element, props, send, watch }) {
  const root = element.querySelector(".em-canvas");
  const { canvas: id, name, masks, paints, borders } = root.dataset;
  const canvas = canvasFor(id);
  const abilities = { masks: masks === "yes", paints: paints === "yes", borders: borders === "yes" };
  canvas.editor = makeEditor({ root, name, document: canvas.document, settings, abilities, failed });
  canvas.root = root;
  canvas.changed = (text) => {
    if (props.value === text) return;
    props.value = text;
    send.change();
  };
  const receive = () => {
    const value = props.value ?? "";
    if (value === canvas.wanted) return;
    // Gradio hands out the "" of the beginning at any time after mounting, so that it means nothing here.
    if (value) take(canvas, value, "Picture");
    else canvas.changed(canvas.wanted);
  };
  watch("value", receive);
  connectDrops(root, canvas);
  // What the page brings goes before what is here, and that before what this browser kept.
  if (props.value) receive();
  else if (canvas.wanted) canvas.changed(canvas.wanted);
  else take(canvas, localStorage.getItem(keyOf(id)) ?? "");
}

/** {document, flush, text} of a canvas, null where no such canvas was ever there. */
export const canvasOf = (id) => canvases.get(id) ?? null;

/** Wait until everything on the canvas is stored; gives its value. Throws when that fails. */
export async function flush(id) {
  return (await canvases.get(id)?.flush()) ?? localStorage.getItem(keyOf(id)) ?? "";
}

/** The same for the `js` of an event, whose errors nobody sees: they are told, and the event goes no further. */
export async function flushed(id) {
  try {
    return await flush(id);
  } catch (error) {
    failed(error);
    throw error;
  }
}

/**
 * Show other pictures, by their hashes; what is left out is none. It can be undone, and works for a canvas in a tab
 * that nobody has opened yet.
 */
export async function setCanvas(id, { picture = null, mask = null, borders = null, base = null, paint = null } = {}) {
  const text = picture ? JSON.stringify({ picture, mask, borders, ...(paint ? { base, paint } : {}) }) : "";
  await take(canvasFor(id), text, "Picture");
}

/** Show the picture in a file, which is stored as it is. */
export async function openPicture(id, file) {
  await canvases.get(id)?.editor?.openFile(file);
}

function canvasFor(id) {
  if (!canvases.has(id)) canvases.set(id, makeCanvas(id));
  return canvases.get(id);
}

function makeCanvas(id) {
  const doc = makeDocument();
  const canvas = { id, document: doc, editor: null, root: null, wanted: "", changed: () => {}, flush: null };
  const saving = makeSaving({
    document: doc,
    failed,
    changed(text) {
      canvas.wanted = text;
      keep(id, text);
      canvas.changed(text);
    },
  });
  canvas.saving = saving;
  canvas.flush = saving.flush;
  document.addEventListener("visibilitychange", () => document.hidden && saving.flush().catch(failed));
  return canvas;
}

/** Take over a value from elsewhere. */
async function take(canvas, text, label = "") {
  canvas.wanted = text;
  try {
    await canvas.saving.load(text, label);
    if (canvas.wanted !== text) return; // there was something newer
    canvas.wanted = canvas.saving.text;
    canvas.changed(canvas.wanted);
  } catch (error) {
    failed(error);
    if (!(error instanceof GoneError || error instanceof SyntaxError)) return; // it may work the next time
    canvas.wanted = "";
    keep(canvas.id, "");
    canvas.changed("");
  }
}

function keep(id, text) {
  if (text) localStorage.setItem(keyOf(id), text);
  else localStorage.removeItem(keyOf(id));
}

function connectDrops(root, canvas) {
  const isOver = (event, isOn) => {
    event.preventDefault();
    root.dataset.over = isOn ? "yes" : "no";
  };
  root.addEventListener("dragover", (event) => isOver(event, true));
  root.addEventListener("dragleave", (event) => !root.contains(event.relatedTarget) && isOver(event, false));
  root.addEventListener("drop", (event) => {
    isOver(event, false);
    event.stopPropagation();
    openDropped(canvas, event.dataTransfer);
  });
}

async function openDropped(canvas, data) {
  const file = pictureIn(data);
  const url = data.getData("text/uri-list");
  if (file) return canvas.editor.openFile(file);
  if (!OURS.some((folder) => url.startsWith(address(folder)))) return tellProblem("Only pictures can be dropped on the canvas: files, or pictures of this page.");
  try {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`the server answered ${answer.status} for the picture`);
    await canvas.editor.openFile(await answer.blob());
  } catch (error) {
    failed(error);
  }
}

const pictureIn = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));

// A pasted picture goes to the canvas that has the focus, else to one that is seen, unless it is pasted into a field.
document.addEventListener("paste", (event) => {
  const file = pictureIn(event.clipboardData);
  if (!file || event.defaultPrevented || event.target.closest?.("input, textarea")) return;
  const shown = [...canvases.values()].filter(({ root }) => root?.isConnected && root.offsetParent);
  const canvas = shown.find(({ root }) => root.contains(document.activeElement)) ?? shown[0];
  if (!canvas) return;
  event.preventDefault();
  canvas.editor.openFile(file);
});
