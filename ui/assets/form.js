// The form as a whole: this browser keeps what was typed, and texts from elsewhere fill it.

const KEY = "emulsion.txt2img";
const PAUSE_MS = 300;
let timer = 0;
let sendText = null;

export function mount({ send, watch }) {
  sendText = (text) => send.pasted({ text });
  watch("value", () => (document.body.dataset.form = "open")); // the server has brought back what was kept
  send.opened({ values: kept() });
}

/** Fill the form from an infotext. */
export const fillForm = (text) => sendText?.(text);

/** Remember the values of the fields called `names`. */
export function keep(names, ...values) {
  if (document.body.dataset.form !== "open") return;
  clearTimeout(timer);
  timer = setTimeout(() => {
    const fields = Object.fromEntries(names.map((name, index) => [name, values[index]]));
    localStorage.setItem(KEY, JSON.stringify(fields));
  }, PAUSE_MS);
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
