// What a picture says about how it was made: its infotext, the exact request, and texts of other programs.

import { copyText } from "./clipboard.js";
import { action, element } from "./elements.js";
import { fillForm } from "./form.js";
import { PICTURE_FORMS } from "./form_scope.js";
import { indentedJson } from "./indented_json.js";
import { note, tellProblem } from "./messages.js";
import { sendPicture } from "./sent_pictures.js";
import { address, readTexts } from "./server.js";

const FORMS = ["txt2img", ...PICTURE_FORMS];
const NAMES = { emulsion: "Exact request (JSON)", extras: "What was done to it afterwards" }; // by keyword
const INFOTEXT = "parameters"; // the keyword of A1111's text

/** Gives {show(picture)}, which takes {sha256, name}, or null for none. */
export function pictureTexts(host) {
  const read = new Map(); // by hash: of those that were looked at
  let shown = "";

  async function show(picture) {
    shown = picture?.sha256 ?? "";
    host.hidden = !picture;
    if (!picture) return;
    if (!read.has(shown)) host.replaceChildren(title(picture), element("p", "em-quiet", "Reading ..."));
    try {
      if (!read.has(picture.sha256)) read.set(picture.sha256, await textsOf(picture));
      if (shown === picture.sha256) draw(picture, read.get(picture.sha256));
    } catch (error) {
      if (shown === picture.sha256) host.replaceChildren(title(picture), element("p", "em-merge-problem", error.message));
    }
  }

  function draw(picture, { info, items }) {
    const others = Object.entries(items).filter(([keyword, text]) => keyword !== INFOTEXT && text);
    const parts = [title(picture)];
    if (info) {
      parts.push(element("pre", "em-infotext", info, { tabindex: "0", "aria-label": `Infotext of ${picture.name}` }));
      parts.push(row("Settings to", [...FORMS.map((form) => act(form, () => fillForm(info, form), `Settings to ${form}`)), act("Copy", () => copy(info), "Copy infotext")]));
    } else parts.push(element("p", "em-quiet", "It carries no settings. Only pictures that were saved with them do."));
    parts.push(row("Picture to", PICTURE_FORMS.map((form) => act(form, () => sendPicture(address(`api/v1/pictures/${picture.sha256}`), form), `Picture to ${form}`))));
    parts.push(...others.map(([keyword, text]) => folded(NAMES[keyword] ?? keyword, indentedJson(text))));
    host.replaceChildren(...parts);
  }

  return { show };
}

const title = ({ name }) => element("div", "em-label em-extras-title", `What ${name} says`);

function row(name, buttons) {
  const made = element("div", "em-extras-row");
  made.append(element("span", "em-label", name), ...buttons);
  return made;
}

const act = (text, how, label) =>
  action(text, () => Promise.resolve(how()).catch((error) => tellProblem(error.message)), { "aria-label": label });

function folded(name, text) {
  const made = element("details", "em-extras-more");
  made.append(element("summary", "", name), element("pre", "em-infotext em-extras-json", text, { tabindex: "0", "aria-label": name }), action("Copy", () => copy(text).catch((error) => tellProblem(error.message))));
  return made;
}

async function copy(text) {
  await copyText(text);
  note("Copied.");
}

async function textsOf({ sha256, name }) {
  const answer = await fetch(address(`api/v1/pictures/${sha256}`));
  if (answer.status === 404) throw new Error(`${name} is not stored here any more. Open its file again.`);
  if (!answer.ok) throw new Error(`The server answered ${answer.status} for ${name}.`);
  return readTexts(await answer.blob());
}
