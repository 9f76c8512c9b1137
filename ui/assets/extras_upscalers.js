// What makes pictures larger: one upscaler, and a second one that can be mixed in.

import { element, labelled } from "./elements.js";
import { note, tellProblem } from "./messages.js";
import { ask } from "./server.js";
import { slidNumber } from "./slid_number.js";

const USUAL = { first: "", second: "", visibility: 0.5 };

/** kept: as `values` gives it; an empty name is the server's choice, or none. changed(): called after every change. */
export function upscalerFields(host, kept, changed) {
  const values = { ...USUAL, ...kept };
  let entries = [];
  let usual = "";
  const said = element("p", "em-hint", "", { "aria-live": "polite" });
  const problems = element("details", "em-extras-problems", "", { hidden: true });
  const fields = {
    first: element("select", "em-select", "", { "aria-label": "Upscaler 1" }),
    second: element("select", "em-select", "", { "aria-label": "Upscaler 2" }),
  };
  const refresh = element("button", "em-icon em-refresh", "", { type: "button", "aria-label": "Look for new upscalers", title: "Look for new upscalers", onclick: lookAgain });
  const mixed = slidNumber({
    label: "Visibility of upscaler 2",
    value: values.visibility,
    min: 0,
    max: 1,
    step: 0.01,
    slider: [0, 1],
    onchange() {
      values.visibility = mixed.read();
      changed();
    },
  });
  const row = element("div", "em-extras-with-icon");
  row.append(labelled("Upscaler 1", fields.first), refresh);
  host.replaceChildren(row, said, labelled("Upscaler 2", fields.second), mixed.box, problems);
  for (const [which, field] of Object.entries(fields)) {
    field.addEventListener("change", () => {
      values[which] = field.value;
      mixed.box.hidden = !values.second;
      changed();
      if (field.value) look(field.value);
      if (which === "first") describe();
    });
  }

  function draw() {
    const networks = entries.filter(({ kind }) => kind === "network");
    const ways = entries.filter(({ kind }) => kind !== "network");
    const automatic = entries.find(({ name }) => name === usual);
    fill(fields.first, ["", automatic ? `Automatic (${nameOf(automatic)})` : "Automatic"], networks, ways, values.first);
    fill(fields.second, ["", "None"], networks, ways, values.second);
    mixed.box.hidden = !values.second;
    const broken = entries.filter(({ problem }) => problem);
    problems.hidden = !broken.length;
    const list = element("ul");
    list.append(...broken.map(({ name, file, problem }) => element("li", "em-merge-problem", problem.startsWith(file) ? problem : `${name}: ${problem}`)));
    problems.replaceChildren(element("summary", "", `${broken.length} ${broken.length === 1 ? "file" : "files"} cannot be used`), list);
    describe();
  }

  /** What kind of network the first one is. */
  function describe() {
    const entry = entries.find(({ name }) => name === (values.first || usual));
    said.textContent = !entry || entry.kind !== "network" ? "" : entry.label ? `${entry.label}, ${entry.scale}×` : "An older file, which is converted when it is used first.";
    said.hidden = !said.textContent;
  }

  /** Open a file of which nothing is known yet, so that a problem is told before a job is queued. */
  async function look(name) {
    const entry = entries.find((one) => one.name === name);
    if (!entry || entry.kind !== "network" || entry.label) return;
    said.hidden = false;
    said.textContent = `Opening ${entry.file} ...`;
    try {
      Object.assign(entry, await ask(`api/v1/upscalers/details?name=${encodeURIComponent(name)}`));
      draw();
    } catch (error) {
      tellProblem(error.message);
      await load("api/v1/upscalers");
    }
  }

  async function load(path, body) {
    try {
      ({ upscalers: entries, default: usual } = await ask(path, body));
      draw();
      return true;
    } catch (error) {
      tellProblem(`The upscalers could not be listed: ${error.message}`);
      return false;
    }
  }

  async function lookAgain() {
    if (!(await load("api/v1/upscalers/refresh", {}))) return;
    const count = entries.filter(({ kind }) => kind === "network").length;
    note(`${count} ${count === 1 ? "network" : "networks"} found.`);
  }

  draw();
  load("api/v1/upscalers");
  return {
    values: () => values,
    /** The fields of the request. */
    read: () => ({
      upscaler: values.first || null,
      second_upscaler: values.second || null,
      second_visibility: values.second ? values.visibility : 0,
    }),
  };
}

function fill(field, [key, text], networks, ways, chosen) {
  const group = (label, entries) => {
    const made = element("optgroup", "", "", { label });
    made.append(...entries.map((entry) => element("option", "", entry.problem ? `${entry.name} (cannot be used)` : nameOf(entry), { value: entry.name, disabled: Boolean(entry.problem) })));
    return made;
  };
  field.replaceChildren(element("option", "", text, { value: key }));
  if (networks.length) field.append(group("Networks", networks));
  if (ways.length) field.append(group("Without a network", ways));
  const isHere = !chosen || [...networks, ...ways].some(({ name }) => name === chosen);
  if (!isHere) field.append(element("option", "", networks.length + ways.length ? `${chosen} (is not here)` : chosen, { value: chosen }));
  field.value = chosen;
}

/** Of a file, its name says more than its kind. */
const nameOf = ({ name, label, kind, scale }) => (kind === "network" ? `${name}${scale ? ` (${scale}×)` : ""}` : label);
