// A picture that is dropped on a prompt, or pasted into it, fills the form; so does a pasted infotext.

import { fillForm } from "./form.js";
import { tellProblem } from "./messages.js";
import { address, readInfotext } from "./server.js";

const PARAMETERS = /(^|\n)Steps: \d+, .*\bSampler: /;
const isPrompt = (target) => Boolean(target.closest?.(".em-prompt"));
const pictureIn = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));

document.addEventListener(
  "dragover",
  (event) => {
    if (isPrompt(event.target)) event.preventDefault();
  },
  true,
);

document.addEventListener(
  "drop",
  (event) => {
    if (!isPrompt(event.target)) return;
    const file = pictureIn(event.dataTransfer);
    const url = event.dataTransfer.getData("text/uri-list");
    if (!file && !isOurs(url)) return;
    take(event);
    fillFrom(() => file ?? fetchPicture(url));
  },
  true,
);

document.addEventListener(
  "paste",
  (event) => {
    if (!isPrompt(event.target)) return;
    const file = pictureIn(event.clipboardData);
    const text = event.clipboardData.getData("text/plain");
    if (file) {
      take(event);
      fillFrom(() => file);
    } else if (PARAMETERS.test(text)) {
      take(event);
      fillForm(text);
    }
  },
  true,
);

async function fillFrom(findFile) {
  try {
    const file = await findFile();
    const infotext = await readInfotext(file);
    if (infotext) fillForm(infotext);
    else tellProblem(`${file.name || "The picture"} carries no settings. Only pictures that were saved with them do.`);
  } catch (error) {
    tellProblem(`The picture could not be used: ${error.message}`);
  }
}

function isOurs(url) {
  return Boolean(url) && new URL(url, document.baseURI).href.startsWith(address("outputs/"));
}

async function fetchPicture(url) {
  return (await fetch(url)).blob();
}

function take(event) {
  event.preventDefault();
  event.stopPropagation();
}
