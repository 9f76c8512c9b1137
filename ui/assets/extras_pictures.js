// The pictures of the Extras tab as cards: each with its name and size, and with what became of files that are none.

import { element } from "./elements.js";
import { address, ask, storePicture } from "./server.js";

const MOST = 500; // of one job, as the server has it
const MOST_MIB = 64; // of a file, likewise
const MISSING = 404;

/**
 * kept: [{sha256, name, width, height}], as `all` gives them. sizeAfter(picture): {text, isTooLarge}. changed(): called
 * after every change. select(picture): called with the one that is looked at, null for none.
 */
export function pictureCards(find, kept, { sizeAfter, changed, select }) {
  const cards = new Map(); // by hash
  let pictures = [];
  let selected = null;
  let waiting = Promise.resolve();
  let [taken, coming] = [0, 0];

  function card(picture) {
    const { sha256, name, width, height } = picture;
    const box = element("li", "em-extras-picture");
    const image = element("img", "", "", { alt: "", src: address(`api/v1/pictures/${sha256}/thumb`) });
    image.addEventListener("error", () => lookAgain(picture));
    const after = element("span", "em-extras-after");
    const show = element("button", "em-extras-show", "", { type: "button", title: name, "aria-label": `${name}, ${width} × ${height}`, onclick: () => look(picture) });
    show.append(image, element("span", "em-extras-name", name), element("span", "em-quiet", `${width} × ${height}`), after);
    show.draggable = true;
    show.addEventListener("dragstart", ({ dataTransfer }) => {
      dataTransfer.setData("text/uri-list", address(`api/v1/pictures/${sha256}`));
      dataTransfer.effectAllowed = "copy";
    });
    show.addEventListener("keydown", (event) => event.key === "Delete" && remove(picture, true));
    const away = element("button", "em-icon em-close", "", { type: "button", "aria-label": `Remove ${name}`, onclick: () => remove(picture, true) });
    box.append(show, away);
    return { box, show, after };
  }

  function put(picture) {
    pictures.push(picture);
    cards.set(picture.sha256, card(picture));
    find("list").append(cards.get(picture.sha256).box);
  }

  function look(picture) {
    selected = picture;
    for (const [sha256, { show }] of cards) show.setAttribute("aria-pressed", String(sha256 === picture?.sha256));
    select(picture);
  }

  function remove(picture, isByHand = false) {
    const at = pictures.indexOf(picture);
    if (at < 0) return;
    pictures.splice(at, 1);
    cards.get(picture.sha256).box.remove();
    cards.delete(picture.sha256);
    const next = pictures[Math.min(at, pictures.length - 1)] ?? null;
    if (selected === picture) look(next);
    draw();
    if (isByHand) (next ? cards.get(next.sha256).show : find("open")).focus();
  }

  function draw() {
    find("drop").hidden = pictures.length > 0;
    find("head").hidden = find("list").hidden = pictures.length === 0;
    tellCount();
    changed();
  }

  function tellCount() {
    const isComing = taken < coming;
    find("drop").classList.toggle("em-extras-busy", isComing);
    find("count").textContent = isComing ? `Taking in ${taken + 1} of ${coming}` : `${pictures.length} ${pictures.length === 1 ? "picture" : "pictures"}`;
  }

  /** A picture that cannot be shown: it may be gone, or the server may be. */
  async function lookAgain(picture) {
    const answer = await fetch(address(`api/v1/pictures/${picture.sha256}/facts`)).catch(() => null);
    if (answer?.status !== MISSING) return;
    remove(picture);
    refuse(`${picture.name}: it is not stored here any more. Open its file again.`);
  }

  function refuse(message) {
    const line = element("div", "em-extras-problem");
    const close = element("button", "em-icon em-close", "", {
      type: "button",
      "aria-label": "Close this message",
      onclick: () => {
        line.remove();
        find("refused").hidden = !find("refused").children.length;
      },
    });
    line.append(element("p", "", message), close);
    find("refused").append(line);
    find("refused").hidden = false;
  }

  async function take(source) {
    const name = nameOf(source);
    try {
      if (pictures.length >= MOST) throw new Error(`it was left out: one job takes at most ${MOST} pictures.`);
      const { sha256, width, height } = await (typeof source === "string" ? storePicture(source) : storeFile(source));
      const known = pictures.find((picture) => picture.sha256 === sha256);
      if (!known) put({ sha256, name, width, height });
      return known ?? pictures.at(-1);
    } catch (error) {
      refuse(error.message.startsWith(name) ? error.message : `${name}: ${error.message}`);
      return null;
    }
  }

  async function takeAll(sources) {
    let first = null;
    for (const source of sources) {
      tellCount();
      const picture = await take(source);
      first ??= picture;
      taken++;
      draw();
    }
    if (taken === coming) [taken, coming] = [0, 0];
    if (first && pictures.includes(first)) look(first);
  }

  find("clear").addEventListener("click", () => {
    for (const picture of [...pictures]) remove(picture);
    find("refused").replaceChildren();
    find("refused").hidden = true;
    find("open").focus();
  });
  for (const picture of Array.isArray(kept) ? kept : []) put(picture);
  find("drop").hidden = pictures.length > 0;
  find("head").hidden = find("list").hidden = pictures.length === 0;
  tellCount();
  if (pictures.length) look(pictures[0]);

  return {
    all: () => pictures,
    /** Take in files and addresses of pictures of this page, one after the other. */
    add(sources) {
      coming += sources.length;
      waiting = waiting.then(() => takeAll(sources));
      return waiting;
    },
    /** Until everything that was added is here. */
    arrived: () => waiting,
    /** Say anew what each becomes. */
    showSizes() {
      for (const picture of pictures) {
        const { after } = cards.get(picture.sha256);
        const { text, isTooLarge } = sizeAfter(picture);
        after.textContent = text;
        after.classList.toggle("em-merge-problem", isTooLarge);
      }
    },
  };
}

const nameOf = (source) => (typeof source === "string" ? decodeURIComponent(source.split("/").at(-1)) : source.name || "The picture");

/** With its name, by which the server's messages call it. */
async function storeFile(file) {
  if (file.size > MOST_MIB * 2 ** 20) throw new Error(`it is ${Math.round(file.size / 2 ** 20)} MiB; at most ${MOST_MIB} are accepted.`);
  const form = new FormData();
  form.append("file", file, file.name || "The picture");
  return ask("api/v1/pictures", undefined, { method: "POST", body: form });
}
