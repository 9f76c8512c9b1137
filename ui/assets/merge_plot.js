// X/Y plots: pictures over one or two numbers of the recipe or the request. They survive reloads and restarts.

import { action, element, labelled, select } from "./elements.js";
import { watchJobs } from "./jobs.js";
import { openLightbox } from "./lightbox.js";
import { previewRequest } from "./merge_preview.js";
import { note, tellProblem } from "./messages.js";
import { address, ask } from "./server.js";

const KINDS = [
  ["parameter", "Number of the rule"],
  ["block", "Block"],
  ["rule", "Rule"],
  ["checkpoint", "Checkpoint"],
  ["seed", "Seed"],
  ["steps", "Steps"],
  ["guidance_scale", "Guidance"],
];
const SHOWN = 6; // of the newest
const NAMES = new Set(["rule", "checkpoint"]);

/** "0-1 (+0.25)", "0-1 [5]", or values with commas. Throws for what is none of them. */
export function valuesOf(text, isNames) {
  const given = text.trim();
  if (isNames) return given.split(",").map((part) => part.trim()).filter(Boolean);
  const number = "(-?\\d*\\.?\\d+)";
  const stepped = given.match(new RegExp(`^${number}\\s*-\\s*${number}\\s*\\(\\s*([+-]?\\d*\\.?\\d+)\\s*\\)$`));
  const counted = given.match(new RegExp(`^${number}\\s*-\\s*${number}\\s*\\[\\s*(\\d+)\\s*\\]$`));
  const exact = (value) => Number(value.toFixed(6));
  if (stepped) {
    const [from, to, step] = stepped.slice(1).map(Number);
    const count = step ? Math.floor((to - from) / step + 1e-9) + 1 : 0;
    if (count < 1 || count > 100) throw new Error(`"${given}" comes to no values, or to more than 100.`);
    return Array.from({ length: count }, (_, index) => exact(from + index * step));
  }
  if (counted) {
    const [from, to, count] = counted.slice(1).map(Number);
    if (count < 1 || count > 100) throw new Error(`"${given}" comes to no values, or to more than 100.`);
    return Array.from({ length: count }, (_, index) => exact(count === 1 ? from : from + ((to - from) * index) / (count - 1)));
  }
  const values = given.split(",").filter((part) => part.trim()).map(Number);
  if (!values.length || !values.every(Number.isFinite)) throw new Error(`"${given}" is no list of numbers such as 0, 0.5, 1 or 0-1 [5].`);
  return values;
}

export function mountPlots(host, studio) {
  const axes = [axisFields("X", studio, "parameter", "0-1 [5]"), axisFields("Y", studio, "", "")];
  const fields = element("div", "em-axes");
  fields.append(...axes.map(({ box }) => box));
  const shown = element("div", "em-plots");
  host.replaceChildren(fields, action("Plot", start, { class: "em-action em-strong" }), shown);
  let plots = [];

  async function start() {
    const { recipe } = studio;
    if (!recipe) return tellProblem("Choose the models first.");
    try {
      const [x, y] = axes.map((axis) => axis.read());
      if (!x) throw new Error("The X axis has no values.");
      const seed = Math.max(0, Math.round(studio.find("seed").valueAsNumber || 0));
      const request = { ...previewRequest(studio.form, studio.find("prompt").value, seed), recipe };
      await ask("api/v1/plots", { request, x, y });
      note("The plot is queued; every cell is a job.");
      await open();
    } catch (error) {
      tellProblem(`No plot: ${error.message}`);
    }
  }

  async function open() {
    try {
      plots = (await ask("api/v1/plots")).slice(0, SHOWN);
      draw();
    } catch {
      // The line at the top says when the server does not answer.
    }
  }

  function draw() {
    shown.replaceChildren(...plots.map(gridOf));
  }

  function gridOf(plot) {
    const box = element("section", "em-plot");
    const head = element("div", "em-panel-head");
    const ended = plot.cells.filter((cell) => ["done", "failed", "cancelled"].includes(cell.state)).length;
    head.append(element("span", "em-quiet", `${plot.x.label}${plot.y ? ` by ${plot.y.label}` : ""}: ${ended} of ${plot.cells.length}`));
    if (plot.grid) head.append(element("a", "em-action", "Grid picture", { href: address(plot.grid), target: "_blank", rel: "noopener" }));
    head.append(action("Remove", async () => {
      try {
        await ask(`api/v1/plots/${plot.id}`, undefined, { method: "DELETE" });
      } catch (error) {
        tellProblem(error.message);
      }
      open();
    }));
    const table = element("table", "em-plot-grid");
    const columns = plot.x.labels;
    const rows = plot.y?.labels ?? [null];
    const top = element("tr");
    if (plot.y) top.append(element("th"));
    top.append(...columns.map((value) => element("th", "", String(value), { scope: "col" })));
    table.append(top);
    const pictures = plot.cells.filter((cell) => cell.image).map((cell) => cell.image);
    rows.forEach((value, y) => {
      const line = element("tr");
      if (plot.y) line.append(element("th", "", String(value), { scope: "row" }));
      columns.forEach((_, x) => {
        const cell = plot.cells.find((entry) => entry.x === x && entry.y === y);
        const place = element("td", "", "", { title: cell?.error || cell?.state || "" });
        if (cell?.image) {
          const image = element("img", "", "", { src: address(cell.image.thumbnail ?? cell.image.url), alt: `${columns[x]}${plot.y ? `, ${value}` : ""}`, loading: "lazy" });
          image.addEventListener("click", () => openLightbox(pictures, pictures.indexOf(cell.image), () => {}));
          place.append(image);
        } else place.append(element("span", "em-quiet", cell?.state === "failed" ? "failed" : cell?.state ?? ""));
        line.append(place);
      });
      table.append(line);
    });
    const scroll = element("div", "em-plot-scroll");
    scroll.append(table);
    box.append(head, scroll);
    return box;
  }

  watchJobs(({ changed }) => {
    const ids = new Set(plots.flatMap((plot) => plot.cells.map((cell) => cell.job)));
    if (changed.some((job) => ids.has(job.id) && job.state !== "queued")) open();
  });
  return { open };
}

function axisFields(name, studio, kind, text) {
  const box = element("div", "em-axis");
  const values = element("input", "", "", { type: "text", placeholder: "0, 0.5, 1 or 0-1 [5] or 0-1 (+0.25)", "aria-label": `Values of ${name}` });
  values.value = text;
  const target = element("span", "em-target");
  const options = name === "Y" ? [["", "None"], ...KINDS] : KINDS;
  const pick = select(options, kind, () => {
    drawTarget();
    values.value = usualValues();
  }, { "aria-label": `${name} axis` });
  const targets = () =>
    ({
      parameter: studio.parameters.map((parameter) => [parameter.name, parameter.label]),
      block: (studio.layout?.blocks ?? []).map((block) => [block.name, block.name]),
    })[pick.value];
  function drawTarget() {
    const found = targets();
    target.replaceChildren(...(found ? [select(found, found[0]?.[0] ?? "", () => {}, { "aria-label": `What of ${name}` })] : []));
    values.hidden = !pick.value;
  }
  function usualValues() {
    if (pick.value === "rule") return studio.rules.slice(0, 2).map((rule) => rule.name).join(", ");
    if (pick.value === "checkpoint") return studio.checkpoints.slice(0, 3).join(", ");
    return { parameter: "0-1 [5]", block: "0-1 [5]", seed: "1-4 [4]", steps: "10, 20, 40", guidance_scale: "3, 5, 7" }[pick.value] ?? "";
  }
  drawTarget();
  const row = element("div", "em-axis-row");
  row.append(pick, target, values);
  box.append(labelled(`${name} axis`, row));
  return {
    box,
    read() {
      if (!pick.value) return null;
      return { kind: pick.value, target: target.querySelector("select")?.value ?? "", values: valuesOf(values.value, NAMES.has(pick.value)) };
    },
  };
}
