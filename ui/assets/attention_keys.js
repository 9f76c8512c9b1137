// Ctrl+Up and Ctrl+Down in a prompt: more or less weight for the selected text, or the word at the cursor.

const STEP = 0.1;
const AROUND_A_WORD = /[\s,()[\]<>:|]/;
const WEIGHT_BEHIND = /^:\s*([0-9]*\.?[0-9]+)\s*\)/;

document.addEventListener("keydown", (event) => {
  const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (!direction || !(event.ctrlKey || event.metaKey) || !event.target.matches?.(".em-prompt textarea")) return;
  event.preventDefault();
  const edited = weighted(event.target, direction * STEP);
  if (!edited) return;
  const area = event.target;
  area.value = edited.text;
  area.setSelectionRange(edited.start, edited.end);
  area.dispatchEvent(new Event("input", { bubbles: true }));
});

/** The text with the weight of its selection changed, and where the selection is then; null when there is no word. */
export function weighted({ value, selectionStart, selectionEnd }, change) {
  const [start, end] = selectionStart === selectionEnd ? wordAt(value, selectionStart) : [selectionStart, selectionEnd];
  if (start === end) return null;
  const inner = value.slice(start, end);
  const behind = WEIGHT_BEHIND.exec(value.slice(end));
  if (value[start - 1] === "(" && behind) {
    const weight = rounded(Number(behind[1]) + change);
    const before = value.slice(0, start - 1);
    const after = value.slice(end + behind[0].length);
    if (weight === 1) return { text: before + inner + after, start: start - 1, end: end - 1 };
    if (weight < 0) return null;
    return { text: `${before}(${inner}:${weight})${after}`, start, end };
  }
  const text = `${value.slice(0, start)}(${inner}:${rounded(1 + change)})${value.slice(end)}`;
  return { text, start: start + 1, end: end + 1 };
}

function wordAt(text, at) {
  let [start, end] = [at, at];
  while (start > 0 && !AROUND_A_WORD.test(text[start - 1])) start--;
  while (end < text.length && !AROUND_A_WORD.test(text[end])) end++;
  return [start, end];
}

const rounded = (number) => Math.round(number * 100) / 100;
