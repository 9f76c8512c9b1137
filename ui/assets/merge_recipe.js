// What the Merge tab is set to, and the recipe that it stands for. Nothing here touches the page.

import { rowsFrom, sentRows } from "./adapter_value.js";

const DECIMALS = 4;
const ORDER = ["blocks", "kinds", "streams"]; // in which overrides of one field are written
export const rounded = (value) => Number(value.toFixed(DECIMALS));

export const newState = () => ({
  rule: "lerp",
  models: ["", ""], // names of checkpoints, or what else a recipe has in their place, as it has it
  weights: {}, // by parameter: {base, blocks: {name: value}, kinds: {}, streams: {}, more: [override]}
  normalisation: "none",
  seed: 0,
  dtype: "as_first",
  vae: "",
  loras: [], // rows as adapter_value.js has them
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

/**
 * The other way. known: names of the blocks that have sliders. What the page has no slider for is kept as it is. Later overrides count more and the page writes blocks, kinds and streams in this order, so
 * that one which would be overtaken is kept, too, with all behind it.
 */
export function weightsFrom(mapping, known = null) {
  if (typeof mapping === "number") return weightsFrom({ base: mapping });
  const weights = { base: mapping.base, blocks: {}, kinds: {}, streams: {}, more: [] };
  let reached = 0;
  for (const override of mapping.overrides ?? []) {
    const given = ORDER.filter((field) => override[field]?.length);
    const isPlain = given.length === 1 && !(known && override.blocks?.some((name) => !known.has(name))); // "IN04.1.0" is a part
    const place = isPlain ? ORDER.indexOf(given[0]) : ORDER.length;
    if (place === ORDER.length || place < reached || (place > 0 && override[given[0]].some((name) => name in weights[given[0]]))) {
      weights.more.push(override);
      reached = ORDER.length;
      continue;
    }
    reached = place;
    for (const name of override[given[0]]) weights[given[0]][name] = override.value;
  }
  return weights;
}

export const blockNames = (layout) => new Set(layout?.blocks.map((block) => block.name));

/** Numbers for blocks, kinds and streams that another model had, and this one has not, are no more: nothing shows them. */
export function keepKnown(state, layout) {
  const known = { blocks: layout.blocks, kinds: layout.kinds, streams: layout.streams };
  for (const weights of Object.values(state.weights)) {
    for (const [field, entries] of Object.entries(known)) {
      const names = new Set(entries.map(({ name }) => name));
      weights[field] = Object.fromEntries(Object.entries(weights[field]).filter(([name]) => names.has(name)));
    }
  }
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
    models: state.models.map(nodeOf),
    parameters,
    normalisation: state.normalisation,
    seed: rule.is_random ? state.seed : 0,
  };
  const adapters = sentRows(state.loras);
  if (adapters.length) root = { type: "adapters", model: root, adapters };
  if (state.vae) root = { type: "vae", model: root, vae: { name: state.vae } };
  return { name: state.name, dtype: state.dtype, root };
}

export const nodeOf = (model) => (typeof model === "string" ? { type: "checkpoint", file: { name: model } } : model);

/** The first file of a model: what is in it decides the blocks. */
export function firstFileOf(model) {
  let node = nodeOf(model);
  while (node.type !== "checkpoint") node = node.model ?? node.models[0];
  return node.file.name;
}

export const labelOf = (model) => (typeof model === "string" ? model : summaryOf({ root: model }));

/** The state that makes a recipe, or null for one without a merge. known: as for `weightsFrom`. */
export function stateOf(recipe, known = null) {
  const state = { ...newState(), dtype: recipe.dtype ?? "as_first", name: recipe.name ?? "" };
  let node = recipe.root;
  if (node.type === "vae") [state.vae, node] = [nameOf(node.vae), node.model];
  if (node.type === "adapters") {
    state.loras = rowsFrom(node.adapters);
    node = node.model;
  }
  if (node.type !== "merge") return null;
  state.rule = node.rule;
  state.models = node.models.map((model) => (model.type === "checkpoint" && !model.use_ema ? nameOf(model.file) : model));
  state.normalisation = node.normalisation ?? "none";
  state.seed = node.seed ?? 0;
  for (const [name, mapping] of Object.entries(node.parameters ?? {})) state.weights[name] = weightsFrom(mapping, known);
  return state;
}

const nameOf = (file) => (typeof file === "string" ? file : file.name);

export const parametersOf = (rule, count) => rule.parameters_by_count?.[count] ?? rule.parameters;

/** One line about a recipe. */
export function summaryOf(recipe) {
  const parts = [];
  let node = recipe.root;
  while (node.type === "vae" || node.type === "adapters") {
    parts.push(node.type === "vae" ? `VAE ${node.vae.name}` : `${node.adapters.length} LoRA`);
    node = node.model;
  }
  const names = (inner) => (inner.type === "checkpoint" ? titleOf(inner) : `(${summaryOf({ root: inner })})`);
  if (node.type === "checkpoint") parts.unshift(titleOf(node));
  else {
    const alpha = node.parameters?.alpha;
    const base = typeof alpha === "number" ? alpha : alpha?.base;
    const blocks = alpha?.overrides?.length ? ", by block" : "";
    parts.unshift(`${node.rule} ${node.models.map(names).join(" + ")}${base === undefined ? "" : ` at ${base}`}${blocks}`);
  }
  return parts.join(", ");
}

const titleOf = ({ file, use_ema: isAveraged }) => `${nameOf(file)}${isAveraged ? " (averaged)" : ""}`;

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

  get canUndo() {
    return this.#past.length > 1;
  }

  get canRedo() {
    return this.#future.length > 0;
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
