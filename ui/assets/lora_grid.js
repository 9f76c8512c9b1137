// The cards. One of them takes part in the order of the Tab key, and the arrow keys move between them.

import { element } from "./elements.js";
import { address } from "./server.js";

/** does: {use, row, details}, each called with a LoRA; the first also with one of another kind, which has a `kind`. usedAs: (lora) -> what its tag says, null without one. */
export function cardGrid(list, does, usedAs) {
  const cards = new Map(); // LoRA -> its card
  let shown = [];
  let current = null; // the LoRA whose card the Tab key comes to

  const loraOf = (target) => shown.find((lora) => cards.get(lora) === target.closest?.(".em-lora"));
  const useButton = (lora) => cards.get(lora)?.querySelector(".em-lora-use");

  list.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    const lora = button && loraOf(button);
    if (!lora) return;
    const what = button.dataset.do === "use" && event.shiftKey && !lora.kind ? "row" : button.dataset.do;
    does[what](lora);
  });
  list.addEventListener("focusin", (event) => {
    const lora = loraOf(event.target);
    if (lora) comeTo(lora);
  });
  list.addEventListener("keydown", (event) => {
    const lora = loraOf(event.target);
    if (!lora || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = shown.indexOf(lora);
    const next = shown[targetOf(event.key, at)];
    if (event.key === "i" && !lora.kind) does.details(lora);
    else if (event.key === "Enter" && event.shiftKey && !lora.kind) does.row(lora);
    else if (next) focus(next);
    else return;
    event.preventDefault();
  });

  function targetOf(key, at) {
    const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
    if (by) return at + by;
    return { Home: 0, End: shown.length - 1 }[key];
  }

  function comeTo(lora) {
    setReach(current, -1);
    current = lora;
    setReach(current, 0);
  }

  function setReach(lora, value) {
    for (const button of cards.get(lora)?.querySelectorAll("button") ?? []) button.tabIndex = value;
  }

  function focus(lora) {
    if (!lora) return;
    comeTo(lora);
    useButton(lora)?.focus();
    cards.get(lora)?.scrollIntoView({ block: "nearest" });
  }

  function mark(lora) {
    const used = usedAs(lora);
    const card = cards.get(lora);
    if (!card) return; // not drawn yet
    if (card.dataset.used === (used ?? undefined)) return;
    if (used === null) delete card.dataset.used;
    else card.dataset.used = used;
    useButton(lora).setAttribute("aria-pressed", String(used !== null));
    card.querySelector(".em-lora-used").textContent = used === null ? "" : used || "✓";
  }

  return {
    show(loras) {
      const focused = loraOf(document.activeElement);
      shown = loras;
      for (const lora of loras) {
        if (!cards.has(lora)) cards.set(lora, cardOf(lora));
        mark(lora);
      }
      const wanted = loras.map((lora) => cards.get(lora));
      if (wanted.length !== list.childElementCount || wanted.some((card, index) => list.children[index] !== card)) {
        list.replaceChildren(...wanted);
        if (focused) focus(shown.includes(focused) ? focused : (shown.find(({ name }) => name === focused.name) ?? shown[0]));
      }
      if (!shown.includes(current)) comeTo(shown[0] ?? null);
    },
    /** Let go of the cards of all others. */
    keepOnly(loras) {
      const known = new Set(loras);
      for (const lora of cards.keys()) if (!known.has(lora)) cards.delete(lora);
    },
    markAll: () => shown.forEach(mark),
    focusFirst: () => focus(shown[0]),
    focus: (lora) => shown.includes(lora) && focus(lora),
  };
}

function cardOf(lora) {
  const card = element("li", "em-lora");
  const use = element("button", "em-lora-use", "", {
    type: "button",
    "data-do": "use",
    tabindex: "-1",
    "aria-pressed": "false",
    title: lora.problem || lora.title || lora.name,
  });
  const caption = element("span", "em-lora-caption");
  const [folder, name] = nameParts(lora.name);
  const picture = pictureOf(lora, name);
  if (lora.problem) picture.append(element("span", "em-chip em-chip-problem", "Problem"));
  else if (lora.family) picture.append(element("span", "em-chip", lora.family_label || lora.family));
  if (folder) caption.append(element("span", "em-lora-folder", folder));
  caption.append(element("span", "em-lora-name", name));
  use.append(picture, caption, element("span", "em-lora-used", "", { "aria-hidden": "true" }));
  card.append(use);
  if (lora.kind) return card; // no LoRA: it has neither rows nor details
  const tools = element("span", "em-lora-tools");
  tools.append(
    element("button", "em-icon em-add-row", `Add ${name} as a row`, { type: "button", "data-do": "row", tabindex: "-1", title: "Add as a row" }),
    element("button", "em-icon em-info", `Details of ${name}`, { type: "button", "data-do": "details", tabindex: "-1", title: "Details" }),
  );
  card.append(tools);
  return card;
}

function pictureOf(lora, name) {
  const frame = element("span", "em-lora-picture");
  const letters = () => element("span", "em-lora-letters", initialsOf(name), { "aria-hidden": "true" });
  if (!lora.preview) {
    frame.append(letters());
    return frame;
  }
  const image = element("img", "", "", { alt: "", loading: "lazy", decoding: "async", src: address(lora.preview) });
  image.addEventListener("error", () => image.replaceWith(letters()));
  frame.append(image);
  return frame;
}

/** What stands where there is no picture. */
function initialsOf(name) {
  const words = name.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  const letters = words.length > 1 ? words.slice(0, 2).map((word) => [...word][0]) : [...(words[0] ?? "?")].slice(0, 2);
  return letters.join("").toUpperCase();
}

/** ["a/b", "c"] of "a/b/c". */
function nameParts(name) {
  const parts = name.split("/");
  return [parts.slice(0, -1).join("/"), parts.at(-1)];
}
