// What the chosen model uses where the form leaves a field empty.

const watchers = new Set();
let defaults = null;

export function publishDefaults(values) {
  defaults = values;
  for (const watcher of watchers) watcher(values);
}

/** Call `watcher` with the defaults by field name, now if they are known and whenever they change. */
export function watchDefaults(watcher) {
  watchers.add(watcher);
  if (defaults) watcher(defaults);
}
