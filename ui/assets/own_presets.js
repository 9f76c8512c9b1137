// Weights by block that were saved under a name, in this browser, by the family of models that they are for.

const KEY = "emulsion.merge.presets";

/** [{name, weights}] of a family, by name. */
export function ownPresets(family) {
  return Object.entries(all()[family] ?? {})
    .map(([name, weights]) => ({ name, weights }))
    .sort((one, other) => one.name.localeCompare(other.name));
}

/** weights: as recipes have them; null removes the preset. */
export function keepPreset(family, name, weights) {
  const presets = all();
  const { [name]: _, ...others } = presets[family] ?? {};
  presets[family] = weights === null ? others : { ...others, [name]: weights };
  localStorage.setItem(KEY, JSON.stringify(presets));
}

function all() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
