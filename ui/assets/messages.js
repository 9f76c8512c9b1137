// What the user is told: a line that stays until it is closed, and notes that go away by themselves.

const NOTE_SECONDS = 5;
let line = null;

/** Where lines are shown; called once by the status line. */
export function useLine(show) {
  line = show;
}

export function tellProblem(text) {
  line?.("problem", text);
  note(text, "problem");
}

export function tellNotice(text) {
  line?.("notice", text);
}

export function clearLine() {
  line?.("", "");
}

/** A note in the corner. kind: "done" or "problem". */
export function note(text, kind = "done") {
  const element = document.createElement("div");
  element.className = `em-note em-note-${kind}`;
  element.textContent = text.length > 240 ? `${text.slice(0, 240)}…` : text;
  const stack = noteStack();
  while (stack.childElementCount > 2) stack.firstElementChild.remove();
  stack.append(element);
  const timer = setTimeout(() => element.remove(), NOTE_SECONDS * 1000);
  element.addEventListener("click", () => {
    clearTimeout(timer);
    element.remove();
  });
}

function noteStack() {
  let stack = document.querySelector(".em-notes");
  if (!stack) {
    stack = document.createElement("div");
    stack.className = "em-notes";
    stack.setAttribute("role", "status");
    document.body.append(stack);
  }
  return stack;
}
