// The top line, and what belongs to the whole page: theme, keys, files that are dropped.

import { watchJobs } from "./jobs.js";
import { followTheme, nextTheme } from "./theme.js";
import "./attention_keys.js";
import "./drag_between_tabs.js";
import "./dropped_pictures.js";
import "./generate_gate.js";
import "./restart.js";
import "./shortcuts.js";

export function mount({ element, props }) {
  const connection = element.querySelector(".em-connection");
  const theme = element.querySelector(".em-theme");

  element.querySelector(".em-device").textContent = props.value ?? "";
  followTheme((name) => {
    theme.dataset.theme = name;
    theme.title = `Theme: ${name}`;
    theme.setAttribute("aria-label", `Theme: ${name}`);
  });
  theme.addEventListener("click", nextTheme);
  watchJobs(({ isConnected }) => {
    connection.hidden = isConnected;
  });
}
