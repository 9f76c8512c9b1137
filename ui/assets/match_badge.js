// How much of a LoRA fits the chosen model, and why the rest does not.

import { action, element } from "./elements.js";
import { reportOf } from "./lora_shelf.js";

const SHOWN = 40; // of the modules that do not fit

/** A button that says "24 of 24", and the panel that it opens. */
export function matchBadge() {
  const panel = element("div", "em-adapter-panel em-match-panel", "", { hidden: true });
  const button = action("", () => {
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
  }, { class: "em-action em-match", "aria-expanded": "false", hidden: true });
  let asked = "";

  function tell(kind, text, lines, rest = []) {
    button.hidden = !text;
    button.dataset.match = kind;
    button.textContent = text;
    button.title = lines.join("\n");
    button.setAttribute("aria-label", `Match: ${text}`);
    panel.replaceChildren(...lines.map((line) => element("p", "", line)), ...rest);
  }

  async function look(name, checkpoint) {
    const key = `${name}\n${checkpoint}`;
    if (key === asked) return;
    asked = key;
    if (!name || !checkpoint) return tell("", "", []);
    try {
      const report = await reportOf(name, checkpoint);
      if (key === asked) show(report);
    } catch (error) {
      if (key !== asked) return;
      asked = ""; // it is asked for again
      tell("none", "unknown", [error.message]);
    }
  }

  function show(report) {
    const kind = report.problem || !report.matched ? "none" : report.matched < report.total ? "part" : "all";
    const lines = [
      ...(report.problem ? [report.problem] : []),
      ...report.notices.filter((text) => text !== report.problem),
      ...Object.entries(report.components).map(([part, [matched, total]]) => `${part}: ${matched} of ${total} modules`),
      ...factsOf(report),
    ];
    tell(kind, `${report.matched} of ${report.total}`, lines, report.unmatched.length ? [unmatchedList(report.unmatched)] : []);
  }

  return { button, panel, look };
}

/** Formats and ranks, in a line each. */
function factsOf({ formats, ranks, alphas, trained_for: trainedFor }) {
  const span = (pair) => (pair[0] === pair[1] ? `${pair[0]}` : `${pair[0]} to ${pair[1]}`);
  const names = Array.isArray(formats) ? formats : Object.entries(formats ?? {}).map(([name, count]) => `${name} (${count})`);
  return [
    ...(names.length ? [`Format: ${names.join(", ")}`] : []),
    ...(ranks ? [`Rank: ${span(ranks)}${alphas ? `, alpha: ${span(alphas)}` : ""}`] : []),
    ...(trainedFor ? [`Trained for: ${trainedFor}`] : []),
  ];
}

function unmatchedList(unmatched) {
  const details = element("details");
  const names = unmatched.slice(0, SHOWN).map(({ module, reason }) => `${module}: ${reason}`);
  if (unmatched.length > SHOWN) names.push(`and ${unmatched.length - SHOWN} more`);
  details.append(element("summary", "", `${unmatched.length} do not fit`), element("pre", "em-keys", names.join("\n")));
  return details;
}
