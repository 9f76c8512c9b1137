// The Plots tab: boards whose pictures are made as a form says, but for what changes along axes or lines.

import { element } from "./elements.js";
import { formValues, requestOf } from "./form.js";
import { watchJobs } from "./jobs.js";
import { clearLine, note, tellProblem, useLine } from "./messages.js";
import { axisEditor, axisKinds } from "./plot_axes.js";
import { showBoards } from "./plot_board.js";
import { ask } from "./server.js";

const NAMES = ["X", "Y", "Z", "4", "5", "6"];
const USUAL = 3; // of the axes, to begin with
const SHOWN = 20; // of the newest
const PAUSE_MS = 350;
const AGAIN_MS = 400; // between two looks at the boards

export function mount({ element: host }) {
  const find = (name) => host.querySelector(`[data-part="${name}"]`);
  const boards = new Map(); // by id
  let axes = [];
  let plots = [];
  let timer = 0;
  let asked = 0;
  useLine((kind, message) => {
    find("line").hidden = !message;
    find("line").dataset.kind = kind;
    find("line").querySelector(".em-status-text").textContent = message;
  });
  find("line").querySelector(".em-close").addEventListener("click", clearLine);

  axisKinds().then(
    (kinds) => {
      const targetsOf = (kind) => (kind.endsWith("_parts") ? [["end", "at the end"], ["start", "at the start"]] : null);
      const add = () => {
        const isFirst = axes.length === 0;
        const name = NAMES[axes.length];
        const given = { kind: isFirst ? "seed" : "", values: isFirst ? "1-4" : "" };
        axes.push(axisEditor({ name: `axis ${name}`, title: `Axis ${name}`, ...given, kinds, targetsOf, onchange: checkSoon }));
        find("axes").append(axes.at(-1).box);
        find("add").hidden = axes.length === NAMES.length;
      };
      for (let count = 0; count < USUAL; count++) add();
      find("add").addEventListener("click", add);
      checkSoon();
    },
    (error) => tellProblem(error.message),
  );

  find("swap").addEventListener("click", () => {
    const [x, y] = axes.slice(0, 2).map((axis) => axis.read() ?? { kind: "", target: "", values: "" });
    axes[0].write(y);
    axes[1].write(x);
  });
  for (const name of ["way", "base", "matrix", "at", "lines", "seeds", "loops", "rounds", "final", "curve"]) find(name).addEventListener("input", draw);
  find("file").addEventListener("change", async () => {
    const [file] = find("file").files;
    if (file) find("lines").value = await file.text();
    draw();
  });
  find("start").addEventListener("click", start);

  function draw() {
    const way = find("way").value;
    for (const part of host.querySelectorAll("[data-way]")) part.hidden = !part.dataset.way.split(" ").includes(way);
    find("loop").hidden = find("base").value === "txt2img";
    find("loop-fields").hidden = !find("loops").checked;
    checkSoon();
  }

  /** What is asked for. Throws when the form is not there. */
  function body() {
    const base = find("base").value;
    const values = formValues(base);
    if (!values) throw new Error(`Open the ${base} tab once, so that its form is there.`);
    const made = { request: requestOf(values), different_seeds: find("seeds").checked };
    const given = axes.map((axis) => axis.read());
    const way = find("way").value;
    if (way === "axes") made.axes = given.filter(Boolean);
    if (way === "matrix") made.matrix = { field: find("matrix").value, at_start: find("at").value === "start" };
    if (way === "lines") {
      made.lines = find("lines").value;
      made.lines_at = find("at").value;
    }
    if (base !== "txt2img" && find("loops").checked) {
      const last = find("final").valueAsNumber;
      made.loopback = { rounds: find("rounds").valueAsNumber, final_strength: Number.isFinite(last) ? last : null, curve: find("curve").value };
    }
    return made;
  }

  function checkSoon() {
    clearTimeout(timer);
    timer = setTimeout(check, PAUSE_MS);
  }

  async function check() {
    const number = ++asked;
    const inUse = axes.filter((axis) => axis.read());
    try {
      const { pictures, seconds, axes: found, problem, field } = await ask("api/v1/plots/check", body());
      if (number !== asked) return;
      const at = axisOf(field);
      inUse.forEach((axis, index) => axis.tell(index === at ? problem : "", found[index]?.labels.length));
      const time = seconds === null ? "" : `, about ${duration(seconds)}`;
      tell(problem || `${pictures} ${pictures === 1 ? "picture" : "pictures"}${time}`, Boolean(problem));
    } catch (error) {
      if (number === asked) tell(error.message, true);
    }
  }

  function tell(text, isProblem) {
    find("count").textContent = text;
    find("count").classList.toggle("em-merge-problem", isProblem);
  }

  async function start() {
    try {
      await ask("api/v1/plots", body());
      note("The board is queued; every picture is a job.");
      await open();
    } catch (error) {
      tellProblem(`No board: ${error.message}`);
    }
  }

  let isOpening = false;
  let isWanted = false;

  /** Ask for the boards, once at a time and not too often. */
  async function open() {
    isWanted = true;
    if (isOpening) return;
    isOpening = true;
    while (isWanted) {
      isWanted = false;
      try {
        plots = await ask(`api/v1/plots?limit=${SHOWN}`);
        showBoards(find("boards"), boards, plots, open);
        find("none").hidden = plots.length > 0;
      } catch {
        // The line at the top says when the server does not answer.
      }
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
    isOpening = false;
  }

  watchJobs(({ changed, isFirst }) => {
    const ids = new Set(plots.flatMap((plot) => plot.cells.map((cell) => cell.job)));
    if (isFirst || changed.some((job) => ids.has(job.id) || plots.some((plot) => !plot.has_ended))) open();
  });
  new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && checkSoon()).observe(host);
  draw();
  open();
}

/** Which of the axes in use the server means by "x.values" or "axes[3].values"; -1 for none. */
function axisOf(field) {
  const [, letter, index] = /^(?:([xyz])|axes\[(\d+)\])(?:\.|$)/.exec(field) ?? [];
  return letter ? "xyz".indexOf(letter) : Number(index ?? -1);
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} minutes` : `${(minutes / 60).toFixed(1)} hours`;
}
