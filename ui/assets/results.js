// Preview and progress of the running job, the pictures so far, and what is known about the one that is shown.

import { beforeOf } from "./before_picture.js";
import { bytes } from "./bytes.js";
import { copyText } from "./clipboard.js";
import { openComparison } from "./compare_lightbox.js";
import { requestText, seedOf } from "./exact_seed.js";
import { fillForm, formValues, partOf } from "./form.js";
import { cancel, watchJobs } from "./jobs.js";
import { openLightbox } from "./lightbox.js";
import { note, tellNotice, tellProblem } from "./messages.js";
import { offerPlace } from "./results_place.js";
import { useSeed } from "./seed_field.js";
import { followNewest, pick, pickedUrl, setShown, shownSeed, watchSelection } from "./selection.js";
import { sendPicture } from "./sent_pictures.js";
import { address, ask } from "./server.js";
import { hasTab } from "./tabs.js";

const MAX_THUMBNAILS = 60;
const ROUTES = { generation: "api/v1/jobs", upscale: "api/v1/upscale" }; // by the kind of job: where it can be asked for
const NARROW = matchMedia("(max-width: 980px)"); // as in 30-layout.css
const MAX_ENLARGED = 4; // screen pixels per picture pixel: small models make small pictures

export function mount({ element }) {
  const panel = element.querySelector(".em-results"); // it is carried to the tab that is open
  const find = (name) => panel.querySelector(`.em-${name}`);
  const stage = stageIn(find);
  const strip = stripIn(find("strip"));
  const told = new Map(); // id -> what has been said about the job
  let compared = null; // the first of two pictures that are to be compared
  let pictures = [];
  let jobs = [];

  const render = () => {
    const running = jobs.find((job) => job.state === "running");
    const isLive = Boolean(running?.preview) && pickedUrl() === null;
    const picture = pictures.find(({ url }) => url === pickedUrl()) ?? pictures[0] ?? null;
    setShown(picture);
    stage.show({ picture, previewed: isLive ? running : null, isRunning: Boolean(running) });
    strip.show(pictures.slice(0, MAX_THUMBNAILS), isLive ? null : picture?.url);
    showDetails(find, isLive ? null : picture);
    showProgress(find, running);
    showQueue(find("queue"), jobs.filter((job) => job.state === "queued"));
  };

  watchJobs((state) => {
    jobs = state.jobs;
    pictures = picturesOf(jobs);
    const news = state.isFirst ? state.jobs.slice(-1) : state.changed;
    for (const job of news) tellAbout(job, told);
    render();
  });
  watchSelection(() => {
    render();
    const other = pictures.find(({ url }) => url === pickedUrl());
    if (compared && other && other.url !== compared.url) finishComparison(other);
  });

  const enlarge = () => {
    const index = pictures.findIndex(({ url }) => url === stage.url());
    if (index >= 0) openLightbox(pictures, index, pick);
  };
  find("picture-button").addEventListener("click", enlarge);
  draggable(find("picture-button"), stage.url);
  find("strip").addEventListener("dblclick", enlarge);

  function compare(picture) {
    const isOff = compared !== null;
    compared = isOff ? null : picture;
    find("actions").querySelector("[data-do=compare]").setAttribute("aria-pressed", String(!isOff));
    if (!isOff) note("Choose the other picture.");
  }

  function finishComparison(other) {
    const first = compared;
    compare(first);
    openComparison(first, other);
  }

  const actions = {
    again: ({ job }) => submit(ROUTES[job.kind], againText(job)),
    hires: (picture) => submit(ROUTES.generation, requestText(hiresRequest(picture), seedOf(picture))),
    compare,
    before: (picture) => openComparison({ url: beforeOf(picture), name: "Before" }, { ...picture, name: "After" }),
    img2img: ({ url }) => sendPicture(url, "img2img"),
    inpaint: ({ url }) => sendPicture(url, "inpaint"),
    extras: ({ url }) => sendPicture(url, "extras"),
    settings: (picture) => fillForm(picture.infotext),
    seed: () => {
      useSeed(shownSeed());
      note("Seed taken over.");
    },
    copy: async (picture) => {
      await copyText(picture.infotext);
      note("Infotext copied.");
    },
  };
  for (const target of ["img2img", "inpaint", "extras"]) {
    find("actions").querySelector(`[data-do=${target}]`).hidden = !hasTab(target);
  }
  offerPlace(panel.parentElement);
  find("actions").addEventListener("click", (event) => {
    const picture = pictures.find(({ url }) => url === stage.url());
    const action = actions[event.target.closest("[data-do]")?.dataset.do];
    if (picture && action) Promise.resolve(action(picture)).catch((error) => tellProblem(error.message));
  });
}

/** Bring the panel into view where it lies below the form. */
export function revealResults() {
  if (NARROW.matches) document.querySelector(".em-results")?.scrollIntoView({ behavior: "smooth" });
}

/** Newest first. */
function picturesOf(jobs) {
  return jobs.flatMap((job) => job.images.map((image) => ({ ...image, job, prompt: job.request.prompt ?? "" }))).reverse();
}

/** Put a request, as JSON text, into the queue. */
async function submit(route, text) {
  await ask(route, {}, { body: text });
  followNewest();
}

/** The request of a job as it was; its seed is the first picture's. */
const againText = (job) => (isGeneration(job) ? requestText(job.request, seedOf(job.images[0])) : JSON.stringify(job.request));

/** What makes this picture alone again, with the second pass as the open form has it. */
function hiresRequest({ job }) {
  return { ...job.request, batch_size: 1, batch_count: 1, hires: partOf("hires", formValues() ?? {}) };
}

function tellAbout(job, told) {
  const said = `${job.state} ${job.notices.length}`;
  if (told.get(job.id) === said) return;
  told.set(job.id, said);
  if (job.state === "failed") tellProblem(job.error);
  else if (job.notices.length) tellNotice(job.notices.join("\n"));
  if (job.state === "cancelled" && job.step > 0) note("Cancelled. Finished pictures were kept.");
}

function stageIn(find) {
  const [frame, picture, empty] = [find("picture-button"), find("picture"), find("empty")];
  const preview = previewIn(find("preview"));
  let url = null;

  return {
    url: () => url,
    show({ picture: next, previewed, isRunning }) {
      preview.show(previewed);
      url = next?.url ?? null;
      if (next && picture.dataset.url !== url) {
        picture.dataset.url = url;
        picture.src = address(url);
        picture.alt = next.prompt ? next.prompt.slice(0, 200) : "Picture without a prompt";
        limitSize(picture, next);
      }
      frame.hidden = !next || Boolean(previewed);
      empty.hidden = Boolean(next) || Boolean(previewed);
      find("stage").classList.toggle("em-running", isRunning);
    },
  };
}

function limitSize(image, { width, height }) {
  if (!width || !height) return; // nobody knows yet
  image.style.maxWidth = `${width * MAX_ENLARGED}px`;
  image.style.maxHeight = `${height * MAX_ENLARGED}px`;
}

/** The live preview: the newest one that has arrived, one request at a time. */
function previewIn(shown) {
  let wanted = null;
  let asked = null;
  let isLoading = false;

  const load = () => {
    if (isLoading || !wanted || wanted === asked) return;
    asked = wanted;
    isLoading = true;
    const next = shown.cloneNode();
    const settle = () => {
      isLoading = false;
      load();
    };
    next.addEventListener("load", () => {
      next.hidden = !wanted;
      shown.replaceWith(next); // at once and whole, where a changed address would flicker
      shown = next;
      settle();
    });
    next.addEventListener("error", settle); // the job ended in the meantime
    next.src = address(asked);
  };

  return {
    show(job) {
      wanted = job?.preview ?? null;
      if (job) limitSize(shown, job.request); // as large as the picture will be
      else shown.hidden = true;
      load();
    },
  };
}

function stripIn(list) {
  const buttons = new Map(); // url -> button

  list.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      document.activeElement.click();
      return;
    }
    const all = [...list.children];
    const next = event.key === "Home" ? all[0] : event.key === "End" ? all.at(-1) : all[all.indexOf(document.activeElement) + by];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  });

  return {
    show(pictures, selectedUrl) {
      const urls = new Set(pictures.map(({ url }) => url));
      for (const [url, button] of buttons) if (!urls.has(url)) (button.remove(), buttons.delete(url));
      pictures.forEach((picture, index) => {
        const button = buttons.get(picture.url) ?? thumbnail(picture);
        buttons.set(picture.url, button);
        if (list.children[index] !== button) list.insertBefore(button, list.children[index] ?? null);
        const isSelected = picture.url === selectedUrl;
        button.setAttribute("aria-selected", String(isSelected));
        button.tabIndex = isSelected || (!selectedUrl && index === 0) ? 0 : -1;
      });
      list.hidden = pictures.length === 0;
    },
  };
}

function thumbnail(picture) {
  const button = document.createElement("div"); // a button cannot be dragged in every browser
  button.className = "em-thumbnail";
  button.setAttribute("role", "option");
  const made = isGeneration(picture.job) ? `Seed ${picture.seed}: ${picture.prompt.slice(0, 100) || "no prompt"}` : `Made larger, ${picture.width} × ${picture.height}`;
  button.setAttribute("aria-label", made);
  const image = new Image();
  image.loading = "lazy";
  image.alt = "";
  image.src = address(picture.thumbnail);
  button.append(image);
  button.addEventListener("click", () => pick(picture.url));
  draggable(button, () => picture.url);
  return button;
}

/** Dragging the element carries the address of a picture. */
function draggable(element, urlOf) {
  element.draggable = true;
  element.addEventListener("dragstart", ({ dataTransfer }) => {
    dataTransfer.setData("text/uri-list", address(urlOf()));
    dataTransfer.effectAllowed = "copy";
  });
}

function showDetails(find, picture) {
  find("details").hidden = !picture;
  if (!picture) return;
  find("infotext").textContent = picture.infotext;
  for (const button of find("actions").querySelectorAll("[data-do=hires], [data-do=seed]")) button.hidden = !isGeneration(picture.job);
  find("actions").querySelector("[data-do=before]").hidden = !beforeOf(picture);
  const link = find("actions").querySelector("[data-do=download]");
  link.href = address(picture.url);
  link.download = decodeURIComponent(picture.url.split("/").at(-1));
}

function showProgress(find, job) {
  find("progress").hidden = !job;
  const isMeasured = Boolean(job?.steps || job?.all_bytes);
  const share = job?.all_bytes ? job.done_bytes / job.all_bytes : job?.steps ? job.step / job.steps : 0;
  document.body.style.setProperty("--em-progress", share);
  document.title = isMeasured ? `[${Math.floor(100 * share)}%] Emulsion` : "Emulsion";
  if (!job) return;
  const bar = find("bar");
  if (isMeasured) bar.value = share;
  else bar.removeAttribute("value");
  setText(find("stage-name"), job.stage ? capitalised(job.stage) : "Starting");
  setText(find("numbers"), numbers(job));
}

function numbers(job) {
  if (job.all_bytes) return `${bytes(job.done_bytes)} of ${bytes(job.all_bytes)}`;
  if (!job.steps) return "";
  if (!isGeneration(job)) return `step ${job.step}/${job.steps}`;
  const count = job.request.batch_size * job.request.batch_count;
  const parts = [`step ${job.step}/${job.steps}`];
  if (count > 1) parts.push(`${job.images.length}/${count} pictures`);
  if (job.seconds_per_step > 0) parts.push(speed(job.seconds_per_step), `${duration(job.eta_seconds)} left`);
  return parts.join(" · ");
}

const speed = (seconds) => (seconds < 1 ? `${(1 / seconds).toFixed(1)} steps/s` : `${seconds.toFixed(1)} s/step`);

function duration(seconds) {
  const whole = Math.ceil(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
}

function showQueue(list, waiting) {
  list.hidden = waiting.length === 0;
  const key = waiting.map((job) => job.id).join(" ");
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...waiting.map(queueEntry));
}

function queueEntry(job, index) {
  const entry = document.createElement("li");
  entry.className = "em-queue-entry";
  const text = document.createElement("span");
  text.textContent = waitingFor(job);
  const button = document.createElement("button");
  button.type = "button";
  button.className = "em-icon em-close";
  button.setAttribute("aria-label", `Cancel waiting job ${index + 1}`);
  button.addEventListener("click", () => cancel(job.id));
  entry.append(text, button);
  return entry;
}

function waitingFor({ kind, request }) {
  if (kind === "generation") return request.prompt || "No prompt";
  if (kind === "upscale") return request.pictures.length === 1 ? "A picture is made larger" : `${request.pictures.length} pictures are made larger`;
  return `Saving ${request.name}`;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text; // a screen reader speaks at every change
}

const isGeneration = (job) => job.kind === "generation";

const capitalised = (text) => text[0].toUpperCase() + text.slice(1);
