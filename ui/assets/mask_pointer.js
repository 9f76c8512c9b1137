// Mouse, pen and fingers on the stage: painting, moving with two fingers or the space bar, sizes by the wheel.

const ZOOM_STEP = 1.0015; // for one unit of the wheel
const LINE = 16; // units of the wheel, where it counts lines
const ERASER_BUTTON = 5; // the other end of a pen
const SECONDARY = 2;
const MIDDLE = 1;

/** editor: {document, view, tools, settings, state, cursor, announce}. */
export function connectPointer(stage, editor) {
  const { document: doc, view, tools, settings, state, cursor } = editor;
  const fingers = new Map(); // id -> {x, y} in the window
  let mode = null; // "paint", "pan" or "pinch"
  let last = null;

  const pointOf = (event) => ({
    ...view.toPicture(event.clientX, event.clientY),
    pressure: event.pointerType === "pen" && event.pressure > 0 ? event.pressure : 1,
  });

  function begin(event) {
    if (!doc.content || event.target.closest("button, input, label")) return;
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    event.preventDefault();
    if (event.pointerType === "touch" && fingers.size > 1) {
      tools.cancel();
      mode = "pinch";
      return;
    }
    last = { x: event.clientX, y: event.clientY };
    const pans = event.button === MIDDLE || state.isSpaceDown || state.tool === "hand";
    mode = pans ? "pan" : "paint";
    state.hasPanned ||= pans;
    stage.dataset.panning = pans ? "now" : "";
    const erases = state.erases || event.button === SECONDARY || event.button === ERASER_BUTTON;
    if (!pans) tools.begin(pointOf(event), erases);
  }

  function move(event) {
    if (doc.content) cursor.follow(event.clientX, event.clientY);
    if (!fingers.has(event.pointerId)) return;
    if (mode === "pinch") pinch(event);
    else if (mode === "pan") {
      view.panBy(event.clientX - last.x, event.clientY - last.y);
      last = { x: event.clientX, y: event.clientY };
    } else if (mode === "paint") {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) tools.move(pointOf(one));
    }
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  /** Two fingers move the picture with them, and their distance is its scale. */
  function pinch(event) {
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    const before = fingers.get(event.pointerId);
    if (!other) return;
    const now = { x: event.clientX, y: event.clientY };
    const spread = (point) => Math.max(1, Math.hypot(point.x - other.x, point.y - other.y));
    const box = stage.getBoundingClientRect();
    view.panBy((now.x - before.x) / 2, (now.y - before.y) / 2);
    view.zoomBy(spread(now) / spread(before), (now.x + other.x) / 2 - box.left, (now.y + other.y) / 2 - box.top);
  }

  function end(event) {
    if (!fingers.delete(event.pointerId)) return;
    if (mode === "paint") editor.finished(tools.end());
    if (!fingers.size) {
      mode = null;
      stage.dataset.panning = "";
    }
  }

  function cancel(event) {
    if (fingers.delete(event.pointerId)) tools.cancel();
    mode = null;
  }

  function turnWheel(event) {
    if (!doc.content) return;
    event.preventDefault();
    const units = (event.deltaY || event.deltaX) * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE : 1);
    if (!units) return;
    const box = stage.getBoundingClientRect();
    if (event.altKey) settings.resize(-Math.sign(units));
    else if (event.shiftKey) settings.harden(-Math.sign(units));
    else view.zoomBy(ZOOM_STEP ** -(event.ctrlKey ? units * 5 : units), event.clientX - box.left, event.clientY - box.top);
    cursor.update();
  }

  stage.addEventListener("pointerdown", begin);
  stage.addEventListener("pointermove", move);
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", cancel);
  stage.addEventListener("pointerleave", () => cursor.hide());
  stage.addEventListener("wheel", turnWheel, { passive: false });
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
}
