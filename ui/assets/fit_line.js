// Whether the job that the form describes would fit, asked for when what matters for it rests.

import { tagsIn } from "./adapter_value.js";
import { requestOf, watchForm } from "./form.js";
import { formOf } from "./form_scope.js";
import { watchJobs } from "./jobs.js";
import { ask } from "./server.js";

const PAUSE_MS = 350;
const MATTERS = [
  "checkpoint",
  "recipe",
  "vae",
  "text_encoders",
  "refiner",
  "width",
  "height",
  "batch_size",
  "guidance_scale",
  "use_ema",
  "exact_batches",
  "init",
  "hires",
  "tiles",
  "skips_missing_adapters",
  "name_hashes",
];

// Of a strength it matters whether there is one, and of a prompt which LoRAs it names.
const acts = (strength) => (typeof strength === "number" ? Number(strength !== 0) : strength);
const withoutStrength = ({ strength, text_encoder_strength: forText, ...adapter }) => ({
  ...adapter,
  strength: acts(strength),
  ...(forText === undefined ? {} : { text_encoder_strength: acts(forText) }),
});
const tagsOf = (prompt) => tagsIn(prompt).map(({ text }) => text).join("");

/** What the server is asked: the part of a request that decides what it takes. */
function askedOf(values) {
  const request = requestOf(values);
  const body = Object.fromEntries(MATTERS.filter((name) => name in request).map((name) => [name, request[name]]));
  return { ...body, adapters: request.adapters.map(withoutStrength), prompt: tagsOf(request.prompt) };
}

export function mount({ element }) {
  const line = element.querySelector(".em-fit");
  let values = {};
  let asked = "";
  let timer = 0;
  let asking = null;
  let wasBusy = false;

  const show = (kind, text) => {
    line.hidden = !text;
    line.dataset.fit = kind;
    if (line.textContent !== text) line.textContent = text;
    line.title = text;
  };

  const look = async () => {
    const body = askedOf(values);
    if (typeof body.recipe === "string") return show("problem", "The recipe is no JSON.");
    const key = JSON.stringify(body);
    if (key === asked) return;
    asked = key;
    asking?.abort();
    asking = new AbortController();
    line.dataset.fit = "asking"; // what is told is of the form as it was
    try {
      const report = await ask("api/v1/fit", body, { signal: asking.signal });
      if (report.problem) show("problem", report.problem);
      else if (!report.fits) show("problem", report.text);
      else show(report.streamed ? "slower" : "yes", report.text);
    } catch (error) {
      if (error.name === "AbortError") return; // a later one is under way
      asked = ""; // the server did not answer, which the top of the page tells
      show("", "");
    }
  };

  const lookSoon = () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  };

  watchForm((all) => {
    values = all;
    lookSoon();
  }, formOf(element));
  watchJobs(({ jobs }) => {
    const isBusy = jobs.some((job) => job.state === "running");
    if (wasBusy && !isBusy) {
      asked = ""; // what is left may be another budget
      lookSoon();
    }
    wasBusy = isBusy;
  });
  lookSoon();
}
