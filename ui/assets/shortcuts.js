// Ctrl+Enter generates, Esc cancels, Alt+1 to Alt+9 change the tab, arrow keys move between tabs.

import { cancelCurrent } from "./jobs.js";
import { tabsShown } from "./tabs.js";

const isVisible = (element) => element.offsetParent !== null;

document.addEventListener("keydown", (event) => {
  const isCommand = event.ctrlKey || event.metaKey;
  if (isCommand && event.key === "Enter") generate(event);
  else if (event.key === "Escape") escape(event);
  else if (event.altKey && /^[1-9]$/.test(event.key)) open(event, tabsShown()[Number(event.key) - 1]);
  else if (event.target.getAttribute?.("role") === "tab") moveBetweenTabs(event);
});

function generate(event) {
  const button = [...document.querySelectorAll("button.em-generate")].find(isVisible);
  if (!button) return;
  event.preventDefault();
  button.click();
}

function escape(event) {
  // In an open list Esc closes the list, and nothing else.
  const isInList = event.target.getAttribute?.("aria-expanded") === "true";
  if (!event.defaultPrevented && !isInList && !document.querySelector("dialog[open]")) cancelCurrent();
}

function moveBetweenTabs(event) {
  const all = tabsShown();
  const at = all.indexOf(event.target);
  const next = {
    ArrowRight: all[(at + 1) % all.length],
    ArrowLeft: all[(at - 1 + all.length) % all.length],
    Home: all[0],
    End: all.at(-1),
  }[event.key];
  open(event, next);
}

function open(event, tab) {
  if (!tab) return;
  event.preventDefault();
  tab.click();
  tab.focus();
}
