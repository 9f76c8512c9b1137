// Textual inversions and hypernetworks as cards of the LoRA tab: what there is, and how a prompt names them.

import { ask } from "./server.js";

export const LORA = "lora";
export const KINDS = [
  [LORA, "LoRAs"],
  ["embedding", "Textual inversions"],
  ["hypernetwork", "Hypernetworks"],
];
const NAMED = { lora: "LoRA", embedding: "textual inversion", hypernetwork: "hypernetwork" };
const SOURCES = {
  embedding: async () => (await ask("api/v1/embeddings")).embeddings,
  hypernetwork: async () => (await ask("api/v1/hypernetworks")).hypernetworks,
};

export const counted = (count, kind) => `${count} ${NAMED[kind]}${count === 1 ? "" : "s"}`;

/** All of a kind, with the fields that cards, search and folders look at. */
export async function othersOf(kind) {
  const found = await SOURCES[kind]();
  return found.map(({ name, file, problem = "", made_for: family = "" }) => ({
    kind,
    name,
    file,
    problem,
    family,
    folder: name.split("/").slice(0, -1).join("/"),
    trained_tags: [],
    size: 0,
    modified: 0,
  }));
}

/** What puts one into a prompt. isWords: whether it is read as words, with commas around it. */
export function pieceOf({ kind, name }) {
  const isWords = kind === "embedding";
  return { piece: isWords ? name : `<hypernet:${name}:1>`, isWords };
}

/** Where a prompt names it. The first group is what a tag says behind the name. */
export function placesOf({ kind, name }) {
  const literal = name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
  return kind === "embedding"
    ? new RegExp(`(?<![\\p{L}\\p{N}_/-])(?:embedding:)?${literal}(?![\\p{L}\\p{N}_/-])(?![^<>]*>)()`, "giu")
    : new RegExp(`<\\s*hypernet\\s*:\\s*${literal}\\s*(?::([^>]*))?>`, "giu");
}
