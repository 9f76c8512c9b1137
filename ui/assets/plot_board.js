// One board of pictures: tables that fill cell by cell, and what can be done with them.

import { action, element } from "./elements.js";
import { openLightbox } from "./lightbox.js";
import { note, tellProblem } from "./messages.js";
import { address, ask } from "./server.js";

const ENDED = ["done", "failed", "cancelled"];
const NO_AXIS = { label: "", labels: [""] };

/** plot: as api/v1/plots tells it. reload(): asks for all boards again. Gives {box, show(plot)}. */
export function plotBoard(plot, reload) {
  const box = element("section", "em-plot", "", { "aria-label": titleOf(plot) });
  const count = element("span", "em-quiet");
  const grid = element("a", "em-action", "Grid picture", { target: "_blank", rel: "noopener" });
  const act = (text, path, options, told) =>
    action(text, async () => {
      const buttons = [...actions.querySelectorAll("button")];
      buttons.forEach((button) => (button.disabled = true)); // one thing after the other
      try {
        const answer = await ask(`api/v1/plots/${plot.id}${path}`, options.method ? undefined : {}, options);
        told?.(answer);
      } catch (error) {
        tellProblem(error.message);
      }
      buttons.forEach((button) => (button.disabled = false));
      reload();
    });
  const actions = element("div", "em-actions");
  const save = act("Save grid", "/grid", {}, (answer) => {
    note("The grid was saved among the outputs.");
    if (answer.grid) window.open(address(answer.grid), "_blank", "noopener");
  });
  const retry = act("Try failed ones again", "/retry", {});
  const cancel = act("Cancel", "/cancel", {});
  const remove = act("Remove", "", { method: "DELETE" });
  const head = element("div", "em-panel-head");
  actions.append(grid, save, retry, cancel, remove);
  head.append(element("span", "em-plot-title", titleOf(plot)), count, actions);
  const cells = new Map(); // place -> {td, shown}
  box.append(head, ...tablesOf(plot, cells));

  function show(next) {
    plot = next;
    const states = plot.cells.map((cell) => cell.state);
    const ended = states.filter((state) => ENDED.includes(state)).length;
    const broken = states.filter((state) => state === "failed").length;
    count.textContent = `${ended} of ${states.length}${broken ? `, ${broken} failed` : ""}`;
    if (plot.grid) grid.href = address(plot.grid);
    grid.hidden = !plot.grid;
    save.hidden = Boolean(plot.grid) || !plot.cells.some((cell) => cell.image);
    retry.hidden = !states.some((state) => state === "failed" || state === "cancelled");
    cancel.hidden = plot.has_ended;
    for (const cell of plot.cells) fill(cells.get(String(cell.at)), cell);
  }

  function fill(place, cell) {
    const look = `${cell.state} ${cell.image?.url ?? ""} ${cell.error}`;
    if (!place || place.look === look) return;
    place.look = look;
    place.td.title = cell.error || cell.state;
    if (!cell.image) return place.td.replaceChildren(element("span", "em-quiet", cell.state));
    const button = element("button", "em-plot-cell", "", { type: "button", "aria-label": `Open ${place.label}`, onclick: () => open(cell.image) });
    button.append(element("img", "", "", { src: address(cell.image.thumbnail ?? cell.image.url), alt: place.label, loading: "lazy" }));
    place.td.replaceChildren(button);
  }

  function open(image) {
    const pictures = plot.cells.filter((cell) => cell.image).map((cell) => cell.image);
    openLightbox(pictures, Math.max(0, pictures.findIndex(({ url }) => url === image.url)), () => {});
  }

  show(plot);
  return { box, show };
}

/** Keep one board for each of `plots` in `host`, newest first, without building again what is there. */
export function showBoards(host, boards, plots, reload) {
  const ids = new Set(plots.map((plot) => plot.id));
  for (const [id, board] of boards) if (!ids.has(id)) (board.box.remove(), boards.delete(id));
  plots.forEach((plot, index) => {
    const board = boards.get(plot.id);
    if (board) board.show(plot);
    else boards.set(plot.id, plotBoard(plot, reload));
    const { box } = boards.get(plot.id);
    if (host.children[index] !== box) host.insertBefore(box, host.children[index] ?? null);
  });
}

const titleOf = (plot) => plot.axes.map((axis) => axis.label).join(" by ");

/** A table for every combination of the axes behind the second, with a heading. */
function tablesOf(plot, cells) {
  if (plot.axes.length === 1 && plot.axes[0].kind === "line") return [listOf(plot, cells)];
  const [x, y = NO_AXIS, ...others] = plot.axes;
  return combinations(others.map((axis) => axis.labels.length)).map((place) => {
    const part = element("div", "em-plot-part");
    const heading = place.map((index, axis) => others[axis].labels[index]).join(", ");
    if (heading) part.append(element("h3", "em-plot-heading", heading));
    const table = element("table", "em-plot-grid");
    const top = element("tr");
    if (y !== NO_AXIS) top.append(element("th"));
    top.append(...x.labels.map((label) => element("th", "", label, { scope: "col", title: label })));
    table.append(top);
    y.labels.forEach((label, row) => {
      const line = element("tr");
      if (y !== NO_AXIS) line.append(element("th", "", label, { scope: "row", title: label }));
      x.labels.forEach((column, at) => {
        const td = element("td");
        const key = String(y === NO_AXIS ? [at] : [at, row, ...place]);
        cells.set(key, { td, label: [column, label, heading].filter(Boolean).join(", "), look: "" });
        line.append(td);
      });
      table.append(line);
    });
    const scroll = element("div", "em-plot-scroll", "", { tabindex: "0", role: "group", "aria-label": heading || titleOf(plot) });
    scroll.append(table);
    part.append(scroll);
    return part;
  });
}

/** Lines have no order worth a table. */
function listOf(plot, cells) {
  const list = element("ol", "em-plot-list");
  plot.axes[0].labels.forEach((label, index) => {
    const entry = element("li", "em-plot-entry");
    const td = element("div", "em-plot-picture");
    entry.append(td, element("span", "em-quiet", label, { title: label }));
    cells.set(String([index]), { td, label, look: "" });
    list.append(entry);
  });
  return list;
}

/** Every place in axes of these lengths, the first changing fastest. */
function combinations(lengths) {
  return lengths.reduce(
    (places, length) => Array.from({ length }, (_, index) => places.map((place) => [...place, index])).flat(),
    [[]],
  );
}
