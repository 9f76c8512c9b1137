// A picture that is dropped on a prompt, or pasted into it, fills the form; so does a pasted infotext. Where a form begins
// with a picture, one that is dropped beside the canvas, or pasted, becomes that picture.

import { fillForm, givePicture } from "./form.js";
import { formOf, pictureForm } from "./form_scope.js";
import { tellProblem } from "./messages.js";
import { address, readInfotext } from "./server.js";

const PARAMETERS = /(^|\n)Steps: \d+, .*\bSampler: /;
const OURS = ["outputs/", "api/v1/pictures/"];
const isPrompt = (target) => Boolean(target.closest?.(".em-prompt"));
const pictureIn = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
const isText = (target) => Boolean(target.closest?.("input, textarea"));

document.addEventListener(
  "dragover",
  (event) => {
    if (isPrompt(event.target)) event.preventDefault();
  },
  true,
);

// Behind those of the page's parts, which take what is dropped on them.
document.addEventListener("dragover", (event) => {
  if (pictureForm() && !isText(event.target)) event.preventDefault();
});

document.addEventListener(
  "drop",
  (event) => {
    if (!isPrompt(event.target)) return;
    const picture = pictureOf(event.dataTransfer);
    if (!picture) return;
    take(event);
    fillFrom(() => (typeof picture === "string" ? fetchPicture(picture) : picture), formOf(event.target));
  },
  true,
);

document.addEventListener("drop", (event) => {
  const [form, picture] = [pictureForm(), pictureOf(event.dataTransfer)];
  if (event.defaultPrevented || !form || !picture || isText(event.target)) return;
  event.preventDefault();
  givePicture(picture, form);
});

document.addEventListener(
  "paste",
  (event) => {
    const file = pictureIn(event.clipboardData);
    const text = event.clipboardData.getData("text/plain");
    if (isPrompt(event.target) && !file && PARAMETERS.test(text)) {
      take(event);
      fillForm(text, formOf(event.target));
    } else if (file && pictureForm() && isText(event.target)) {
      take(event); // elsewhere the canvas takes it
      givePicture(file, pictureForm());
    } else if (file && isPrompt(event.target)) {
      take(event);
      fillFrom(() => file, formOf(event.target));
    }
  },
  true,
);

/** A file, or the address of a picture that was made here. */
export function pictureOf(data) {
  const url = data.getData("text/uri-list");
  return pictureIn(data) ?? (isOurs(url) ? url : null);
}

async function fillFrom(findFile, form) {
  try {
    const file = await findFile();
    const infotext = await readInfotext(file);
    if (infotext) fillForm(infotext, form);
    else tellProblem(`${file.name || "The picture"} carries no settings. Only pictures that were saved with them do.`);
  } catch (error) {
    tellProblem(`The picture could not be used: ${error.message}`);
  }
}

/** Whether a picture that was made or is stored here has this address. */
export function isOurs(url) {
  return Boolean(url) && OURS.some((folder) => new URL(url, document.baseURI).href.startsWith(address(folder)));
}

async function fetchPicture(url) {
  return (await fetch(url)).blob();
}

function take(event) {
  event.preventDefault();
  event.stopPropagation();
}
