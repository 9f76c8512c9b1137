// What the user is told: a line that stays until it is closed, and notes that go away by themselves.

const NOTE_SECONDS = 5;
const lines = new Set();
const line = (kind, text) => lines.forEach((show) => show(kind, text));

/** Where lines are shown: each tab that can cause one has its own, and all say the same. */
export function useLine(show) {
  lines.add(show);
}

export function tellProblem(text) {
  line("problem", text);
  note(text, "problem");
}

export function tellNotice(text) {
  line("notice", text);
}

export function clearLine() {
  line("", "");
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
