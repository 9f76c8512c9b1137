// What is known about one LoRA, and what its user notes: beside the cards, which stay usable.

import { bytes } from "./bytes.js";
import { copyText } from "./clipboard.js";
import { action, element } from "./elements.js";
import { watchJobs } from "./jobs.js";
import { metadataEditor } from "./lora_metadata.js";
import { notesForm } from "./lora_notes.js";
import { insertWord } from "./lora_prompt.js";
import { reportOf } from "./lora_report.js";
import { note, tellProblem } from "./messages.js";
import { ask } from "./server.js";

const KIB = 1024;

/** tab: the LoraTab that it belongs to. */
export function detailsPanel(panel, tab) {
  let lora = null;
  let known = null; // with its metadata
  let notes = null;
  let pictures = []; // [job, index], the newest first
  let opener = null;

  const report = element("section", "em-lora-part");
  const facts = element("section", "em-lora-part");
  const use = action("", () => tab.use(tab.named(lora.name) ?? lora));
  const keepPreview = action("Use the last picture as preview", () => setPreview());

  watchJobs(({ jobs }) => {
    pictures = jobs.flatMap((job) => job.images.map((_, index) => [job.id, index])).reverse();
    keepPreview.disabled = !pictures.length;
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault(); // Esc closes the panel, and cancels no job
    close();
  });

  async function show(asked) {
    await notes?.settle();
    lora = asked;
    notes = null;
    opener = asked;
    panel.hidden = false;
    panel.setAttribute("aria-busy", "true");
    panel.replaceChildren(head(), element("p", "em-quiet", "Reading ..."));
    panel.scrollTop = 0;
    try {
      known = await ask(`api/v1/loras/details?name=${encodeURIComponent(asked.name)}`);
    } catch (error) {
      panel.replaceChildren(head(), element("p", "em-lora-problem", `The details could not be read: ${error.message}`));
      return;
    } finally {
      panel.removeAttribute("aria-busy");
    }
    if (lora === asked) draw();
  }

  function draw() {
    const name = lora.name;
    notes = notesForm(known, () => tab.load());
    mark();
    panel.replaceChildren(
      head(),
      ...(known.problem ? [element("p", "em-lora-problem", known.problem)] : []),
      actions(),
      report,
      notes.form,
      words(),
      facts,
      metadataEditor(known, () => written(name)),
    );
    drawFacts();
    drawReport();
    panel.querySelector("h2").focus();
  }

  function head() {
    const box = element("div", "em-panel-head");
    box.append(
      element("h2", "", known?.name === lora.name && known.title ? known.title : lora.name.split("/").at(-1), { tabindex: "-1" }),
      element("button", "em-icon em-close", "", { type: "button", "aria-label": "Close the details", onclick: close }),
    );
    return box;
  }

  function actions() {
    const box = element("div", "em-actions");
    box.append(use, action("Add as a row", () => tab.addRow(lora)), action("Copy tag", copyTag), keepPreview);
    return box;
  }

  async function copyTag() {
    const tag = tab.tagOf(tab.named(lora.name) ?? lora);
    if (tag) await copy(tag, "The tag is copied.");
    else tellProblem("This name does not fit into a tag.");
  }

  async function setPreview() {
    const [job, index] = pictures[0];
    try {
      await ask("api/v1/loras/preview", { name: lora.name, job, index }, { method: "PUT" });
      await tab.load();
      note("The picture is the preview now.");
    } catch (error) {
      tellProblem(`The preview was not changed: ${error.message}`);
    }
  }

  /** The words that the LoRA was trained with. */
  function words() {
    const part = section("Trigger words and trained tags");
    const tags = known.trained_tags;
    if (!tags.length) {
      part.append(element("p", "em-quiet", "The file names none."));
      return part;
    }
    const list = element("div", "em-chips");
    for (const [tag, count] of tags) {
      const button = element("button", "em-chip em-lora-word", tag, { type: "button", title: "Put it into the prompt", onclick: () => insert(tag) });
      button.append(element("span", "em-lora-number", String(count)));
      list.append(button);
    }
    part.append(list, action("Copy all", () => copy(tags.map(([tag]) => tag).join(", "), "The words are copied.")));
    return part;
  }

  function insert(word) {
    insertWord(word);
    note(`“${word}” is in the prompt.`);
  }

  /** The file is another one now: with other hashes, and perhaps an alias. */
  async function written(name) {
    await tab.load();
    const entry = tab.named(name);
    if (lora?.name !== name || !entry) return;
    known = { ...known, ...entry };
    drawFacts();
  }

  function drawFacts() {
    const list = element("dl", "em-lora-facts");
    const add = (name, value) => value && list.append(element("dt", "", name), element("dd", "", value));
    const [low, high] = known.rank ?? [];
    add("Name", known.name);
    add("Alias", known.alias);
    add("Family", known.family_label || known.family);
    add("Formats", known.formats.join(", "));
    add("Rank", known.rank && (low === high ? String(low) : `${low} to ${high}`));
    add("Size", sizeOf(known.size));
    add("Changed", new Date(known.modified * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }));
    add("File", known.file);
    add("SHA-256", known.sha256 ?? "not computed yet");
    add("AutoV3", known.autov3 ?? "not computed yet");
    facts.replaceChildren(element("h3", "", "File"), list);
  }

  async function drawReport() {
    const [asked, checkpoint] = [lora, tab.checkpoint];
    report.replaceChildren(element("h3", "", "With the chosen checkpoint"));
    if (!checkpoint) return report.append(element("p", "em-quiet", "No checkpoint is chosen in txt2img."));
    report.append(element("p", "em-quiet", `Comparing with ${checkpoint} ...`));
    let found;
    try {
      const told = await ask(`api/v1/loras/report?name=${encodeURIComponent(asked.name)}&checkpoint=${encodeURIComponent(checkpoint)}`);
      found = reportOf(told, checkpoint);
    } catch (error) {
      found = [element("p", "em-lora-problem", error.message)];
    }
    if (lora === asked && tab.checkpoint === checkpoint) report.replaceChildren(report.firstElementChild, ...found);
  }

  function mark() {
    if (!lora) return;
    const isUsed = tab.isUsed(tab.named(lora.name) ?? lora);
    use.textContent = isUsed ? "Take out of the prompt" : "Put into the prompt";
    use.setAttribute("aria-pressed", String(isUsed));
  }

  async function close() {
    await notes?.settle();
    lora = null;
    notes = null;
    panel.hidden = true;
    tab.closeDetails(tab.named(opener.name) ?? opener);
  }

  return { show, mark, checkpointChanged: () => lora && known && drawReport() };
}

export function section(title) {
  const part = element("section", "em-lora-part");
  part.append(element("h3", "", title));
  return part;
}

async function copy(text, said) {
  await copyText(text).then(() => note(said), (error) => tellProblem(error.message));
}

const sizeOf = (size) => (size < KIB * KIB ? `${Math.ceil(size / KIB)} KiB` : bytes(size));
