// Plots of the Merge tab: pictures over numbers of the recipe, or whatever else an axis can change.

import { action, element } from "./elements.js";
import { watchJobs } from "./jobs.js";
import { previewRequest } from "./merge_preview.js";
import { note, tellProblem } from "./messages.js";
import { axisEditor, axisKinds } from "./plot_axes.js";
import { showBoards } from "./plot_board.js";
import { ask } from "./server.js";

const SHOWN = 6; // of the newest

export function mountPlots(host, studio) {
  const fields = element("div", "em-axes");
  const shown = element("div", "em-plots");
  const boards = new Map(); // by id
  let axes = [];
  let plots = [];
  host.replaceChildren(fields, action("Plot", start, { class: "em-action em-strong" }), shown);
  axisKinds().then(
    (kinds) => {
      const targetsOf = (kind) =>
        ({
          parameter: () => studio.parameters.map((parameter) => [parameter.name, parameter.label]),
          block: () => (studio.layout?.blocks ?? []).map((block) => [block.name, block.name]),
        })[kind]?.() ?? null;
      axes = [
        axisEditor({ name: "X", kind: "parameter", values: "0-1 [5]", kinds, targetsOf }),
        axisEditor({ name: "Y", kinds, targetsOf }),
      ];
      fields.replaceChildren(...axes.map(({ box }) => box));
    },
    (error) => tellProblem(error.message),
  );
  fields.addEventListener("focusin", () => axes.forEach((axis) => axis.redraw())); // the rule may be another one by now

  async function start() {
    const { recipe } = studio;
    if (!recipe) return tellProblem("Choose the models first.");
    try {
      axes.forEach((axis) => axis.redraw());
      const given = axes.map((axis) => axis.read()).filter(Boolean);
      const seed = Math.max(0, Math.round(studio.find("seed").valueAsNumber || 0));
      const request = { ...previewRequest(studio.form, studio.find("prompt").value, seed), recipe };
      await ask("api/v1/plots", { request, axes: given });
      note("The plot is queued; every cell is a job.");
      await open();
    } catch (error) {
      tellProblem(`No plot: ${error.message}`);
    }
  }

  async function open() {
    try {
      plots = await ask(`api/v1/plots?limit=${SHOWN}`);
      showBoards(shown, boards, plots, open);
    } catch {
      // The line at the top says when the server does not answer.
    }
  }

  watchJobs(({ changed }) => {
    const ids = new Set(plots.flatMap((plot) => plot.cells.map((cell) => cell.job)));
    if (changed.some((job) => ids.has(job.id) && job.state !== "queued")) open();
  });
  return { open };
}
