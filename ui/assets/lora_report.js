// How much of a LoRA fits the chosen checkpoint.

import { element } from "./elements.js";

const MOST_SHOWN = 400;

/** Elements for the answer of /api/v1/loras/report. */
export function reportOf(told, checkpoint) {
  if (told.problem) return [element("p", "em-lora-problem", told.problem)];
  const isWhole = told.matched === told.total;
  const said = element("p", "em-lora-fit", `${told.matched} of ${told.total} modules fit ${checkpoint}.`);
  said.dataset.fit = isWhole ? "whole" : "part";
  const parts = [said, componentsOf(told.components)];
  if (told.trained_for) parts.push(element("p", "em-quiet", `Trained for ${told.trained_for}.`));
  for (const text of told.notices) parts.push(element("p", "em-merge-notice", text));
  if (told.unmatched.length) parts.push(unmatchedOf(told.unmatched));
  return parts;
}

function componentsOf(components) {
  const list = element("dl", "em-lora-facts");
  for (const [name, [matched, total]] of Object.entries(components)) {
    list.append(element("dt", "", name), element("dd", "", `${matched} of ${total}`));
  }
  return list;
}

function unmatchedOf(unmatched) {
  const details = element("details");
  const list = element("ul", "em-lora-unmatched");
  for (const { module, reason } of unmatched.slice(0, MOST_SHOWN)) {
    const row = element("li");
    row.append(element("code", "", module), element("span", "em-quiet", reason));
    list.append(row);
  }
  details.append(element("summary", "", `${unmatched.length} that do not fit`), list);
  if (unmatched.length > MOST_SHOWN) details.append(element("p", "em-quiet", `and ${unmatched.length - MOST_SHOWN} more`));
  return details;
}
