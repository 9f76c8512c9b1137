// What the chosen model uses where the form leaves a field empty, and which fields mean something to it.

const watchers = new Set();
let model = null;

/**
 * values: defaults by field; steps: what the value of a field is a multiple of; has: names of `only_with` that the
 * model has.
 */
export function publishModel({ values = {}, steps = {}, has = [] }) {
  model = { values, steps, has: new Set(has) };
  for (const watcher of watchers) watcher(model);
}

/** Call `watcher` with what was published, now if there is anything and whenever it changes. */
export function watchModel(watcher) {
  watchers.add(watcher);
  if (model) watcher(model);
}
