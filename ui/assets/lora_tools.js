// LoRAs merged with each other, extracted from two checkpoints, and brought to another rank.

import { action, element, labelled, numberInput, select } from "./elements.js";
import { cancel, watchJobs } from "./jobs.js";
import { note, tellProblem } from "./messages.js";
import { ask } from "./server.js";

const RANKS = [
  ["rank", "A rank"],
  ["sv_fro", "A share of the strength (Frobenius)"],
  ["sv_cumulative", "A share of the sum of singular values"],
  ["sv_ratio", "The largest against the smallest"],
];
const TOOLS = [
  ["merge", "Merge LoRAs"],
  ["extract", "Extract from two checkpoints"],
  ["resize", "Resize a LoRA"],
];

export function mountLoraTools(host, studio) {
  let tool = "extract";
  let watched = "";
  const body = element("div", "em-tool");
  const progress = element("div", "em-saving");
  const tabs = element("div", "em-actions");

  function draw() {
    tabs.replaceChildren(...TOOLS.map(([name, label]) =>
      action(label, () => {
        tool = name;
        draw();
      }, { "aria-pressed": String(name === tool) })));
    body.replaceChildren(...{ merge: mergeFields, extract: extractFields, resize: resizeFields }[tool]());
  }

  const names = (list) => list.map((name) => [name, name]);
  const pick = (list, given = "") => select(names(list), given || (list[0] ?? ""), () => {});

  function rankFields(start) {
    const by = select(RANKS, "rank", () => (number.value = by.value === "rank" ? start : by.value === "sv_ratio" ? 20 : 0.9));
    const number = numberInput(start, () => {}, { min: 0, "aria-label": "How much" });
    const row = element("div", "em-axis-row");
    row.append(by, number);
    return { row, read: () => ({ by: by.value, value: number.valueAsNumber }) };
  }

  function ending(suggested, send) {
    const name = element("input", "", "", { type: "text", "aria-label": "Name of the new LoRA" });
    name.value = suggested;
    const replace = element("input", "", "", { type: "checkbox" });
    const check = element("label", "em-check");
    check.append(replace, document.createTextNode("Replace a file of this name"));
    return [
      labelled("Name", name),
      check,
      action("Start", async () => {
        try {
          const [path, content] = send();
          const job = await ask(`api/v1/loras/${path}`, { ...content, name: name.value.trim(), replace: replace.checked });
          watched = job.id;
          show(job);
        } catch (error) {
          tellProblem(`Nothing was started: ${error.message}`);
        }
      }, { class: "em-action em-strong" }),
    ];
  }

  function mergeFields() {
    if (!studio.loras.length) return [element("p", "em-quiet", "There is no LoRA in models/loras yet.")];
    const list = element("div", "em-models");
    const add = () => {
      const row = element("div", "em-merge-model");
      row.append(pick(studio.loras), numberInput(1, () => {}, { step: 0.05, "aria-label": "Strength" }), action("×", () => row.remove(), { "aria-label": "Without this LoRA" }));
      list.append(row);
    };
    add();
    add();
    const isCut = element("input", "", "", { type: "checkbox" });
    const check = element("label", "em-check");
    check.append(isCut, document.createTextNode("Cut the rank"));
    const rank = rankFields(32);
    return [
      element("p", "em-hint", "The sum is exact: its rank is the sum of ranks. Cut, the error is told afterwards."),
      list,
      action("Add a LoRA", add),
      check,
      labelled("Rank", rank.row),
      ...ending("merged-lora", () => [
        "merge",
        {
          loras: [...list.children].map((row) => ({ name: row.querySelector("select").value, strength: row.querySelector("input").valueAsNumber })),
          rank: isCut.checked ? rank.read() : null,
        },
      ]),
    ];
  }

  function extractFields() {
    const [tuned, base] = [pick(studio.checkpoints, studio.checkpoints.at(-1)), pick(studio.checkpoints)];
    const [rank, conv] = [rankFields(32), rankFields(16)];
    const withConv = element("input", "", "", { type: "checkbox" });
    const check = element("label", "em-check");
    check.append(withConv, document.createTextNode("Convolutions, too"));
    const differences = element("input", "", "", { type: "checkbox" });
    const second = element("label", "em-check");
    second.append(differences, document.createTextNode("Norms and biases as whole differences"));
    return [
      element("p", "em-hint", "A LoRA of what the tuned model has more than the base."),
      labelled("Tuned model", tuned),
      labelled("Base", base),
      labelled("Rank", rank.row),
      check,
      labelled("Rank of convolutions", conv.row),
      second,
      ...ending("extracted-lora", () => [
        "extract",
        {
          tuned: tuned.value,
          base: base.value,
          rank: rank.read(),
          conv_rank: withConv.checked ? conv.read() : null,
          has_differences: differences.checked,
        },
      ]),
    ];
  }

  function resizeFields() {
    if (!studio.loras.length) return [element("p", "em-quiet", "There is no LoRA in models/loras yet.")];
    const lora = pick(studio.loras);
    const rank = rankFields(16);
    return [labelled("LoRA", lora), labelled("Rank", rank.row), ...ending("resized-lora", () => ["resize", { lora: lora.value, rank: rank.read() }])];
  }

  function show(job) {
    const isOver = ["done", "failed", "cancelled"].includes(job.state);
    const level = element("div", "em-level");
    level.style.setProperty("--em-share", job.state === "done" ? 1 : job.all_bytes ? job.done_bytes / job.all_bytes : job.steps ? job.step / job.steps : 0);
    const said = { done: `${job.request.name}.safetensors is saved.`, failed: job.error, cancelled: "Cancelled; no file was written." }[job.state] ?? (job.stage || "Waiting");
    progress.replaceChildren(level, element("span", job.state === "failed" ? "em-merge-problem" : "em-quiet", [said, ...job.notices].join(" ")));
    if (!isOver) progress.append(action("Cancel", () => cancel(job.id)));
    if (job.state === "done") {
      note("The LoRA is saved.");
      studio.open();
    }
  }

  watchJobs(({ jobs, changed, isFirst }) => {
    // A page that was loaded anew goes on with the one under way.
    if (isFirst) watched ||= jobs.find((job) => job.kind?.startsWith("lora") && ["queued", "running"].includes(job.state))?.id ?? "";
    for (const job of isFirst ? jobs : changed) {
      if (job.id !== watched) continue;
      show(job);
      if (["done", "failed", "cancelled"].includes(job.state)) watched = "";
    }
  });
  host.replaceChildren(tabs, body, progress);
  return { open: draw };
}
