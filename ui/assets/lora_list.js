// Which LoRAs are shown, in which order, and the folders that they lie in.

const byText = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" }).compare;
const byName = (one, other) => byText(one.name, other.name);
const texts = new WeakMap(); // what is searched, by LoRA

export const SORTS = [
  ["name", "By name"],
  ["newest", "Newest first"],
  ["size", "Largest first"],
  ["family", "By family"],
];
const ORDERS = {
  name: byName,
  newest: (one, other) => other.modified - one.modified || byName(one, other),
  size: (one, other) => other.size - one.size || byName(one, other),
  family: (one, other) => byText(one.family_label || "~", other.family_label || "~") || byName(one, other),
};

/** Those that `view` asks for. `fitting`: the family of the chosen checkpoint, "" when it is not known. */
export function shownOf(loras, { text, sort, family, fits, folder }, fitting) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return loras
    .filter(
      (lora) =>
        isIn(lora.folder, folder) &&
        (!family || lora.family === family) &&
        (!fits || !fitting || !lora.family || lora.family === fitting) &&
        words.every((word) => textOf(lora).includes(word)),
    )
    .sort(ORDERS[sort] ?? byName);
}

/** [[family, its label]] of all LoRAs. */
export function familiesOf(loras) {
  const found = new Map(loras.filter((lora) => lora.family).map((lora) => [lora.family, lora.family_label || lora.family]));
  return [...found].sort((one, other) => byText(one[1], other[1]));
}

/** [{path, name, count}] of the folders right below `folder`, with the LoRAs in them and below. */
export function foldersIn(loras, folder) {
  const counts = new Map();
  for (const { folder: place } of loras) {
    if (place === folder || !isIn(place, folder)) continue;
    const name = place.slice(folder ? folder.length + 1 : 0).split("/")[0];
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts]
    .map(([name, count]) => ({ name, count, path: folder ? `${folder}/${name}` : name }))
    .sort(byName);
}

/** [{path, name}] from the outermost to `folder`. */
export function wayTo(folder) {
  const names = folder ? folder.split("/") : [];
  return names.map((name, index) => ({ name, path: names.slice(0, index + 1).join("/") }));
}

const isIn = (place, folder) => !folder || place === folder || place.startsWith(`${folder}/`);

function textOf(lora) {
  if (!texts.has(lora)) {
    const tags = lora.trained_tags.map(([tag]) => tag);
    const said = [lora.name, lora.alias, lora.title, lora.folder, lora.activation_text, lora.description, lora.notes];
    texts.set(lora, [...said, ...tags].filter(Boolean).join("\n").toLowerCase());
  }
  return texts.get(lora);
}
