// What the Merge tab is set to, and the recipe that it stands for. Nothing here touches the page.

const DECIMALS = 4;
export const rounded = (value) => Number(value.toFixed(DECIMALS));

export const newState = () => ({
  rule: "lerp",
  models: ["", ""],
  weights: {}, // by parameter: {base, blocks: {name: value}, kinds: {}, streams: {}, more: [override]}
  normalisation: "none",
  seed: 0,
  dtype: "as_first",
  vae: "",
  loras: [], // {name, strength}
  name: "",
});

export const copyOf = (state) => structuredClone(state);

/** The numbers of a parameter, made when it is first asked for. */
export function weightsOf(state, parameter) {
  state.weights[parameter.name] ??= { base: parameter.default, blocks: {}, kinds: {}, streams: {}, more: [] };
  return state.weights[parameter.name];
}

export const valueOf = (weights, block) => weights.blocks[block] ?? weights.base;

/** Weights as recipes have them: blocks of one value become one override. */
export function weightsMapping({ base, blocks, kinds, streams, more }) {
  const byValue = new Map();
  for (const [block, value] of Object.entries(blocks)) {
    if (value !== base) byValue.set(value, [...(byValue.get(value) ?? []), block]);
  }
  const overrides = [
    ...[...byValue].map(([value, names]) => ({ value, blocks: names })),
    ...Object.entries(kinds).map(([name, value]) => ({ value, kinds: [name] })),
    ...Object.entries(streams).map(([name, value]) => ({ value, streams: [name] })),
    ...more,
  ];
  return overrides.length ? { base, overrides } : { base };
}

/** The other way; what the page has no slider for is kept as it is. */
export function weightsFrom(mapping) {
  if (typeof mapping === "number") return weightsFrom({ base: mapping });
  const weights = { base: mapping.base, blocks: {}, kinds: {}, streams: {}, more: [] };
  for (const override of mapping.overrides ?? []) {
    const given = ["blocks", "kinds", "streams"].filter((field) => override[field]?.length);
    const isOrdered = weights.more.length === 0; // later overrides count more, so nothing may overtake those kept
    if (given.length === 1 && isOrdered) {
      for (const name of override[given[0]]) weights[given[0]][name] = override.value;
    } else weights.more.push(override);
  }
  return weights;
}

/** The recipe, or null while models are missing. rule: as the server describes it. */
export function recipeOf(state, rule) {
  if (!rule || state.models.some((name) => !name)) return null;
  const parameters = {};
  for (const parameter of parametersOf(rule, state.models.length)) {
    parameters[parameter.name] = weightsMapping(weightsOf(state, parameter));
  }
  let root = {
    type: "merge",
    rule: rule.name,
    models: state.models.map((name) => ({ type: "checkpoint", file: { name } })),
    parameters,
    normalisation: state.normalisation,
    seed: rule.is_random ? state.seed : 0,
  };
  if (state.loras.length) {
    root = {
      type: "adapters",
      model: root,
      adapters: state.loras.map(({ name, strength }) => ({ file: { name }, strength })),
    };
  }
  if (state.vae) root = { type: "vae", model: root, vae: { name: state.vae } };
  return { name: state.name, dtype: state.dtype, root };
}

/** The state that makes a recipe, or null for one that this page cannot show (merges in merges without names). */
export function stateOf(recipe) {
  const state = { ...newState(), dtype: recipe.dtype ?? "as_first", name: recipe.name ?? "" };
  let node = recipe.root;
  if (node.type === "vae") [state.vae, node] = [node.vae.name, node.model];
  if (node.type === "adapters") {
    state.loras = node.adapters.map(({ file, strength }) => ({ name: file.name, strength: strength ?? 1 }));
    node = node.model;
  }
  if (node.type !== "merge" || node.models.some((model) => model.type !== "checkpoint")) return null;
  state.rule = node.rule;
  state.models = node.models.map((model) => model.file.name);
  state.normalisation = node.normalisation ?? "none";
  state.seed = node.seed ?? 0;
  for (const [name, mapping] of Object.entries(node.parameters ?? {})) state.weights[name] = weightsFrom(mapping);
  return state;
}

export const parametersOf = (rule, count) => rule.parameters_by_count?.[count] ?? rule.parameters;

/** One line about a recipe. */
export function summaryOf(recipe) {
  const parts = [];
  let node = recipe.root;
  while (node.type === "vae" || node.type === "adapters") {
    parts.push(node.type === "vae" ? `VAE ${node.vae.name}` : `${node.adapters.length} LoRA`);
    node = node.model;
  }
  const names = (inner) => (inner.type === "checkpoint" ? inner.file.name : `(${summaryOf({ root: inner })})`);
  if (node.type === "checkpoint") parts.unshift(node.file.name);
  else {
    const alpha = node.parameters?.alpha;
    const base = typeof alpha === "number" ? alpha : alpha?.base;
    const blocks = alpha?.overrides?.length ? ", by block" : "";
    parts.unshift(`${node.rule} ${node.models.map(names).join(" + ")}${base === undefined ? "" : ` at ${base}`}${blocks}`);
  }
  return parts.join(", ");
}

/** What was done before, to go back to. */
export class History {
  #past = [];
  #future = [];

  remember(state) {
    const last = JSON.stringify(state);
    if (last === this.#past.at(-1)) return;
    this.#past.push(last);
    if (this.#past.length > 200) this.#past.shift();
    this.#future = [];
  }

  /** The state before the present one, or null. */
  undo() {
    if (this.#past.length < 2) return null;
    this.#future.push(this.#past.pop());
    return JSON.parse(this.#past.at(-1));
  }

  redo() {
    if (!this.#future.length) return null;
    this.#past.push(this.#future.pop());
    return JSON.parse(this.#past.at(-1));
  }
}
