// The Merge tab.

import { bytes } from "./bytes.js";
import { action, element, labelled, numberInput, select } from "./elements.js";
import { watchForm } from "./form.js";
import { cancel, watchJobs } from "./jobs.js";
import { mountLoraTools } from "./lora_tools.js";
import { mountPlots } from "./merge_plot.js";
import { previewRequest, previews } from "./merge_preview.js";
import {
  copyOf,
  History,
  newState,
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
import { note, tellProblem } from "./messages.js";
import { ask } from "./server.js";

const KEY = "emulsion.merge";
const PAUSE_MS = 800;
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
    this.edited = "alpha";
    this.form = {};
    this.timer = 0;
    this.reportTimer = 0;
    this.views = previews(this.find("previews"));
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
    const names = this.checkpoints;
    this.state.models = this.state.models.map((name, index) => (names.includes(name) ? name : names[Math.min(index, names.length - 1)] ?? ""));
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
    const first = this.state.models[0];
    if (!first || this.layoutOf === first) return;
    try {
      this.layout = await ask(`api/v1/merge/layout?checkpoint=${encodeURIComponent(first)}`);
      this.layoutOf = first;
    } catch (error) {
      this.layout = null;
      this.layoutOf = "";
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
    if (this.find("automatic").checked) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.preview(true), PAUSE_MS);
    }
  }

  save() {
    localStorage.setItem(KEY, JSON.stringify(this.state));
  }

  draw() {
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
        const pick = select(options, name, (value) => this.change((state) => (state.models[index] = value)), {
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
    const pick = select(
      this.rules.map((entry) => [entry.name, entry.label]),
      rule?.name ?? "",
      (value) => this.change((state) => this.useRule(state, value)),
      { "aria-label": "Rule" },
    );
    this.find("rule").replaceChildren(labelled("Rule", pick));
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
    if (this.apartOf !== this.state.models.slice(0, 2).join(" ")) this.apart = null;
    const byBlock = this.parameters.filter((parameter) => parameter.by_block);
    panel.hidden = !this.layout || !byBlock.length;
    if (panel.hidden) return;
    if (!byBlock.some((parameter) => parameter.name === this.edited)) this.edited = byBlock[0].name;
    this.find("edited").replaceChildren(
      ...(byBlock.length < 2 ? [] : byBlock.map((parameter) =>
        action(parameter.label, () => {
          this.edited = parameter.name;
          this.drawBlocks();
        }, { "aria-pressed": parameter.name === this.edited }))),
    );
    this.find("family").textContent = this.layout.label;
    this.bank = sliderBank(this.find("bank"), {
      layout: this.layout,
      read: () => ({ weights: weightsOf(this.state, this.parameter), parameter: this.parameter }),
      write: (weights) => {
        this.state.weights[this.parameter.name] = weights;
        this.drawRecipe();
      },
      settle: () => this.settle(),
      tell: (block) => (this.find("hint").textContent = hintOf(block, this.apart?.get(block.name))),
    });
    this.bank.showDistances(this.apart);
    const presets = [["", "Preset ..."], ...this.layout.presets.map((preset) => [preset.name, preset.label])];
    this.find("preset").replaceChildren(
      select(presets, "", (name) => this.usePreset(name), { "aria-label": "Preset" }),
    );
    this.drawSelections("kinds");
    this.drawSelections("streams");
    const weights = weightsOf(this.state, this.parameter);
    this.find("more").textContent = weights.more.length ? `${weights.more.length} finer settings are kept as text.` : "";
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
    this.find("added").replaceChildren(
      ...state.loras.map(({ name, strength }, index) => {
        const row = element("div", "em-merge-model");
        const pick = select(this.loras.map((entry) => [entry, entry]), name, (value) => this.change((next) => (next.loras[index].name = value)), { "aria-label": "LoRA" });
        const number = numberInput(strength, (value) => this.change((next) => (next.loras[index].strength = value)), { "aria-label": `Strength of ${name}`, step: 0.05 });
        row.append(pick, number, action("×", () => this.change((next) => next.loras.splice(index, 1)), { "aria-label": `Without ${name}` }));
        return row;
      }),
    );
    this.find("add-lora").hidden = !this.loras.length;
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
      this.problem = "";
    } catch (error) {
      this.problem = error.message;
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
    await this.views.show([this.state.models[0], recipe, this.state.models[1] ?? ""], request, onlyMerge);
  }

  /** How far A and B lie apart, block by block. */
  async compare() {
    const [a, b] = this.state.models;
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

  usePreset(name) {
    const preset = this.layout.presets.find((entry) => entry.name === name);
    if (preset) this.useWeights(preset.weights);
  }

  /** What a preset says of blocks; what stands for kinds and streams stays. */
  useWeights(mapping) {
    this.change((state) => {
      const old = weightsOf(state, this.parameter);
      const next = weightsFrom(mapping);
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
        checkpoint: this.state.models[0],
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
      const written = await ask("api/v1/merge/weights", { checkpoint: this.state.models[0], text: JSON.stringify(weights) });
      return written.text;
    } catch (error) {
      tellProblem(error.message);
      return JSON.stringify(weights);
    }
  }

  async generate() {
    const { recipe } = this;
    if (!recipe) return;
    const values = Object.fromEntries(Object.entries(this.form).filter(([, value]) => value !== null && value !== undefined && value !== ""));
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
          const when = new Date(time * 1000 || time).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
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

  restore(recipe) {
    const state = stateOf(recipe);
    if (!state) return tellProblem("This recipe has merges inside of merges: save the inner one under a name, and choose it as a model.");
    this.take(state).then(() => this.settle());
    note("The recipe was restored.");
  }

  /** A recipe, a picture or a merged checkpoint that was dropped. */
  async takeFile(file) {
    try {
      const recipe = file.name.endsWith(".json") ? JSON.parse(await file.text()) : await recipeInFile(file);
      if (!recipe) return tellProblem(`${file.name} says nothing of a recipe.`);
      this.restore(recipe.root ? recipe : recipe.recipe);
    } catch (error) {
      tellProblem(`${file.name}: ${error.message}`);
    }
  }

  step(state) {
    if (state) this.take(state);
  }

  connect() {
    const on = (part, what) => this.find(part).addEventListener("click", what);
    on("swap", () => this.change((state) => ([state.models[0], state.models[1]] = [state.models[1], state.models[0]])));
    on("add-model", () => this.change((state) => state.models.push(this.checkpoints[0] ?? "")));
    on("add-lora", () => this.change((state) => state.loras.push({ name: this.loras[0], strength: 1 })));
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
      await navigator.clipboard?.writeText(text).then(() => note("Copied."), () => {});
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
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    this.root.addEventListener("drop", (event) => {
      const file = event.dataTransfer.files[0];
      if (!file) return;
      event.preventDefault();
      event.stopPropagation();
      this.takeFile(file);
    });
    watchJobs(({ changed }) => {
      for (const job of changed) if (job.id === this.saving) this.showSaving(job);
    });
    ask("api/v1/merge/rules").then(({ readings = [] }) => {
      this.find("reading").replaceChildren(select(readings.map((entry) => [entry.name, entry.label]), "own", () => {}, { "aria-label": "What BASE means in lists" }));
    }, () => {});
  }
}

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

/** The recipe in the header of a safetensors file, or in a picture's own text; null when there is none. */
async function recipeInFile(file) {
  const head = new DataView(await file.slice(0, 8).arrayBuffer());
  if (head.getUint32(0) === 0x89504e47) return recipeInPicture(new Uint8Array(await file.slice(0, 2 ** 20).arrayBuffer()));
  const length = Number(head.getBigUint64(0, true));
  if (length > 100 * 2 ** 20) throw new Error("this is no safetensors file.");
  const header = JSON.parse(await file.slice(8, 8 + length).text());
  const text = header.__metadata__?.["emulsion.recipe"];
  return text ? JSON.parse(text) : null;
}

/** PNG chunks: length, type, data, checksum. Ours are texts with these keywords; a plot's picture has its request. */
function recipeInPicture(data) {
  const view = new DataView(data.buffer);
  const names = new TextDecoder("latin1");
  for (let at = 8; at + 12 <= data.length; ) {
    const length = view.getUint32(at);
    const type = names.decode(data.subarray(at + 4, at + 8));
    if (type === "iTXt" || type === "tEXt") {
      const chunk = data.subarray(at + 8, at + 8 + length);
      const body = (type === "iTXt" ? new TextDecoder() : names).decode(chunk);
      if (/^emulsion(-plot)?\0/.test(body)) return JSON.parse(body.slice(body.indexOf("{"))).request?.recipe ?? null;
    }
    at += 12 + length;
  }
  return null;
}
