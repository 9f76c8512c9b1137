// Which merge rule: a list in groups by the models that it takes, with a search over names, formulas and explanations.

import { combobox } from "./combobox.js";
import { element } from "./elements.js";

const GROUPS = [
  ["One model", (rule) => most(rule) === 1],
  ["Two models", (rule) => most(rule) === 2],
  ["Three models and more", (rule) => most(rule) > 2 && rule.extra_models === 0],
  ["Any number of models", (rule) => rule.extra_models > 0],
];
const most = (rule) => rule.roles.length + rule.extra_models;

/** A combobox. `onpick` is called with the name of a rule. */
export function rulePicker(rules, chosen, onpick) {
  const find = (words) => {
    const fits = (rule) => {
      const all = [rule.name, rule.label, rule.formula, rule.explanation].join(" ").toLowerCase();
      return words.every((word) => all.includes(word));
    };
    return GROUPS.map(([title, belongs]) => ({ title, options: rules.filter((rule) => belongs(rule) && fits(rule)).map(optionOf) }));
  };
  const optionOf = (rule) => ({
    key: rule.name,
    isChosen: rule.name === chosen,
    title: rule.explanation,
    lines: [element("span", "em-pick-name", rule.label), element("span", "em-rule-formula", rule.formula)],
  });
  return combobox({
    label: "Rule",
    listLabel: "Rules",
    text: rules.find((rule) => rule.name === chosen)?.label ?? "",
    find,
    nothing: () => "No rule fits.",
    onpick: (name) => name !== chosen && onpick(name),
  }).box;
}
