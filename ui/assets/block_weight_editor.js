// The weights by block of one LoRA: sliders, presets, lists of numbers, and finer ones by kind of layer.

import { blockPresets } from "./block_presets.js";
import { copyText } from "./clipboard.js";
import { action, element, labelled } from "./elements.js";
import { layoutFor } from "./lora_shelf.js";
import { blockNames, valueOf, weightsFrom, weightsMapping } from "./merge_recipe.js";
import { sliderBank } from "./merge_sliders.js";
import { note } from "./messages.js";
import { ask } from "./server.js";

const PLAIN = { base: 1 };
const isPlain = (mapping) => mapping.base === 1 && !mapping.overrides;

/**
 * read(): {weights: as requests have them, or null; elemental: text}. write(weights, elemental, isSettled) with what was
 * set. checkpoint(): whose blocks these are.
 */
export function blockWeightEditor({ read, write, checkpoint }) {
  const box = element("div", "em-adapter-panel em-block-editor");
  const host = element("div");
  const hint = element("p", "em-block-hint", "Draw across the sliders, type a number, or use the arrow keys. A double click sets a block to 1.");
  const problem = element("p", "em-adapter-problem", "", { role: "alert", hidden: true });
  const more = element("p", "em-hint");
  const list = element("input", "", "", { type: "text", spellcheck: "false", autocomplete: "off", placeholder: "1,0,0,0,1,1 ... or OUTALL", "aria-label": "Block weights as a list" });
  const elemental = element("textarea", "", "", { rows: 2, spellcheck: "false", placeholder: "IN05-OUT05:attn:0.5", "aria-label": "Elemental weights" });
  let layout = null;
  let bank = null;
  let shownFor = "";
  const presets = blockPresets({ use: readText, useWeights, current: () => mappingNow(), fail });

  const tools = element("div", "em-bank-tools");
  tools.append(presets.pick, action("All 1", () => useWeights(null)), action("Copy", copy));
  const texts = element("div", "em-bank-tools");
  texts.append(list, action("Read list", () => readText(list.value)));
  box.append(host, hint, problem, tools, texts, presets.own, labelled("By kind of layer", elemental, "blocks:layers:number, one in a line; goes before the sliders."), more);

  const now = () => weightsFrom(read().weights ?? PLAIN, layout && blockNames(layout));
  const mappingNow = () => weightsMapping(now());
  const keep = (weights, isSettled) => {
    const mapping = weightsMapping(weights);
    write(isPlain(mapping) ? null : mapping, read().elemental, isSettled);
  };

  /** From 0 to 1, or as far as the weights reach. */
  function range() {
    const weights = now();
    const values = [weights.base, ...Object.values(weights.blocks)];
    return { minimum: Math.min(0, Math.floor(Math.min(...values))), maximum: Math.max(1, Math.ceil(Math.max(...values))) };
  }

  function fail(error) {
    problem.textContent = error.message;
    problem.hidden = false;
  }

  /** Take over what a preset or a list comes to. */
  function useWeights(mapping, finer = "") {
    problem.hidden = true;
    write(!mapping || isPlain(mapping) ? null : mapping, finer, true);
    show();
  }

  async function asked(text, finer) {
    return (await ask("api/v1/loras/block-weights", { text, elemental: finer, checkpoint: checkpoint() })).weights;
  }

  async function readText(text) {
    try {
      const finer = read().elemental ?? "";
      useWeights(await asked(text.trim(), finer), finer);
    } catch (error) {
      fail(error);
    }
  }

  /** The finer weights anew; what the sliders say stays. */
  async function readElemental() {
    try {
      const finer = weightsFrom(elemental.value.trim() ? await asked("", elemental.value.trim()) : PLAIN, blockNames(layout));
      const { base, blocks } = now();
      const mapping = weightsMapping({ ...finer, base, blocks: { ...blocks, ...finer.blocks } });
      problem.hidden = true;
      write(isPlain(mapping) ? null : mapping, elemental.value.trim(), true);
      show();
    } catch (error) {
      fail(error);
    }
  }

  async function copy() {
    try {
      const text = await presets.listOf(now(), valueOf);
      list.value = text;
      await copyText(text);
      note("The weights of all blocks are copied.");
    } catch (error) {
      fail(error);
    }
  }

  async function load() {
    const asking = checkpoint();
    if (asking === shownFor) return;
    shownFor = asking;
    try {
      const found = asking ? await layoutFor(asking) : null;
      if (asking !== shownFor) return;
      layout = found && { ...found, blocks: found.blocks.filter((block) => block.group !== "VAE") }; // no LoRA changes it
      problem.hidden = true;
      await presets.load(asking, layout);
    } catch (error) {
      layout = null;
      shownFor = ""; // it can be tried again
      fail(error);
    }
    bank = layout && makeBank();
    if (!bank) host.replaceChildren();
    show();
  }

  const makeBank = () =>
    sliderBank(host, {
      layout,
      read: () => ({ weights: now(), parameter: range() }),
      write: (weights) => keep(weights, false),
      settle: () => {
        keep(now(), true);
        bank.draw();
      },
      tell: (block) => (hint.textContent = `${block.label}: ${(100 * block.share).toFixed(2)} % of the parameters. ${block.hint}`),
      usual: 1,
    });

  function show() {
    const given = read();
    if (document.activeElement !== elemental) elemental.value = given.elemental ?? "";
    const finer = now();
    const count = finer.more.length + Object.keys(finer.kinds).length + Object.keys(finer.streams).length;
    more.textContent = count && !given.elemental ? `${count} finer settings are kept as they came.` : "";
    bank?.draw();
  }

  elemental.addEventListener("change", readElemental);
  list.addEventListener("keydown", (event) => event.key === "Enter" && readText(list.value));
  box.addEventListener("paste", (event) => {
    if (event.target.matches("input, textarea")) return;
    event.preventDefault();
    event.stopPropagation(); // the Merge tab has sliders of its own
    readText(event.clipboardData.getData("text/plain"));
  });
  box.addEventListener("copy", (event) => {
    if (event.target.matches("input, textarea") || !presets.listNow(now(), valueOf)) return;
    event.clipboardData.setData("text/plain", presets.listNow(now(), valueOf));
    event.preventDefault();
    event.stopPropagation();
    note("The weights of all blocks are copied.");
  });
  return { box, show, load };
}
