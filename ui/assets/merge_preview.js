// A, the merge and B from one prompt and one seed, and two of them over one another with a line to drag.

import { dividedPictures } from "./divided_pictures.js";
import { element } from "./elements.js";
import { requestOf } from "./form.js";
import { cancel, watchJobs } from "./jobs.js";
import { tellProblem } from "./messages.js";
import { address, ask } from "./server.js";

const SETTINGS = [
  "negative_prompt",
  "text_encoders",
  "sampler",
  "schedule",
  "steps",
  "width",
  "height",
  "guidance_scale",
  "distilled_guidance",
  "guidance_rescale",
  "shift",
  "clip_skip",
  "emphasis",
  "noise_source",
  "adapters",
  "name_hashes",
  "skips_missing_adapters",
];

/** What is made for a preview, but for the model. form: the values of txt2img. */
export function previewRequest(form, prompt, seed) {
  const asked = requestOf(form);
  const kept = Object.fromEntries(SETTINGS.filter((name) => name in asked).map((name) => [name, asked[name]]));
  return { ...kept, prompt, seed, batch_size: 1, batch_count: 1 };
}

/** host: where pictures go. */
export function previews(host) {
  const made = new Map(); // finished pictures by what was asked for
  const places = ["A", "Merge", "B"].map((label) => place(label));
  const row = element("div", "em-previews");
  row.append(...places.map(({ box }) => box));
  const compare = comparison();
  host.replaceChildren(row, compare.box);
  const waiting = new Map(); // places and requests by job

  watchJobs(({ changed }) => {
    for (const job of changed) {
      const entry = waiting.get(job.id);
      if (!entry) continue;
      entry.place.follow(job);
      if (!["done", "failed", "cancelled"].includes(job.state)) continue;
      waiting.delete(job.id);
      if (job.state === "done" && job.images[0]) made.set(entry.key, job.images[0]);
      show(entry.place, entry.key, job);
    }
  });

  function show(target, key, job) {
    const picture = made.get(key);
    if (target.key !== key) return; // it shows something newer by now
    target.show(picture, job);
    compare.show(places.map(({ picture: shown }) => shown));
  }

  /** Cancel what is under way for a place. */
  async function drop(target) {
    for (const [id, entry] of waiting) {
      if (entry.place !== target) continue;
      waiting.delete(id);
      await cancel(id);
    }
  }

  async function make(target, request, name) {
    const key = JSON.stringify(request);
    if (target.key === key && (made.has(key) || [...waiting.values()].some((entry) => entry.key === key))) return;
    await drop(target);
    target.begin(key, name);
    if (made.has(key)) return show(target, key);
    try {
      const job = await ask("api/v1/jobs", request);
      if (target.key !== key) return cancel(job.id); // something newer was asked for meanwhile
      waiting.set(job.id, { place: target, key });
    } catch (error) {
      if (target.key !== key) return;
      target.key = ""; // it can be tried again
      target.fail(error.message);
      tellProblem(`No preview of ${name}: ${error.message}`);
    }
  }

  return {
    /** models: of A, the merge and B what they are called, and what makes them where that is a recipe. B may be "". */
    async show(models, request, onlyMerge = false) {
      for (const [index, model] of models.entries()) {
        if (!model || (onlyMerge && index !== 1)) continue;
        const asked = model.recipe ? { recipe: model.recipe } : { checkpoint: model.name };
        await make(places[index], { ...request, ...asked }, model.name);
      }
    },
  };
}

function place(label) {
  const box = element("figure", "em-merge-preview");
  const stage = element("div", "em-preview-stage");
  const image = element("img", "", "", { alt: "", hidden: true });
  const said = element("span", "em-quiet", "No picture yet");
  stage.append(image, said);
  const caption = element("figcaption", "", label);
  box.append(stage, caption);
  const self = {
    box,
    key: "",
    picture: null,
    begin(key, name) {
      self.key = key;
      box.classList.add("em-busy");
      said.textContent = "Waiting";
      caption.textContent = label === "Merge" ? label : `${label}: ${name}`;
    },
    follow(job) {
      if (job.preview) [image.src, image.hidden] = [address(job.preview), false];
      said.textContent = job.steps ? `${job.step} of ${job.steps}` : job.stage || "Waiting";
    },
    show(picture, job) {
      box.classList.remove("em-busy");
      if (picture) {
        self.picture = picture;
        [image.src, image.hidden, image.alt] = [address(picture.url), false, caption.textContent];
        said.textContent = "";
      } else said.textContent = job?.error || "Cancelled";
    },
    fail(text) {
      box.classList.remove("em-busy");
      said.textContent = text;
    },
  };
  return self;
}

/** Two pictures over one another. */
function comparison() {
  const box = element("div", "em-compare", "", { hidden: true });
  const divided = dividedPictures();
  const names = ["A", "Merge", "B"];
  let pictures = [];
  const pick = (start) => {
    const choice = element("select", "em-select", "", { "aria-label": start === 0 ? "Left picture" : "Right picture" });
    choice.append(...names.map((name, index) => element("option", "", name, { value: index })));
    choice.value = start;
    choice.addEventListener("change", draw);
    return choice;
  };
  const [left, right] = [pick(0), pick(1)];
  const head = element("div", "em-compare-head");
  head.append(left, element("span", "em-quiet", "against"), right);
  box.append(head, divided.stage);

  function draw() {
    const [first, second] = [pictures[left.value], pictures[right.value]];
    divided.stage.hidden = !first || !second;
    if (first && second) divided.show(address(first.url), address(second.url));
  }

  return {
    box,
    show(shown) {
      pictures = shown;
      box.hidden = shown.filter(Boolean).length < 2;
      draw();
    },
  };
}
