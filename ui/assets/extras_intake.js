// Pictures on their way into the Extras tab: opened, dropped, pasted, and folders of them.

import { isOurs } from "./dropped_pictures.js";
import { element } from "./elements.js";
import { tellProblem } from "./messages.js";

const KINDS = ".png,.jpg,.jpeg,.webp";
const IN_FOLDERS = /\.(png|jpe?g|webp)$/i;

/** Call `give` with lists of files, and of addresses of pictures of this page, that come in while `panel` is seen. */
export function takeIncoming(panel, give) {
  const find = (name) => panel.querySelector(`[data-part="${name}"]`);
  const isSeen = () => panel.offsetParent !== null;
  const mark = (isOver) => (panel.dataset.over = isOver ? "yes" : "no");

  const giveFolder = (files) => {
    const found = files.filter(({ name }) => IN_FOLDERS.test(name)).sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    if (found.length) give(found);
    else tellProblem("There is no PNG, JPEG or WebP file in this folder.");
  };
  for (const name of ["open", "more"]) find(name).addEventListener("click", () => choose({ accept: KINDS, multiple: true }, give));
  for (const name of ["folder", "more-folder"]) find(name).addEventListener("click", () => choose({ webkitdirectory: true }, giveFolder));

  document.addEventListener("dragover", (event) => {
    if (!isSeen() || event.defaultPrevented || event.target.closest?.("[role=tab]")) return;
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && mark(false));
  document.addEventListener("dragend", () => mark(false));
  document.addEventListener("drop", async (event) => {
    mark(false);
    if (!isSeen() || event.defaultPrevented) return;
    event.preventDefault();
    const [url, entries] = [event.dataTransfer.getData("text/uri-list"), entriesOf(event.dataTransfer)];
    const folders = entries.filter((entry) => entry?.isDirectory);
    const files = [...event.dataTransfer.files].filter((_, index) => !entries[index]?.isDirectory);
    if (isOurs(url)) give([url]); // some browsers make a file of its thumbnail, too
    else if (files.length) give(files);
    else if (!folders.length) tellProblem("Only pictures can be dropped here: files, folders, or pictures of this page.");
    for (const folder of folders) giveFolder(await filesIn(folder));
  });
  document.addEventListener(
    "paste",
    (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!isSeen() || !files.length) return;
      event.preventDefault();
      event.stopPropagation();
      give(files);
    },
    true,
  );
}

function choose(given, use) {
  const input = element("input", "", "", { type: "file", ...given, onchange: () => input.files.length && use([...input.files]) });
  input.click();
}

/** What was dropped, file by file; it must be asked for before anything is waited for. */
const entriesOf = (data) => [...data.items].filter(({ kind }) => kind === "file").map((item) => item.webkitGetAsEntry?.() ?? null);

/** All files below a folder that was dropped. */
async function filesIn(folder) {
  const reader = folder.createReader();
  const entries = [];
  for (let some = await read(reader); some.length; some = await read(reader)) entries.push(...some); // a hundred at a time
  const found = await Promise.all(entries.map((entry) => (entry.isDirectory ? filesIn(entry) : fileOf(entry))));
  return found.flat();
}

const read = (reader) => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
const fileOf = (entry) => new Promise((resolve, reject) => entry.file(resolve, reject));
