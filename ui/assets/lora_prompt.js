// Tags of LoRAs in the prompts of the form that was used last: which there are, how one comes in and how it goes out again.

import { elementIn } from "./form_scope.js";

const TAG = /<(?:lora|lyco):([^:>]*)(?::([^>]*))?>/gi;
const HASH = /^#[0-9a-f]{8,64}$/;
export const UNFIT = /[:<>]|^#|^\s|\s$/; // what a name in a tag cannot have
const OPEN = "([{<";
const CLOSED = ")]}>";

let isTouched = false; // whether someone has put the cursor somewhere
document.addEventListener("focusin", (event) => (isTouched ||= Boolean(event.target.closest?.(".em-prompt-box"))));

const area = (box) => elementIn("box", box)?.querySelector("textarea");
export const promptNow = () => area("prompt")?.value ?? "";

/** Call `watcher` with the prompt at every change that someone types. */
export function watchPrompt(watcher) {
  document.addEventListener("input", (event) => event.target === area("prompt") && watcher(event.target.value));
}

/** [{name, rest, start, end}] of a prompt. rest: what follows the name, as written. */
export function tagsIn(prompt) {
  return [...prompt.matchAll(TAG)].map((found) => ({
    name: found[1].trim(),
    rest: found[2] ?? "",
    start: found.index,
    end: found.index + found[0].length,
  }));
}

/** How the server finds a LoRA by what a tag calls it, as far as it can be known here. */
export function finderOf(loras) {
  const [byName, byEnd, byAlias] = [new Map(), new Map(), new Map()];
  const put = (map, key, lora) => map.set(key, map.has(key) && map.get(key) !== lora ? null : lora); // null: several
  for (const lora of loras) {
    const ending = /\.[^./]*$/.exec(lora.file)?.[0] ?? "";
    const parts = lora.name.split("/");
    byName.set(lora.name, lora);
    for (let from = 0; from < parts.length; from++) {
      const end = parts.slice(from).join("/").toLowerCase();
      put(byEnd, end, lora);
      put(byEnd, `${end}${ending}`, lora);
    }
    if (lora.alias) put(byAlias, lora.alias.toLowerCase(), lora);
  }
  return (name) => {
    const asked = name.toLowerCase();
    if (!asked.startsWith("#")) {
      const found = byName.get(name) ?? byEnd.get(asked);
      return found === undefined ? (byAlias.get(asked) ?? null) : found;
    }
    const isIt = (known) => HASH.test(asked) && Boolean(known?.startsWith(asked.slice(1)));
    return loras.find((lora) => isIt(lora.sha256) || isIt(lora.autov3)) ?? null;
  };
}

/**
 * The tag of a LoRA: without its folder where no other has its name, as other programs want it; by its hash where its
 * name does not fit into a tag; null where it has no hash yet either. `find`: as of finderOf.
 */
export function tagOf(lora, find) {
  const hash = (lora.autov3 ?? lora.sha256)?.slice(0, 12);
  const last = lora.name.split("/").at(-1);
  const name = UNFIT.test(lora.name) ? hash && `#${hash}` : find(last) === lora ? last : lora.name;
  return name ? `<lora:${name}:${weightOf(lora)}>` : null;
}

export const weightOf = (lora) => lora.preferred_weight || 1;

/** Put the LoRA, and the words that it wants, into the prompts. `find`: as of finderOf. */
export function insertLora(lora, find) {
  const prompt = area("prompt");
  const words = lora.activation_text.trim();
  write(prompt, inserted(prompt.value, cursorOf(prompt), `${tagOf(lora, find)}${words && ` ${words}`}`, Boolean(words)));
  const negative = area("negative-prompt");
  const unwanted = lora.negative_text.trim();
  if (unwanted && negative && !negative.value.includes(unwanted)) {
    write(negative, inserted(negative.value, negative.value.length, unwanted, true));
  }
}

/** Take all tags of the LoRA out, with the words behind them. `find`: as of finderOf. */
export function removeLora(lora, find) {
  const prompt = area("prompt");
  const words = lora.activation_text.trim();
  let text = prompt.value;
  for (const { name, start, end } of tagsIn(text).reverse()) {
    if (find(name) !== lora) continue;
    const behind = text.slice(end);
    const isFollowed = words && behind.trimStart().startsWith(words);
    text = without(text, start, isFollowed ? text.length - behind.trimStart().length + words.length : end);
  }
  write(prompt, { text, at: text.length });
  const negative = area("negative-prompt");
  const unwanted = lora.negative_text.trim();
  const at = unwanted && negative ? negative.value.indexOf(unwanted) : -1;
  if (at >= 0) write(negative, { text: without(negative.value, at, at + unwanted.length), at });
}

/** Put a word where the cursor is. */
export const insertWord = (word) => insertPiece(word, true);

/** Put a piece where the cursor is. isWords: whether it needs commas around it. */
export function insertPiece(piece, isWords) {
  const prompt = area("prompt");
  write(prompt, inserted(prompt.value, cursorOf(prompt), piece, isWords));
}

/** Take out all that a pattern finds. */
export function removePieces(pattern) {
  const prompt = area("prompt");
  let text = prompt.value;
  for (const { 0: piece, index } of [...text.matchAll(pattern)].reverse()) text = without(text, index, index + piece.length);
  write(prompt, { text, at: text.length });
}

const cursorOf = (prompt) => (isTouched ? prompt.selectionEnd : prompt.value.length);

function write(field, { text, at }) {
  if (field.value === text) return;
  field.value = text;
  field.setSelectionRange(at, at);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

/** `piece` in `text` near `at`, but in no word and no brackets. hasWords: whether it needs commas around it. */
function inserted(text, at, piece, hasWords) {
  const place = freePlace(text, at);
  const [before, after] = [text.slice(0, place), text.slice(place)];
  const comma = hasWords ? "," : "";
  const isBehindComma = /,\s*$/.test(before);
  const start = !before || /\s$/.test(before) ? (hasWords && /\S[^\S\n]+$/.test(before) && !isBehindComma ? ", " : "") : isBehindComma ? " " : `${comma} `;
  const kept = start === ", " ? before.trimEnd() : before;
  const end = !after.trim() || /^\s*[,\n]/.test(after) ? "" : /^\s/.test(after) ? comma : `${comma} `;
  return { text: `${kept}${start}${piece}${end}${after}`, at: kept.length + start.length + piece.length };
}

function freePlace(text, at) {
  const depthAfter = (depth, index) => {
    if (text[index - 1] === "\\") return depth;
    return OPEN.includes(text[index]) ? depth + 1 : CLOSED.includes(text[index]) ? Math.max(0, depth - 1) : depth;
  };
  let depth = 0;
  for (let index = 0; index < at; index++) depth = depthAfter(depth, index);
  const isInside = (index) => /[^\s,]/.test(text[index - 1] ?? " ") && /[^\s,]/.test(text[index] ?? " ");
  while (at < text.length && (depth > 0 || isInside(at))) depth = depthAfter(depth, at++);
  return at;
}

/** `text` without what lies between, and with one separator where there were two. */
function without(text, start, end) {
  const [left, right] = [text.slice(0, start), text.slice(end)];
  const [before, after] = [left.replace(/[\s,]+$/, ""), right.replace(/^[\s,]+/, "")];
  if (!before || !after) return before || after;
  const gap = left.slice(before.length) + right.slice(0, right.length - after.length);
  return `${before}${gap.includes(",") ? "," : ""}${gap.includes("\n") ? "\n" : " "}${after}`;
}
