// The LoRAs that tags of the prompt name, and whether they are here. The tags themselves stay text in the prompt.

import { tagsIn } from "./adapter_value.js";
import { element } from "./elements.js";
import { lorasKnown } from "./lora_shelf.js";

const HASH = /^#[0-9a-f]{8,64}$/i;

export function promptTags() {
  const box = element("div", "em-prompt-tags", "", { hidden: true });
  return {
    box,
    show(prompt) {
      const tags = tagsIn(prompt);
      box.hidden = !tags.length;
      box.replaceChildren(element("span", "em-quiet", "In the prompt:"), ...tags.map(chipOf));
    },
  };
}

function chipOf({ name, rest, text }) {
  const found = lorasKnown().find((lora) => isNamed(lora, name));
  const chip = element("span", "em-chip em-tag-chip", rest ? `${name} ${rest}` : name, {
    title: found ? `${text} means ${found.name}` : `${text}: there is no LoRA of this name`,
  });
  chip.dataset.found = found ? "yes" : "no";
  if (!found) chip.append(element("span", "", " not here"));
  return chip;
}

function isNamed(lora, name) {
  const wanted = name.toLowerCase();
  if (HASH.test(name)) return [lora.sha256, lora.autov3].some((hash) => hash?.startsWith(wanted.slice(1)));
  const full = lora.name.toLowerCase();
  return full === wanted || full.split("/").at(-1) === wanted || lora.alias?.toLowerCase() === wanted || lora.file?.toLowerCase() === wanted;
}
