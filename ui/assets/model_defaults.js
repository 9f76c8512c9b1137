// What the chosen model of a form uses where the form leaves a field empty, and which fields mean something to it.

import { formOf } from "./form_scope.js";

const forms = new Map(); // by name: {watchers, model, size}

function stateOf(element) {
  const name = formOf(element);
  if (!forms.has(name)) forms.set(name, { watchers: new Set(), model: null, size: null });
  return forms.get(name);
}

/**
 * Of the form that `element` is in. values: defaults by field; steps: what the value of a field is a multiple of; has:
 * names of `only_with` that the model has.
 */
export function publishModel(element, { values = {}, steps = {}, has = [] }) {
  const form = stateOf(element);
  form.model = { values, steps, has: new Set(has) };
  tell(form);
}

/** The size that a picture has when the form names none; null where that is the model's own. */
export function publishSize(element, size) {
  const form = stateOf(element);
  form.size = size;
  tell(form);
}

/** Call `watcher` with what was published for the form that `element` is in, now if there is anything and at changes. */
export function watchModel(element, watcher) {
  const form = stateOf(element);
  form.watchers.add(watcher);
  if (form.model) watcher(published(form));
}

function tell(form) {
  if (!form.model) return;
  for (const watcher of form.watchers) watcher(published(form));
}

const published = ({ model, size }) => ({ ...model, native: model.values.width, values: { ...model.values, ...size } });
