// Light, dark, or what the system says. Gradio keeps the class "dark" on the body; we only decide.
// What was chosen here counts more than --theme, which opens the page with ?__theme=.

const KEY = "emulsion.theme";
const NAMES = ["system", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
let tell = () => {};

const chosen = () => {
  const name = localStorage.getItem(KEY) ?? new URLSearchParams(location.search).get("__theme");
  return NAMES.includes(name) ? name : "system";
};

function paint() {
  const name = chosen();
  const isDark = name === "dark" || (name === "system" && system.matches);
  document.body.classList.toggle("dark", isDark);
  document.documentElement.style.colorScheme = isDark ? "dark" : "light";
}

function apply() {
  paint();
  tell(chosen());
}

/** Call `watcher` with the name of the theme, now and at every change. */
export function followTheme(watcher) {
  tell = watcher;
  apply();
}

export function nextTheme() {
  localStorage.setItem(KEY, NAMES[(NAMES.indexOf(chosen()) + 1) % NAMES.length]);
  apply();
}

system.addEventListener("change", apply);

// Gradio sets the class too, when it has started and when the system changes, and knows nothing of the choice.
new MutationObserver(paint).observe(document.body, { attributes: true, attributeFilter: ["class"] });
