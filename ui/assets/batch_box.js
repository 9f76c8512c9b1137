// A batch: starting one from a form, and how far the newest ones are.

import { action, element } from "./elements.js";
import { formValues, requestOf } from "./form.js";
import { canvasIn } from "./form_scope.js";
import { watchJobs } from "./jobs.js";
import { note, tellProblem } from "./messages.js";
import { ask, storePicture } from "./server.js";

const SHOWN = 5; // of the newest
const MOST_PROBLEMS = 20; // that are listed
const PAUSE_MS = 500;
const ANY_PICTURE = "0".repeat(64);

/** What is on the canvas, without what is not there. */
const shown = (values) => Object.fromEntries(Object.entries(canvasIn(values)).filter(([, value]) => value));

export function mount({ element: host }) {
  const box = host.querySelector(".em-batch-box");
  const find = (name) => box.querySelector(`[data-part="${name}"]`);
  const form = box.dataset.form;
  let batches = [];
  let timer = 0;

  find("start").addEventListener("click", async () => {
    find("start").disabled = true;
    try {
      await start();
    } catch (error) {
      tellProblem(`No batch: ${error.message}`);
    }
    find("sending").textContent = "";
    find("start").disabled = false;
  });

  async function start() {
    const folder = find("folder").value.trim();
    const files = [...find("files").files];
    if (Boolean(folder) === files.length > 0) throw new Error("Name a folder, or choose pictures; one of the two.");
    const values = formValues(form) ?? {};
    // Each item brings its own picture, so that the canvas may be empty; a mask on it is for all.
    const request = requestOf({ ...values, init: JSON.stringify({ picture: ANY_PICTURE, ...shown(values) }) });
    const given = folder ? { folder } : { pictures: await stored(files) };
    const mask = find("masks").value.trim() ? null : request.init?.mask?.picture;
    const reads = [...box.querySelectorAll(".em-batch-reads input:checked")].map(({ value }) => value);
    const asked = { request, ...given, mask_folder: find("masks").value.trim(), reads };
    await ask("api/v1/batches", mask ? { ...asked, mask } : asked);
    note("The batch is queued; every picture is a job.");
    find("files").value = "";
    await open();
  }

  async function stored(files) {
    const hashes = [];
    for (const [index, file] of files.entries()) {
      find("sending").textContent = `Sending picture ${index + 1} of ${files.length}`;
      try {
        hashes.push((await storePicture(file)).sha256);
      } catch (error) {
        tellProblem(`${file.name} was left out: ${error.message}`);
      }
    }
    if (!hashes.length) throw new Error("None of the pictures could be read.");
    return hashes;
  }

  async function open() {
    try {
      batches = await ask(`api/v1/batches?limit=${SHOWN}`);
      find("batches").replaceChildren(...batches.map(entryOf));
    } catch {
      // The line at the top says when the server does not answer.
    }
  }

  function entryOf(batch) {
    const entry = element("div", "em-batch-entry");
    const { done = 0, failed = 0, cancelled = 0 } = batch.states;
    const all = Object.values(batch.states).reduce((sum, count) => sum + count, 0);
    const name = batch.folder || `${batch.pictures} uploaded pictures`;
    const parts = [`${done} of ${all} done`, failed && `${failed} failed`, cancelled && `${cancelled} cancelled`];
    entry.append(element("span", "em-batch-name", name, { title: name }), element("span", "em-quiet", parts.filter(Boolean).join(", ")));
    const actions = element("div", "em-actions");
    if (!batch.has_ended) actions.append(act(batch, "Cancel", "/cancel"));
    if (failed) actions.append(action("What failed", () => tellFailures(batch)));
    if (failed || cancelled) actions.append(act(batch, "Try again", "/retry"));
    actions.append(act(batch, "Remove", "", { method: "DELETE" }));
    entry.append(actions);
    return entry;
  }

  const act = (batch, text, path, options = {}) =>
    action(text, async () => {
      try {
        await ask(`api/v1/batches/${batch.id}${path}`, options.method ? undefined : {}, options);
      } catch (error) {
        tellProblem(error.message);
      }
      open();
    });

  async function tellFailures(batch) {
    try {
      const { cells } = await ask(`api/v1/batches/${batch.id}`);
      const failed = cells.filter((cell) => cell.state === "failed");
      const lines = failed.slice(0, MOST_PROBLEMS).map((cell) => `${cell.item}: ${cell.error}`);
      if (failed.length > lines.length) lines.push(`and ${failed.length - lines.length} more`);
      tellProblem(lines.join("\n"));
    } catch (error) {
      tellProblem(error.message);
    }
  }

  watchJobs(() => {
    if (timer || !batches.some((batch) => !batch.has_ended)) return;
    timer = setTimeout(() => {
      timer = 0;
      open();
    }, PAUSE_MS);
  });
  open();
}
