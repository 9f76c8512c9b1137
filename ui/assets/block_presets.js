// Named weights by block for LoRAs: those that everybody knows, and one's own, which this browser keeps.

import { action, element, select } from "./elements.js";
import { presetsFor } from "./lora_shelf.js";
import { keepPreset, ownPresets } from "./own_presets.js";
import { note } from "./messages.js";

const OWN = "own ";
const BASE = "BASE"; // the first number of a list

/** use(text) reads a preset's name; useWeights(mapping) takes one's own; current(): what would be saved; fail(error). */
export function blockPresets({ use, useWeights, current, fail }) {
  const pick = element("span", "em-preset-pick");
  const own = element("div", "em-bank-tools");
  const name = element("input", "", "", { type: "text", autocomplete: "off", placeholder: "Name of a preset of your own", "aria-label": "Name of a preset of your own" });
  const remove = action("Remove preset", () => {
    keepPreset(family, chosen.slice(OWN.length), null);
    chosen = "";
    draw();
  }, { hidden: true });
  own.append(name, action("Save preset", save), remove);
  let family = "";
  let known = { presets: [], blocks: [] };
  let chosen = "";
  let encoder = ""; // the block that stands for what BASE is for

  function draw() {
    const mine = ownPresets(family);
    const options = [["", "Preset"]];
    if (mine.length) options.push({ group: "Yours", options: mine.map((preset) => [OWN + preset.name, preset.name]) });
    options.push({ group: "Built in", options: known.presets.map((preset) => [preset.name, preset.name]) });
    pick.replaceChildren(select(options, chosen, take, { "aria-label": "Preset of block weights" }));
    remove.hidden = !chosen.startsWith(OWN);
  }

  function take(key) {
    chosen = key;
    remove.hidden = !key.startsWith(OWN);
    if (!key) return;
    if (key.startsWith(OWN)) useWeights(ownPresets(family).find((preset) => OWN + preset.name === key).weights);
    else use(key);
  }

  function save() {
    const wanted = name.value.trim();
    if (!wanted) {
      name.focus();
      return fail(new Error("Type a name for the preset first."));
    }
    keepPreset(family, wanted, current());
    chosen = OWN + wanted;
    name.value = "";
    draw();
    note(`${wanted} is kept in this browser.`);
  }

  name.addEventListener("keydown", (event) => event.key === "Enter" && save());

  /** The numbers of a list: BASE, which is for the text encoders, and the blocks in their order. */
  const listNow = (weights, valueOf) =>
    known.blocks.map((block) => valueOf(weights, block === BASE ? encoder : block)).join(",");

  return {
    pick,
    own,
    listNow,
    async listOf(weights, valueOf) {
      const text = listNow(weights, valueOf);
      if (!text) throw new Error("The blocks of this model are not known.");
      return text;
    },
    /** The presets for a checkpoint with such a layout. */
    async load(checkpoint, layout) {
      family = `lora ${layout?.family ?? ""}`; // those of merges mean something else
      encoder = layout?.blocks.find((block) => block.group === "TE")?.name ?? "";
      known = checkpoint ? await presetsFor(checkpoint) : { presets: [], blocks: [] };
      draw();
    },
  };
}
