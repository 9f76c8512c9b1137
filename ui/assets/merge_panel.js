// The Merge tab.

import { adapterRows } from "./adapter_rows.js";
import { bytes } from "./bytes.js";
import { copyText } from "./clipboard.js";
import { action, element, labelled, numberInput, select } from "./elements.js";
import { requestOf, watchForm } from "./form.js";
import { cancel, watchJobs } from "./jobs.js";
import { mountLoraTools } from "./lora_tools.js";
import { takeDrops } from "./merge_drop.js";
import { mountPlots } from "./merge_plot.js";
import { previewRequest, previews } from "./merge_preview.js";
import {
  blockNames,
  copyOf,
  firstFileOf,
  History,
  keepKnown,
  labelOf,
  newState,
  nodeOf,
  parametersOf,
  recipeOf,
  rounded,
  stateOf,
  summaryOf,
  weightsFrom,
  weightsMapping,
  weightsOf,
} from "./merge_recipe.js";
import { sliderBank } from "./merge_sliders.js";
import { clearLine, note, tellProblem, useLine } from "./messages.js";
import { keepPreset, ownPresets } from "./own_presets.js";
import { rulePicker } from "./rule_picker.js";
import { ask } from "./server.js";

const KEY = "emulsion.merge";
const PAUSE_MS = 800;
const INSIDE = " "; // no name of a checkpoint
const LETTERS = "ABCDEFGHIJKLMNOP";

export function mount({ element: host }) {
  const root = host.querySelector(".em-merge");
  new Studio(root);
}

class Studio {
  constructor(root) {
    this.root = root;
    this.find = (name) => root.querySelector(`[data-part=${name}]`);
    this.state = kept();
    this.history = new History();
    this.rules = [];
    this.layout = null;
    this.layouts = new Map(); // what is known or asked for, by file
    this.edited = "alpha";
    this.form = {};
    this.timer = 0;
    this.reportTimer = 0;
    this.views = previews(this.find("previews"));
    this.added = adapterRows(this.find("added"), {
      hasCurves: false,
      onchange: (rows, isSettled) => {
        this.state.loras = rows;
        if (isSettled) this.settle();
        else this.drawRecipe();
      },
    });
    watchForm((values) => this.takeForm(values));
    this.connect();
    let isOpen = false;
    new IntersectionObserver((entries) => {
      const isSeen = entries.some((entry) => entry.isIntersecting);
      if (isSeen && !isOpen) this.open();
      isOpen = isSeen;
    }).observe(root);
  }

  get rule() {
    return this.rules.find((rule) => rule.name === this.state.rule);
  }

  get parameters() {
    return this.rule ? parametersOf(this.rule, this.state.models.length) : [];
  }

  get parameter() {
    return this.parameters.find((parameter) => parameter.name === this.edited) ?? this.parameters[0];
  }

  get recipe() {
    return recipeOf(this.state, this.rule);
  }

  /** Everything that the server knows; each time the tab is turned to, because files come and go. */
  async open() {
    try {
      const [known, checkpoints, vaes, loras] = await Promise.all([
        ask("api/v1/merge/rules"),
        ask("api/v1/checkpoints"),
        ask("api/v1/vaes"),
        ask("api/v1/loras"),
      ]);
      Object.assign(this, known);
      this.checkpoints = checkpoints.checkpoints.filter((entry) => !entry.problem).map((entry) => entry.name);
      this.vaes = vaes.vaes.map((entry) => entry.name);
      this.loras = loras.loras.map((entry) => entry.name);
    } catch (error) {
      tellProblem(`The Merge tab could not be filled: ${error.message}`);
      return;
    }
    this.layouts.clear();
    const names = this.checkpoints;
    this.state.models = this.state.models.map((name, index) => (typeof name !== "string" || names.includes(name) ? name : names[Math.min(index, names.length - 1)] ?? ""));
    this.history.remember(this.state);
    await this.take(this.state);
    this.showHistory();
    this.plots ??= mountPlots(this.find("plots"), this);
    this.tools ??= mountLoraTools(this.find("loras"), this);
    this.plots.open();
    this.tools.open();
  }

  /** Show a state: everything is drawn anew. */
  async take(state) {
    this.state = state;
    if (!this.rule && this.rules.length) this.state.rule = "lerp";
    this.fitModels();
    await this.loadLayout();
    if (this.layout) keepKnown(state, this.layout);
    this.draw();
    this.save();
  }

  /** Numbers of the same name that mean something else to the new rule begin anew. */
  useRule(state, name) {
    const before = new Map(this.parameters.map((parameter) => [parameter.name, parameter.default]));
    state.rule = name;
    for (const { name: number, default: usual } of this.rules.find((rule) => rule.name === name).parameters) {
      if (before.get(number) !== usual) delete state.weights[number];
    }
  }

  /** As many models as the rule takes. */
  fitModels() {
    if (!this.rule) return;
    const [least, most] = [this.rule.roles.length, this.rule.roles.length + this.rule.extra_models];
    const { models } = this.state;
    while (models.length < least) models.push(this.checkpoints[Math.min(models.length, this.checkpoints.length - 1)] ?? "");
    models.splice(most);
  }

  async loadLayout() {
    if (!this.state.models[0]) return;
    const first = firstFileOf(this.state.models[0]);
    const asking = this.layouts.get(first) ?? ask(`api/v1/merge/layout?checkpoint=${encodeURIComponent(first)}`);
    this.layouts.set(first, asking);
    try {
      const layout = await asking;
      if (firstFileOf(this.state.models[0]) === first) this.layout = layout; // not that of a model chosen before
    } catch (error) {
      this.layouts.delete(first);
      this.layout = null;
      tellProblem(`${first} cannot be merged: ${error.message}`);
    }
  }

  /** Change something, draw it, and remember it for going back. */
  async change(how) {
    const state = copyOf(this.state);
    how(state);
    await this.take(state);
    this.settle();
  }

  settle() {
    this.history.remember(this.state);
    this.save();
    this.drawRecipe();
    this.previewSoon();
  }

  previewSoon() {
    clearTimeout(this.timer);
    if (this.find("automatic").checked) this.timer = setTimeout(() => this.preview(true), PAUSE_MS);
  }

  save() {
    localStorage.setItem(KEY, JSON.stringify(this.state));
  }

  draw() {
    if (document.activeElement !== this.find("name")) this.find("name").value = this.state.name;
    this.drawModels();
    this.drawRule();
    this.drawBlocks();
    this.drawExtras();
    this.drawRecipe();
  }

  drawModels() {
    const { models } = this.state;
    const list = this.find("models");
    const roles = this.rule?.roles ?? ["A", "B"];
    list.replaceChildren(
      ...models.map((name, index) => {
        const role = roles[index] ?? LETTERS[index];
        const [letter, meaning] = role.includes(":") ? role.split(/:\s*(.*)/s) : [role.length === 1 ? role : LETTERS[index], role.length === 1 ? "" : role];
        const options = this.checkpoints?.map((entry) => [entry, entry]) ?? [];
        if (typeof name !== "string") options.push([INSIDE, labelOf(name)]); // as a restored recipe has it
        const pick = select(options, typeof name === "string" ? name : INSIDE, (value) => this.change((state) => (state.models[index] = value)), {
          "aria-label": `Model ${letter}`,
        });
        const row = element("div", "em-merge-model");
        row.append(element("span", "em-letter", letter), pick);
        if (models.length > roles.length) {
          const remove = action("×", () => this.change((state) => state.models.splice(index, 1)), { "aria-label": `Without model ${letter}` });
          row.append(remove);
        }
        if (meaning) row.append(element("span", "em-hint", meaning));
        return row;
      }),
    );
    this.find("swap").hidden = models.length < 2;
    this.find("add-model").hidden = models.length >= roles.length + (this.rule?.extra_models ?? 0);
  }

  drawRule() {
    const rule = this.rule;
    const isSearching = this.find("rule").contains(document.activeElement);
    const pick = rulePicker(this.rules, rule?.name ?? "", (name) => this.change((state) => this.useRule(state, name)));
    this.find("rule").replaceChildren(element("div", "em-label", "Rule"), pick);
    if (isSearching) pick.querySelector("input").focus();
    this.find("formula").textContent = rule?.formula ?? "";
    this.find("explanation").textContent = rule?.explanation ?? "";
    const fields = this.parameters.map((parameter) => this.numberField(parameter));
    if (rule?.is_random) {
      const seed = numberInput(this.state.seed, (value) => this.change((state) => (state.seed = Math.max(0, Math.round(value)))), { min: 0, step: 1 });
      fields.push(labelled("Seed", seed));
    }
    this.find("numbers").replaceChildren(...fields);
  }

  /** The base value of a parameter: a slider and a number. */
  numberField(parameter) {
    const weights = weightsOf(this.state, parameter);
    const set = (value) => {
      weightsOf(this.state, parameter).base = rounded(value);
      range.value = value;
      typed.value = value;
      this.bank?.draw();
      this.drawRecipe();
    };
    const range = element("input", "", "", { type: "range", min: parameter.minimum, max: parameter.maximum, step: (parameter.maximum - parameter.minimum) / 100, "aria-label": parameter.label });
    range.value = weights.base;
    range.addEventListener("input", () => set(range.valueAsNumber));
    range.addEventListener("change", () => this.settle());
    const typed = numberInput(weights.base, (value) => {
      set(Math.min(10, Math.max(-10, value)));
      this.settle();
    }, { "aria-label": `${parameter.label}, number` });
    const field = element("div", "em-field");
    const head = element("div", "em-field-head");
    head.append(element("label", "", parameter.label), typed);
    field.append(head, range);
    if (parameter.explanation) field.title = parameter.explanation;
    return field;
  }

  drawBlocks() {
    const panel = this.find("block-panel");
    if (this.apartOf !== this.state.models.slice(0, 2).map(firstFileOf).join(" ")) this.apart = null;
    const byBlock = this.parameters.filter((parameter) => parameter.by_block);
    panel.hidden = !this.layout || !byBlock.length;
    if (panel.hidden) return;
    if (!byBlock.some((parameter) => parameter.name === this.edited)) this.edited = byBlock[0].name;
    this.find("edited").replaceChildren(
      ...(byBlock.length < 2 ? [] : byBlock.map((parameter) =>
        action(parameter.label, () => {
          this.edited = parameter.name;
          this.drawBlocks();
        }, { "aria-pressed": String(parameter.name === this.edited) }))),
    );
    this.find("family").textContent = this.layout.label;
    if (this.bankOf === this.layout) this.bank.draw(); // the same sliders, of which one may have the focus
    else this.bank = this.makeBank();
    this.bankOf = this.layout;
    this.bank.showDistances(this.apart);
    this.drawPresets();
    this.drawSelections("kinds");
    this.drawSelections("streams");
    const weights = weightsOf(this.state, this.parameter);
    this.find("more").textContent = weights.more.length ? `${weights.more.length} finer settings are kept as text.` : "";
  }

  makeBank() {
    return sliderBank(this.find("bank"), {
      layout: this.layout,
      read: () => ({ weights: weightsOf(this.state, this.parameter), parameter: this.parameter }),
      write: (weights) => {
        this.state.weights[this.parameter.name] = weights;
        this.drawRecipe();
      },
      settle: () => this.settle(),
      tell: (block) => (this.find("hint").textContent = hintOf(block, this.apart?.get(block.name))),
    });
  }

  /** Switches for kinds of layers, or streams: off, or a value that goes before those of blocks. */
  drawSelections(field) {
    const place = this.find(field);
    place.hidden = !this.layout[field].length;
    place.querySelector(".em-selections").replaceChildren(
      ...this.layout[field].map(({ name, label }) => {
        const weights = weightsOf(this.state, this.parameter);
        const isOn = name in weights[field];
        const box = element("div", "em-selection");
        const check = element("input", "", "", { type: "checkbox" });
        check.checked = isOn;
        check.addEventListener("change", () =>
          this.change((state) => {
            const found = weightsOf(state, this.parameter);
            if (check.checked) found[field][name] = found.base;
            else delete found[field][name];
          }));
        const title = element("label", "em-check");
        title.append(check, document.createTextNode(label));
        box.append(title);
        if (isOn) {
          box.append(numberInput(weights[field][name], (value) =>
            this.change((state) => (weightsOf(state, this.parameter)[field][name] = rounded(Math.min(10, Math.max(-10, value))))),
          { "aria-label": label }));
        }
        return box;
      }),
    );
  }

  drawExtras() {
    const { state } = this;
    const none = (text) => ["", text];
    this.find("extras").replaceChildren(
      labelled("Before merging", select(this.normalisations.map((entry) => [entry.name, entry.label]), state.normalisation, (value) => this.change((next) => (next.normalisation = value)))),
      labelled("VAE", select([none("The first model's"), ...this.vaes.map((name) => [name, name])], state.vae, (value) => this.change((next) => (next.vae = value)))),
      labelled("Stored as", select(this.dtypes.map((entry) => [entry.name, entry.label]), state.dtype, (value) => this.change((next) => (next.dtype = value)))),
    );
    this.added.show(state.loras);
    if (state.models[0]) this.added.useCheckpoint(firstFileOf(state.models[0]));
  }

  /** What the recipe comes to, asked for when it rests. */
  drawRecipe() {
    const { recipe } = this;
    this.find("summary").textContent = recipe ? summaryOf(recipe) : "Choose the models.";
    clearTimeout(this.reportTimer);
    if (recipe) this.reportTimer = setTimeout(() => this.report(recipe), 400);
  }

  async report(recipe) {
    const place = this.find("report");
    try {
      const told = await ask("api/v1/merge/report", { recipe });
      const rows = element("div", "em-report-rows");
      rows.append(
        element("span", "", `${told.label}, ${bytes(told.num_bytes)}`),
        element("span", "", `${told.matched} weights merged`),
        ...[["copied", told.copied], ["padded", told.padded], ["dropped", told.dropped]]
          .filter(([, keys]) => keys.length)
          .map(([name, keys]) => {
            const details = element("details");
            details.append(element("summary", "", `${keys.length} ${name}`), element("pre", "em-keys", keys.slice(0, 400).join("\n")));
            return details;
          }),
        element("span", "em-quiet", `Recipe ${told.hash.slice(0, 10)}`),
      );
      place.replaceChildren(rows, ...told.notices.map((text) => element("p", "em-merge-notice", text)));
    } catch (error) {
      place.replaceChildren(element("p", "em-merge-problem", error.message));
    }
  }

  takeForm(values) {
    this.form = values;
    const prompt = this.find("prompt");
    if (!prompt.dataset.typed && document.activeElement !== prompt) prompt.value = values.prompt ?? "";
    const seed = this.find("seed");
    if (!seed.dataset.typed && /^\d+$/.test(values.seed ?? "")) seed.value = values.seed;
  }

  async preview(onlyMerge = false) {
    const { recipe } = this;
    if (!recipe) return;
    const request = previewRequest(this.form, this.find("prompt").value, Math.max(0, Math.round(this.find("seed").valueAsNumber || 0)));
    const [a, b] = this.state.models;
    await this.views.show([shownModel(a), { name: "the merge", recipe }, b && shownModel(b)], request, onlyMerge);
  }

  /** How far A and B lie apart, block by block. */
  async compare() {
    const [a, b] = this.state.models.map(firstFileOf);
    const button = this.find("compare");
    button.disabled = true;
    button.textContent = "Comparing ...";
    try {
      const { blocks } = await ask("api/v1/merge/compare", { a, b });
      this.apart = new Map(blocks.map((block) => [block.name, block]));
      this.apartOf = `${a} ${b}`;
      this.bank.showDistances(this.apart);
      const whole = this.apart.get("");
      note(`A and B differ by ${(100 * whole.distance).toPrecision(3)} % in all, at an angle of ${whole.angle.toFixed(3)}.`);
    } catch (error) {
      tellProblem(`A and B could not be compared: ${error.message}`);
    } finally {
      button.disabled = false;
      button.textContent = "Compare A and B";
    }
  }

  drawPresets(chosen = "") {
    const own = ownPresets(this.layout.family);
    const options = [["", "Preset"]];
    if (own.length) options.push({ group: "Yours", options: own.map(({ name }) => [`own ${name}`, name]) });
    options.push({ group: "Built in", options: this.layout.presets.map((preset) => [preset.name, preset.label]) });
    this.find("preset").replaceChildren(select(options, chosen, (name) => this.usePreset(name), { "aria-label": "Preset" }));
    this.find("remove-preset").hidden = !chosen;
  }

  usePreset(chosen) {
    const name = chosen.startsWith("own ") ? chosen.slice(4) : null;
    const found = name === null ? this.layout.presets.find((preset) => preset.name === chosen) : ownPresets(this.layout.family).find((preset) => preset.name === name);
    if (found) this.useWeights(found.weights).then(() => this.drawPresets(name === null ? "" : chosen));
  }

  savePreset() {
    const field = this.find("preset-name");
    const name = field.value.trim();
    if (!name) {
      field.focus();
      return note("Type a name for the preset first.", "problem");
    }
    keepPreset(this.layout.family, name, weightsMapping(weightsOf(this.state, this.parameter)));
    field.value = "";
    this.drawPresets(`own ${name}`);
    note(`${name} is kept in this browser.`);
  }

  removePreset() {
    const chosen = this.find("preset").querySelector("select").value;
    keepPreset(this.layout.family, chosen.slice(4), null);
    this.drawPresets();
  }

  /** What a preset says of blocks; what stands for kinds and streams stays. */
  useWeights(mapping) {
    return this.change((state) => {
      const old = weightsOf(state, this.parameter);
      const next = weightsFrom(mapping, blockNames(this.layout));
      state.weights[this.parameter.name] = { ...next, kinds: { ...old.kinds, ...next.kinds }, streams: { ...old.streams, ...next.streams } };
    });
  }

  /** Change all blocks of the network at once. how: (values, names) -> values. */
  bend(how) {
    const names = this.layout.blocks.filter((block) => !["TE", "VAE", "REST"].includes(block.group)).map((block) => block.name);
    this.change((state) => {
      const weights = weightsOf(state, this.parameter);
      const values = names.map((name) => weights.blocks[name] ?? weights.base);
      how(values).forEach((value, index) => (weights.blocks[names[index]] = rounded(value)));
    });
  }

  async readText(text) {
    try {
      const read = await ask("api/v1/merge/weights", {
        checkpoint: firstFileOf(this.state.models[0]),
        text,
        reading: this.find("reading").querySelector("select")?.value ?? "own",
        base: weightsOf(this.state, this.parameter).base,
      });
      this.useWeights(read.weights);
      note("Read.");
    } catch (error) {
      tellProblem(`The weights could not be read: ${error.message}`);
    }
  }

  async writeText() {
    const weights = weightsMapping(weightsOf(this.state, this.parameter));
    try {
      const written = await ask("api/v1/merge/weights", { checkpoint: firstFileOf(this.state.models[0]), text: JSON.stringify(weights) });
      return written.text;
    } catch (error) {
      tellProblem(error.message);
      return JSON.stringify(weights);
    }
  }

  async generate() {
    const { recipe } = this;
    if (!recipe) return;
    const values = requestOf(this.form);
    delete values.checkpoint;
    if (values.seed !== undefined) values.seed = Number(values.seed); // the form has it as text
    try {
      if (!Number.isSafeInteger(values.seed ?? 0)) throw new Error("this page cannot send a seed above 2^53; use the command line");
      await ask("api/v1/jobs", { ...values, prompt: this.find("prompt").value, recipe });
      note("Queued with the settings of txt2img, where the pictures appear.");
      this.showHistory();
    } catch (error) {
      tellProblem(`Nothing was queued: ${error.message}`);
    }
  }

  /** The recipe becomes the model of txt2img's form, which makes the pictures. */
  send() {
    const { recipe } = this;
    const field = document.querySelector(".em-recipe textarea");
    if (!recipe || !field) return;
    field.value = JSON.stringify(recipe);
    field.dispatchEvent(new Event("input", { bubbles: true }));
    [...document.querySelectorAll("#em-tabs [role=tab]")].find((tab) => tab.textContent.trim() === "txt2img")?.click();
  }

  async saveRecipe() {
    const name = this.find("name").value.trim();
    const { recipe } = this;
    if (!recipe || !name) return tellProblem("Type a name for the recipe first.");
    try {
      await ask(`api/v1/recipes/${encodeURIComponent(name)}`, { recipe: { ...recipe, name } }, { method: "PUT" });
      note(`Saved. ${name} can now be chosen wherever a checkpoint can.`);
      document.querySelector(".em-refresh")?.click();
    } catch (error) {
      tellProblem(`The recipe was not saved: ${error.message}`);
    }
  }

  async saveCheckpoint() {
    const name = this.find("name").value.trim();
    const { recipe } = this;
    if (!recipe || !name) return tellProblem("Type a name for the checkpoint first.");
    try {
      const job = await ask("api/v1/merge/save", { recipe, name, replace: this.find("replace").checked });
      this.saving = job.id;
      this.showSaving(job);
    } catch (error) {
      tellProblem(`The checkpoint was not saved: ${error.message}`);
    }
  }

  showSaving(job) {
    const place = this.find("saving");
    const isOver = ["done", "failed", "cancelled"].includes(job.state);
    const share = job.all_bytes ? job.done_bytes / job.all_bytes : 0;
    const level = element("div", "em-level");
    level.style.setProperty("--em-share", job.state === "done" ? 1 : share);
    const left = job.eta_seconds ? `, ${Math.ceil(job.eta_seconds)} s left` : "";
    const said = {
      done: `${job.request.name}.safetensors is saved (${job.seconds.toFixed(1)} s).`,
      failed: job.error,
      cancelled: "Cancelled; no file was written.",
      queued: "Waiting for its turn",
    }[job.state] ?? `${job.stage}: ${bytes(job.done_bytes)} of ${bytes(job.all_bytes)}${left}`;
    place.replaceChildren(level, element("span", job.state === "failed" ? "em-merge-problem" : "em-quiet", said));
    if (!isOver) place.append(action("Cancel", () => cancel(job.id)));
    if (job.state === "done") document.querySelector(".em-refresh")?.click();
  }

  async showHistory() {
    try {
      const used = await ask("api/v1/merge/history");
      const list = this.find("history");
      list.replaceChildren(
        ...used.slice(0, 30).map(({ recipe, hash, time }) => {
          const row = element("li");
          const when = new Date(time).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
          row.append(
            element("button", "em-history", recipe.name || summaryOf(recipe), { type: "button", title: summaryOf(recipe), onclick: () => this.restore(recipe) }),
            element("span", "em-quiet", `${hash.slice(0, 10)}, ${when}`),
          );
          return row;
        }),
      );
      this.find("no-history").hidden = used.length > 0;
    } catch {
      // The line at the top says when the server does not answer.
    }
  }

  /** Files are found by what is in them, when they have other names here. What is missing is told by the report. */
  async restore(recipe) {
    let found = recipe;
    try {
      const told = await ask("api/v1/merge/report", { recipe });
      found = told.recipe;
      if (told.notices.length) note(told.notices[0]);
    } catch {
      // The report beside the models says it, too.
    }
    const start = stateOf(found);
    if (!start) return tellProblem("This recipe merges nothing: it is a checkpoint with a VAE or LoRAs.");
    await this.take(start);
    if (this.layout) await this.take(stateOf(found, blockNames(this.layout)));
    this.settle();
    note("The recipe was restored.");
  }

  step(state) {
    if (state) this.take(state).then(() => this.previewSoon());
  }

  connect() {
    const on = (part, what) => this.find(part).addEventListener("click", what);
    this.find("name").addEventListener("change", (event) => {
      this.state.name = event.target.value.trim();
      this.settle();
    });
    on("save-preset", () => this.savePreset());
    on("remove-preset", () => this.removePreset());
    this.find("preset-name").addEventListener("keydown", (event) => event.key === "Enter" && this.savePreset());
    on("send", () => this.send());
    on("swap", () => this.change((state) => ([state.models[0], state.models[1]] = [state.models[1], state.models[0]])));
    on("add-model", () => this.change((state) => state.models.push(this.checkpoints[0] ?? "")));
    on("undo", () => this.step(this.history.undo()));
    on("redo", () => this.step(this.history.redo()));
    on("reset", () => this.change((state) => delete state.weights[this.parameter.name]));
    on("mirror", () => this.bend((values) => values.reverse()));
    on("invert", () => this.bend((values) => values.map((value) => this.parameter.maximum + this.parameter.minimum - value)));
    on("smooth", () => this.bend((values) => values.map((value, index) => ((values[index - 1] ?? value) + 2 * value + (values[index + 1] ?? value)) / 4)));
    on("compare", () => this.compare());
    on("copy", async () => {
      const text = await this.writeText();
      this.find("text").value = text;
      await copyText(text).then(() => note("Copied."), (error) => tellProblem(error.message));
    });
    on("read", () => this.readText(this.find("text").value));
    on("preview", () => this.preview());
    on("generate", () => this.generate());
    on("save-recipe", () => this.saveRecipe());
    on("save-checkpoint", () => this.saveCheckpoint());
    for (const part of ["prompt", "seed"]) {
      this.find(part).addEventListener("input", (event) => (event.target.dataset.typed = "yes"));
    }
    this.root.addEventListener("keydown", (event) => {
      if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("input:not([type=range]), textarea")) return;
      event.preventDefault();
      this.step(event.shiftKey ? this.history.redo() : this.history.undo());
    });
    // On a slider, copying and pasting are about the weights.
    this.root.addEventListener("copy", (event) => {
      if (!event.target.closest?.(".em-bank") || String(getSelection())) return;
      event.clipboardData.setData("text/plain", JSON.stringify(weightsMapping(weightsOf(this.state, this.parameter))));
      event.preventDefault();
      note("The weights of all blocks are copied.");
    });
    this.root.addEventListener("paste", (event) => {
      if (event.target.matches?.("input, textarea")) return;
      const text = event.clipboardData.getData("text/plain").trim();
      if (!text || !this.layout) return;
      event.preventDefault();
      this.readText(text);
    });
    takeDrops(this.root, (recipe) => this.restore(recipe), tellProblem);
    watchJobs(({ jobs, changed, isFirst }) => {
      // A page that was loaded anew goes on with the one under way.
      if (isFirst) this.saving ??= jobs.find((job) => job.kind === "merge" && ["queued", "running"].includes(job.state))?.id;
      for (const job of isFirst ? jobs : changed) if (job.id === this.saving) this.showSaving(job);
    });
    const line = this.find("line");
    useLine((kind, message) => {
      line.hidden = !message;
      line.dataset.kind = kind;
      line.querySelector(".em-status-text").textContent = message;
    });
    line.querySelector(".em-close").addEventListener("click", clearLine);
    ask("api/v1/merge/rules").then(({ readings = [] }) => {
      this.find("reading").replaceChildren(select(readings.map((entry) => [entry.name, entry.label]), "own", () => {}, { "aria-label": "What BASE means in lists" }));
    }, () => {});
  }
}

/** A model as previews take it: a checkpoint by its name, anything else as a recipe. */
const shownModel = (model) => ({ name: labelOf(model), ...(typeof model === "string" ? {} : { recipe: { root: nodeOf(model) } }) });

function hintOf(block, apart) {
  const distance = apart ? ` A and B differ by ${(100 * apart.distance).toPrecision(3)} %, at an angle of ${apart.angle.toFixed(3)} (SLERP is LERP near 0).` : "";
  return `${block.label}: ${(100 * block.share).toFixed(2)} % of the parameters. ${block.hint}${distance}`;
}

function kept() {
  try {
    return { ...newState(), ...JSON.parse(localStorage.getItem(KEY)) };
  } catch {
    return newState();
  }
}
