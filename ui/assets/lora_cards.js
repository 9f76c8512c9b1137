// The LoRA tab. Names, tags and metadata come from files and other people, so they are only ever text.

import { checkpointOf } from "./adapter_rows.js";
import { action, element, select } from "./elements.js";
import { watchForm } from "./form.js";
import { detailsPanel } from "./lora_details.js";
import { cardGrid } from "./lora_grid.js";
import { familiesOf, foldersIn, shownOf, SORTS, wayTo } from "./lora_list.js";
import { counted, KINDS, LORA, othersOf, pieceOf, placesOf } from "./lora_others.js";
import { finderOf, insertLora, insertPiece, promptNow, removeLora, removePieces, tagOf, tagsIn, UNFIT, watchPrompt, weightOf } from "./lora_prompt.js";
import { clearLine, note, tellProblem, useLine } from "./messages.js";
import { ask } from "./server.js";

const KEY = "emulsion.loras";
const PAUSE_MS = 120;
const VIEW = { kind: LORA, text: "", sort: "name", family: "", fits: false, folder: "" };

export function mount({ element: host, props }) {
  new LoraTab(host.querySelector(".em-loras"), props.value?.folders ?? []);
}

class LoraTab {
  constructor(root, homes) {
    this.root = root;
    this.homes = homes; // the folders on the disk that files belong into
    this.find = (name) => root.querySelector(`[data-part=${name}]`);
    this.view = { ...VIEW, ...kept() };
    this.asked = 0; // lists, and which of them came last
    this.taken = 0;
    this.loras = [];
    this.others = []; // of the kind that is shown, where that is another
    this.finder = () => null;
    this.used = new Map(); // as of usedIn
    this.checkpoint = "";
    this.families = new Map(); // of checkpoints, by name
    const does = { use: (lora) => this.use(lora), row: (lora) => this.addRow(lora), details: (lora) => this.showDetails(lora) };
    this.grid = cardGrid(this.find("cards"), does, (lora) => this.used.get(lora) ?? null);
    this.details = detailsPanel(this.find("details"), this);
    this.connect();
  }

  /** Everything that the server knows; each time the tab is turned to, because files come and go. */
  async load() {
    const turn = ++this.asked;
    try {
      const [{ loras }, { checkpoints }] = await Promise.all([ask("api/v1/loras"), ask("api/v1/checkpoints")]);
      this.families = new Map(checkpoints.map((entry) => [entry.name, entry.family]));
      const { kind } = this.view;
      const others = kind === LORA ? [] : await othersOf(kind);
      if (turn < this.taken) return; // what was asked later has come before
      this.taken = turn;
      if (kind === this.view.kind) this.others = others; // or else another one is under way
      this.take(loras);
    } catch (error) {
      tellProblem(`The files could not be listed: ${error.message}`);
    }
  }

  take(loras) {
    const before = new Map(this.loras.map((lora) => [lora.name, lora]));
    const isSame = (lora) => JSON.stringify(before.get(lora.name)) === JSON.stringify(lora);
    this.loras = loras.map((lora) => (isSame(lora) ? before.get(lora.name) : lora)); // which keeps its card
    this.finder = finderOf(this.loras);
    this.grid.keepOnly([...this.loras, ...this.others]);
    if (!this.files.some(({ family }) => family === this.view.family)) this.view.family = "";
    if (!this.files.some(({ folder }) => `${folder}/`.startsWith(`${this.view.folder}/`))) this.view.folder = "";
    this.used = this.usedIn(promptNow());
    this.draw();
  }

  named = (name) => this.loras.find((lora) => lora.name === name);
  isUsed = (lora) => this.used.has(lora);
  tagOf = (lora) => tagOf(lora, this.finder);

  /** Of the kind that is shown. */
  get files() {
    return this.view.kind === LORA ? this.loras : this.others;
  }

  draw() {
    const { view, files } = this;
    const fitting = view.kind === LORA ? (this.families.get(this.checkpoint) ?? "") : "";
    const shown = shownOf(files, view, fitting);
    this.find("kind").firstElementChild.value = view.kind;
    this.find("sort").firstElementChild.value = view.sort;
    this.drawFamilies();
    this.find("fits").checked = view.fits;
    this.find("fits").disabled = !fitting;
    this.drawFolders();
    this.find("count").textContent = `${shown.length === files.length ? "" : `${shown.length} of `}${counted(files.length, view.kind)}`;
    this.drawNone(shown.length === 0);
    this.grid.show(shown);
    this.details.mark();
  }

  drawFamilies() {
    const options = [["", "All families"], ...familiesOf(this.files)];
    const place = this.find("family");
    if (place.dataset.options !== JSON.stringify(options)) {
      place.dataset.options = JSON.stringify(options);
      place.replaceChildren(select(options, "", (family) => this.look({ family }), { "aria-label": "Family" }));
    }
    place.firstElementChild.value = this.view.family;
  }

  drawFolders() {
    const to = (text, path, given = {}) => action(text, () => this.look({ folder: path }), given);
    const way = [{ name: "All", path: "" }, ...wayTo(this.view.folder)];
    const parts = way.map(({ name, path }) => to(name, path, path === this.view.folder ? { "aria-current": "true" } : {}));
    const inner = foldersIn(this.files, this.view.folder);
    const below = inner.map(({ name, path, count }) => {
      const button = to(name, path);
      button.append(element("span", "em-lora-number", String(count)));
      return button;
    });
    const nav = this.find("folders");
    nav.hidden = way.length === 1 && !inner.length;
    nav.replaceChildren(...parts, ...(below.length ? [element("span", "em-lora-below", "›", { "aria-hidden": "true" })] : []), ...below);
  }

  drawNone(isEmpty) {
    const place = this.find("none");
    place.hidden = !isEmpty;
    if (!isEmpty) return;
    const { kind, sort } = this.view;
    if (this.files.length) {
      place.replaceChildren(element("p", "", "Nothing fits what is asked for."), action("Show all", () => this.look({ ...VIEW, kind, sort })));
      this.find("search").value = this.view.text;
      return;
    }
    if (kind !== LORA) {
      place.replaceChildren(element("p", "", `There is none yet. Put files into models/${kind}s, or into folders in it, and look again.`));
      return;
    }
    const said = element("p", "", "There are no LoRAs yet. Put .safetensors files into ");
    this.homes.forEach((folder, index) => said.append(index ? " or " : "", element("code", "", folder)));
    said.append(", or into folders in it, and look again.");
    place.replaceChildren(element("span", "em-empty-mark", "", { "aria-hidden": "true" }), said, action("Look for new LoRAs", () => this.refresh()));
  }

  /** Change what is looked at. */
  look(changes) {
    Object.assign(this.view, changes);
    if ("text" in changes && this.find("search").value !== changes.text) this.find("search").value = changes.text;
    localStorage.setItem(KEY, JSON.stringify({ ...this.view, text: "" }));
    this.draw();
    if (!this.root.contains(document.activeElement)) this.find("folders").querySelector("[aria-current]").focus();
  }

  async showKind(kind) {
    this.others = [];
    this.look({ ...VIEW, kind, sort: this.view.sort });
    await this.load();
  }

  async refresh() {
    try {
      await ask("api/v1/models/refresh", {});
    } catch (error) {
      return tellProblem(`The folders could not be read again: ${error.message}`);
    }
    await this.load();
    note(`${counted(this.files.length, this.view.kind)} found.`);
  }

  /** LoRA -> what its tag in the prompt says behind the name. */
  usedIn(prompt) {
    const found = tagsIn(prompt).map(({ name, rest }) => [this.finder(name), rest]);
    const others = this.others.map((file) => [file, prompt.matchAll(placesOf(file)).next().value]);
    return new Map([...found.filter(([lora]) => lora), ...others.filter(([, place]) => place).map(([file, place]) => [file, place[1] ?? ""])]);
  }

  /** In with its tag, or out again. */
  use(lora) {
    if (lora.kind) this.useOther(lora);
    else if (this.isUsed(lora)) removeLora(lora, this.finder);
    else if (lora.problem) {
      this.showDetails(lora);
      return tellProblem(`${lora.name} cannot be used: ${lora.problem}`);
    } else if (!this.tagOf(lora)) return tellProblem(`The name of ${lora.name} does not fit into a tag. Add it as a row instead.`);
    else insertLora(lora, this.finder);
    this.promptChanged(promptNow());
  }

  useOther(file) {
    const { piece, isWords } = pieceOf(file);
    if (this.isUsed(file)) removePieces(placesOf(file));
    else if (file.problem) tellProblem(`${file.name} cannot be used: ${file.problem}`);
    else if (!isWords && UNFIT.test(file.name)) tellProblem(`The name of ${file.name} does not fit into a tag. Rename the file.`);
    else insertPiece(piece, isWords);
  }

  addRow(lora) {
    if (lora.problem) return tellProblem(`${lora.name} cannot be used: ${lora.problem}`);
    const detail = { name: lora.name, strength: weightOf(lora) };
    document.dispatchEvent(new CustomEvent("emulsion:add-adapter", { detail })); // adapter_rows.js listens
  }

  promptChanged(prompt) {
    const used = this.usedIn(prompt);
    const isSame = used.size === this.used.size && [...used].every(([lora, rest]) => this.used.get(lora) === rest);
    if (isSame) return;
    this.used = used;
    this.grid.markAll();
    this.details.mark();
  }

  showDetails(lora) {
    this.root.dataset.details = "open";
    this.details.show(lora);
  }

  closeDetails(lora) {
    delete this.root.dataset.details;
    this.grid.focus(lora);
  }

  async findHash() {
    const hash = this.find("hash").value.trim();
    const place = this.find("found");
    if (!hash) return this.find("hash").focus();
    place.textContent = "Looking. Files that nobody has asked about yet are read once.";
    try {
      const { name } = await ask("api/v1/loras/find", { hash });
      await this.load(); // with the hashes that are known now
      const lora = this.named(name);
      place.textContent = `It is ${name}.`;
      this.look({ ...VIEW, sort: this.view.sort });
      if (lora) this.showDetails(lora);
      this.grid.focus(lora);
    } catch (error) {
      place.textContent = error.message;
    }
  }

  connect() {
    this.find("kind").replaceChildren(select(KINDS, this.view.kind, (kind) => this.showKind(kind), { "aria-label": "Kind" }));
    this.find("sort").replaceChildren(select(SORTS, this.view.sort, (sort) => this.look({ sort }), { "aria-label": "Order" }));
    const search = this.find("search");
    let timer = 0;
    search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.look({ text: search.value }), PAUSE_MS);
    });
    search.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") this.grid.focusFirst();
      else if (event.key === "Escape" && search.value) this.look({ text: "" });
      else return;
      event.preventDefault(); // Esc empties the field, and cancels no job
    });
    this.find("fits").addEventListener("change", (event) => this.look({ fits: event.target.checked }));
    this.find("refresh").addEventListener("click", () => this.refresh());
    this.find("find").addEventListener("submit", (event) => {
      event.preventDefault();
      this.findHash();
    });
    document.addEventListener("keydown", (event) => {
      const isTyping = event.target.closest?.("input, textarea, select, [contenteditable]");
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || isTyping || this.root.offsetParent === null) return;
      event.preventDefault();
      search.focus();
      search.select();
    });
    watchForm((values) => {
      const checkpoint = checkpointOf(values);
      const isOther = checkpoint !== this.checkpoint;
      this.checkpoint = checkpoint;
      this.promptChanged(values.prompt ?? "");
      if (!isOther || this.root.offsetParent === null) return; // it is drawn when it is turned to
      this.draw();
      this.details.checkpointChanged();
    });
    watchPrompt((prompt) => this.promptChanged(prompt));
    let isOpen = false;
    new IntersectionObserver((entries) => {
      const isSeen = entries.some((entry) => entry.isIntersecting);
      if (isSeen && !isOpen) this.load();
      isOpen = isSeen;
    }).observe(this.root);
    const line = this.find("line");
    useLine((kind, message) => {
      line.hidden = !message;
      line.dataset.kind = kind;
      line.querySelector(".em-status-text").textContent = message;
    });
    line.querySelector(".em-close").addEventListener("click", clearLine);
  }
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
