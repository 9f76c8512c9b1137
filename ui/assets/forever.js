// Generate forever: whenever the queue has run empty, the form is queued again with a new seed.

import { formValues, requestOf } from "./form.js";
import { stayConnected, watchJobs } from "./jobs.js";
import { note, tellProblem } from "./messages.js";
import { ask } from "./server.js";

const buttons = new Set();
let form = ""; // whose settings are used, "" while it is off
let isAsking = false;
let own = new Set(); // jobs that it has queued
let jobs = [];

/** Make `button` the switch of the form called `name`. */
export function mountForever(button, name) {
  buttons.add([button, name]);
  button.addEventListener("click", () => turn(form === name ? "" : name));
  draw();
}

function turn(name) {
  const was = form;
  form = name;
  stayConnected(Boolean(form));
  draw();
  if (form && !was) note("On until it is switched off, or this page is reloaded or closed.");
  if (form) goOn();
}

function draw() {
  for (const [button, name] of buttons) button.setAttribute("aria-pressed", String(form === name));
}

async function goOn() {
  if (!form || isAsking || jobs.some((job) => job.state === "queued" || job.state === "running")) return;
  isAsking = true;
  try {
    const request = requestOf(formValues(form));
    delete request.seed; // a new one each time
    const job = await ask("api/v1/jobs", request);
    own.add(job.id);
    jobs = [...jobs, job]; // until the server tells of it
  } catch (error) {
    turn("");
    tellProblem(`Generating forever has ended: ${error.message}`);
  }
  isAsking = false;
}

watchJobs((state) => {
  jobs = state.jobs;
  // Who cancels one of its jobs, or sees one fail, would not want the same again at once.
  const ended = state.changed.find((job) => own.has(job.id) && ["cancelled", "failed"].includes(job.state));
  if (ended && form) {
    turn("");
    note(`Generating forever has ended: a job ${ended.state === "failed" ? "failed" : "was cancelled"}.`, ended.state === "failed" ? "problem" : "done");
  }
  own = new Set([...own].filter((id) => jobs.some((job) => job.id === id)));
  goOn();
});
