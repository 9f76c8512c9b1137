// Rows that are put in order by dragging a handle, with a mouse or a finger, or with Alt and the arrow keys.

/** list: the element whose children are the rows. move(from, to) is called when a row has been dropped elsewhere. */
export function draggableRows(list, move) {
  let held = null; // {row, from, pointer}

  const indexOf = (row) => [...list.children].indexOf(row);

  list.addEventListener("pointerdown", (event) => {
    const handle = event.target.closest(".em-handle");
    if (!handle || event.button !== 0) return;
    const row = [...list.children].find((child) => child.contains(handle));
    held = { row, from: indexOf(row), pointer: event.pointerId };
    list.setPointerCapture(event.pointerId);
    row.classList.add("em-dragged");
    handle.focus({ preventScroll: true });
    event.preventDefault();
  });

  list.addEventListener("pointermove", (event) => {
    if (!held || event.pointerId !== held.pointer) return;
    const others = [...list.children].filter((row) => row !== held.row);
    const before = others.find((row) => {
      const { top, height } = row.getBoundingClientRect();
      return event.clientY < top + height / 2;
    });
    if (before !== held.row.nextElementSibling) list.insertBefore(held.row, before ?? null);
  });

  const drop = (isKept) => {
    if (!held) return;
    const { row, from } = held;
    held = null;
    row.classList.remove("em-dragged");
    const to = indexOf(row);
    if (to === from) return;
    const others = [...list.children].filter((child) => child !== row);
    list.insertBefore(row, others[from] ?? null); // `move` puts it where it belongs
    if (isKept) move(from, to);
    row.querySelector(".em-handle").focus({ preventScroll: true });
  };
  list.addEventListener("pointerup", () => drop(true));
  list.addEventListener("pointercancel", () => drop(false));
  list.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && held) {
      drop(false);
      event.preventDefault();
      return;
    }
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const isHandle = event.target.classList.contains("em-handle");
    if (!by || !(event.altKey || isHandle)) return;
    const from = [...list.children].findIndex((row) => row.contains(event.target));
    const to = from + by;
    event.preventDefault();
    if (from < 0 || to < 0 || to >= list.children.length) return;
    const focused = document.activeElement;
    move(from, to);
    focused.focus(); // a row that moves in the page loses it
  });
}
