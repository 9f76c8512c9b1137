// The Memory tab: asked for while it is looked at, and only then. Names come from files, so they are only ever text.

import { bytes } from "./bytes.js";
import { watchJobs } from "./jobs.js";
import { note, tellProblem } from "./messages.js";
import { ask } from "./server.js";

const EVERY_MS = 2000;

export function mount({ element }) {
  const panel = element.querySelector(".em-memory");
  const find = (name) => panel.querySelector(name);
  const idle = find("#field-idle-unload");
  const compile = find("#field-compile");
  let isAsking = false;

  const show = (report) => {
    find(".em-gauges").replaceChildren(...gaugesOf(report));
    showHeld(find, report);
    showPeaks(find, report);
    if (document.activeElement !== idle) idle.value = report.idle_unload_minutes;
    compile.checked = report.compile_networks;
  };

  const save = async (changes) => {
    try {
      await ask("api/v1/preferences", changes);
      note("Saved.");
    } catch (error) {
      tellProblem(`This was not saved: ${error.message}`);
    }
    idle.blur();
    look();
  };

  const look = async () => {
    if (isAsking || document.hidden || panel.offsetParent === null) return;
    isAsking = true;
    try {
      show(await ask("api/v1/memory"));
    } catch {
      // The line at the top says when the server does not answer.
    } finally {
      isAsking = false;
    }
  };

  const lookAtPictures = async () => {
    try {
      find(".em-stored-pictures").textContent = countOf(await ask("api/v1/pictures"));
    } catch (error) {
      tellProblem(`The stored pictures could not be counted: ${error.message}`);
    }
  };

  find("[data-do=remove-pictures]").addEventListener("click", async () => {
    try {
      const { removed, left } = await ask("api/v1/pictures/remove-unused", {});
      find(".em-stored-pictures").textContent = countOf(left);
      note(`${countOf(removed)} removed.`);
    } catch (error) {
      tellProblem(`Nothing was removed: ${error.message}`);
    }
  });
  find("[data-do=unload]").addEventListener("click", async () => {
    try {
      show(await ask("api/v1/memory/unload", {}));
      note("All models were unloaded.");
    } catch (error) {
      tellProblem(`Nothing was unloaded: ${error.message}`);
    }
  });
  idle.addEventListener("change", () => save({ idle_unload_minutes: idle.valueAsNumber || 0 }));
  compile.addEventListener("change", () => save({ compile_networks: compile.checked }));
  watchJobs(({ changed }) => {
    if (changed.some((job) => job.state !== "queued")) look();
  });
  new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    look();
    lookAtPictures();
  }).observe(panel);
  setInterval(look, EVERY_MS);
}

const countOf = ({ pictures, bytes: size }) => `${pictures} ${pictures === 1 ? "picture" : "pictures"}, ${bytes(size)}`;

function gaugesOf(report) {
  const { machine } = report;
  const gauges = [gauge("Models", report.used, report.budget, "Weights, of the budget for models (--memory-budget)")];
  if (!report.is_host) {
    gauges.push(gauge(report.device, report.total - report.free, report.total, "In use by all programs"));
  }
  const process = `In use by all programs, ${bytes(machine.process)} of it by Emulsion`;
  gauges.push(gauge("This machine", machine.total - machine.free, machine.total, process));
  return gauges;
}

function gauge(name, used, total, what) {
  const box = element("div", "em-gauge");
  const head = element("div", "em-gauge-head");
  head.append(element("span", "em-gauge-name", name), element("span", "em-numbers", `${bytes(used)} of ${bytes(total)}`));
  const level = levelOf(used / Math.max(1, total));
  level.setAttribute("role", "meter");
  level.setAttribute("aria-valuemax", total);
  level.setAttribute("aria-valuenow", used);
  level.setAttribute("aria-valuetext", `${bytes(used)} of ${bytes(total)}`);
  level.setAttribute("aria-label", `${name}: ${what}`);
  box.append(head, level, element("p", "em-quiet", what));
  return box;
}

/** [heading, bytes of a part] of each column. What computes in the host's memory has no second place to be ready in. */
function columnsOf({ is_host: isHost }) {
  const all = ["All weights", (held) => held.total_bytes];
  const streamed = ["Comes and goes", (held) => held.streamed_bytes];
  if (isHost) return [["In memory", (held) => held.device_bytes + held.host_bytes], streamed, all];
  return [["On the device", (held) => held.device_bytes], ["Ready in RAM", (held) => held.host_bytes], streamed, all];
}

function showHeld(find, report) {
  const [table, nothing] = [find(".em-held"), find(".em-nothing-held")];
  table.hidden = report.held.length === 0;
  nothing.hidden = !table.hidden;
  const columns = columnsOf(report);
  table.tHead.rows[0].replaceChildren(...["Part", ...columns.map(([name]) => name)].map(heading));
  table.tBodies[0].replaceChildren(...report.held.map((held) => row(held, columns)));
}

function heading(text) {
  const cell = element("th", "", text);
  cell.scope = "col";
  return cell;
}

function row(held, columns) {
  const line = document.createElement("tr");
  const name = element("th", "em-held-name", held.label);
  name.scope = "row";
  line.append(name);
  for (const [label, sizeOf] of columns) {
    const cell = element("td", "", sizeOf(held) ? bytes(sizeOf(held)) : "–");
    cell.dataset.label = label;
    line.append(cell);
  }
  return line;
}

function showPeaks(find, { peaks = [] }) {
  const list = find(".em-peaks");
  list.hidden = peaks.length === 0;
  find(".em-no-peaks").hidden = !list.hidden;
  const most = Math.max(1, ...peaks.map(sizeOfPeak));
  list.replaceChildren(
    ...peaks.map((peak) => {
      const entry = element("li", "em-peak");
      const size = sizeOfPeak(peak);
      entry.append(element("span", "em-peak-name", peak.stage), levelOf(size / most), element("span", "em-numbers", bytes(size)));
      if (peak.device_bytes !== null) entry.title = `${bytes(peak.host_bytes)} in the machine's memory besides`;
      return entry;
    }),
  );
}

/** What counts is the memory where networks compute. */
const sizeOfPeak = (peak) => peak.device_bytes ?? peak.host_bytes;

function levelOf(share) {
  const level = element("div", "em-level");
  level.style.setProperty("--em-share", Math.min(1, share));
  return level;
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
