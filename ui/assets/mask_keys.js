// The keyboard on the stage: tools, sizes, the view, and a crosshair that paints like a pointer.

import { TOOLS } from "./mask_tools.js";

const NEAR = 24; // CSS pixels from the stage's edge, where the picture moves along with the crosshair
const STEP = 8; // CSS pixels for one press of an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ZOOM = 1.25;

/** editor: as in mask_pointer.js, with `run(command)`. */
export function connectKeys(stage, editor) {
  const { document: doc, view, tools, settings, state, cursor, announce } = editor;
  const cross = { x: 0, y: 0, isPlaced: false };

  doc.watch(({ kind }) => {
    if (kind === "picture") cross.isPlaced = false;
  });

  const plain = {
    "[": () => settings.resize(-1),
    "]": () => settings.resize(1),
    "{": () => settings.harden(-1),
    "}": () => settings.harden(1),
    "+": () => view.zoomBy(ZOOM),
    "=": () => view.zoomBy(ZOOM),
    "-": () => view.zoomBy(1 / ZOOM),
    0: view.fit,
    1: view.actualSize,
    i: () => editor.run("invert"),
    m: () => editor.run("peek"),
    x: () => editor.run("erases"),
    Enter: pressCross,
    Delete: () => editor.run("clear"),
    Backspace: () => editor.run("clear"),
    ...Object.fromEntries(TOOLS.map(([name, , key]) => [key, () => editor.choose(name)])),
  };
  const withCtrl = { z: (event) => editor.run(event.shiftKey ? "redo" : "undo"), y: () => editor.run("redo"), a: () => editor.run("fill") };

  function down(event) {
    if (!doc.content || event.target !== stage) return;
    const isBracket = "[]{}".includes(event.key); // where they need AltGr, that reads as Ctrl and Alt
    const isCommand = (event.ctrlKey || event.metaKey) && !isBracket;
    if (event.altKey && !isBracket) return;
    if (event.key === "Escape") return escape(event);
    if (event.key === " ") {
      event.preventDefault();
      if (!event.repeat) Object.assign(state, { isSpaceDown: true, hasPanned: false });
      stage.dataset.panning ||= "ready";
      return;
    }
    if (event.key in ARROWS && !isCommand) return moveCross(event);
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const command = isCommand ? withCtrl[name] : plain[name];
    if (!command) return;
    event.preventDefault();
    command(event);
    cursor.update();
  }

  function up(event) {
    if (event.key !== " " || !state.isSpaceDown) return;
    const isTap = !state.hasPanned;
    lift();
    if (!isTap || !doc.content) return;
    place();
    tools.begin(middle());
    editor.finished(tools.end());
  }

  function lift() {
    state.isSpaceDown = false;
    if (stage.dataset.panning === "ready") stage.dataset.panning = "";
  }

  /** Esc ends what is under way, and only then cancels jobs. */
  function escape(event) {
    if (tools.isBusy) tools.cancel();
    else if (!editor.shrink()) return;
    event.preventDefault();
    announce("Cancelled.");
  }

  /** The middle of what is seen, when the crosshair has no place yet. */
  function place() {
    if (!cross.isPlaced) {
      const box = stage.getBoundingClientRect();
      const seen = view.toPicture(box.left + box.width / 2, box.top + box.height / 2);
      const { width, height } = doc.content;
      Object.assign(cross, { x: Math.floor(Math.min(width - 1, Math.max(0, seen.x))), y: Math.floor(Math.min(height - 1, Math.max(0, seen.y))), isPlaced: true });
    }
    cursor.cross(cross);
  }

  const middle = () => ({ x: cross.x + 0.5, y: cross.y + 0.5, pressure: 1, isPixel: true });

  function moveCross(event) {
    event.preventDefault();
    const [right, down] = ARROWS[event.key];
    if (state.tool === "hand") return view.panBy(-right * 5 * STEP, -down * 5 * STEP);
    place();
    const by = event.shiftKey ? 1 : Math.max(1, Math.round(STEP / view.cssScale));
    const { width, height } = doc.content;
    cross.x = Math.min(width - 1, Math.max(0, cross.x + right * by));
    cross.y = Math.min(height - 1, Math.max(0, cross.y + down * by));
    follow();
    if (tools.isBusy) tools.move(middle());
    cursor.cross(cross);
    announce(`${cross.x}, ${cross.y}`);
  }

  /** Move the picture so that the crosshair stays in sight. */
  function follow() {
    const at = view.toStage(middle());
    const beyond = (place, length) => Math.max(0, place - (length - NEAR)) - Math.max(0, NEAR - place);
    const [x, y] = [beyond(at.x, stage.clientWidth), beyond(at.y, stage.clientHeight)];
    if (x || y) view.panBy(-x, -y);
  }

  /** Enter puts the tool down, and lifts it again; the arrow keys move it in between. */
  function pressCross() {
    place();
    if (tools.isBusy) {
      editor.finished(tools.end());
      return;
    }
    tools.begin(middle());
    announce("Down. Arrow keys draw, Enter ends, Escape cancels.");
  }

  stage.addEventListener("keydown", down);
  stage.addEventListener("keyup", up);
  stage.addEventListener("blur", () => {
    lift();
    cursor.hide();
  });
}
