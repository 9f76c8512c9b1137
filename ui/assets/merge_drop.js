// The recipe in what was dropped: a picture, a merged checkpoint of ours or of other programs, or a recipe's own file.

import { address, ask, readTexts } from "./server.js";

const LONGEST_HEADER = 100 * 2 ** 20;
const OUR_KEYWORDS = /^emulsion/; // keywords of our own texts in pictures
const METHODS = { "Weighted sum": "lerp", "Add difference": "add_difference" };

/** Call `take(recipe, name)` for what is dropped on `root`, and `fail(text)` when there is none in it. */
export function takeDrops(root, take, fail) {
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", async (event) => {
    const [file, url] = [event.dataTransfer.files[0], event.dataTransfer.getData("text/uri-list")];
    if (!file && !isOurs(url)) return;
    event.preventDefault();
    event.stopPropagation();
    try {
      const dropped = file ?? (await (await fetch(url)).blob());
      const name = dropped.name || "The picture";
      const recipe = await recipeIn(dropped, name);
      if (recipe) take(recipe);
      else fail(`${name} says nothing of a recipe.`);
    } catch (error) {
      fail(`The recipe could not be read: ${error.message}`);
    }
  });
}

const isOurs = (url) => Boolean(url) && new URL(url, document.baseURI).href.startsWith(address("outputs/"));

async function recipeIn(file, name) {
  if (name.endsWith(".json")) return recipeOfJson(JSON.parse(await file.text()));
  if (name.endsWith(".safetensors")) return recipeOfHeader(await headerOf(file));
  return recipeOfTexts(await readTexts(file));
}

const recipeOfJson = (value) => (value.root ? value : (value.recipe ?? null));

function recipeOfTexts({ items = {}, parameters = {} }) {
  if (parameters["Merge recipe"]) return JSON.parse(parameters["Merge recipe"]);
  for (const [keyword, text] of Object.entries(items)) {
    if (!OUR_KEYWORDS.test(keyword)) continue;
    const content = JSON.parse(text);
    const recipe = content.request?.recipe ?? content.model?.recipe ?? content.recipe;
    if (recipe) return recipe;
  }
  return null;
}

/** A safetensors file begins with the length of its header in 8 bytes, and the header. */
async function headerOf(file) {
  if (file.size < 8) throw new Error("this is no safetensors file.");
  const length = Number(new DataView(await file.slice(0, 8).arrayBuffer()).getBigUint64(0, true));
  if (length > Math.min(LONGEST_HEADER, file.size - 8)) throw new Error("this is no safetensors file.");
  return JSON.parse(await file.slice(8, 8 + length).text()).__metadata__ ?? {};
}

async function recipeOfHeader(metadata) {
  if (metadata["emulsion.recipe"]) return JSON.parse(metadata["emulsion.recipe"]);
  if (!metadata.sd_merge_recipe) return null;
  const { checkpoints } = await ask("api/v1/checkpoints");
  return recipeOfWebui(JSON.parse(metadata.sd_merge_recipe), JSON.parse(metadata.sd_merge_models ?? "{}"), checkpoints);
}

/** The recipe that A1111 and Forge wrote; their models are known by hash, and by title where no hash is known yet. */
function recipeOfWebui(theirs, models, checkpoints) {
  const rule = METHODS[theirs.interp_method];
  if (!rule) throw new Error(`there is no rule for "${theirs.interp_method}".`);
  const hashes = ["primary_model_hash", "secondary_model_hash", "tertiary_model_hash"].slice(0, rule === "lerp" ? 2 : 3);
  const files = hashes.map((field) => {
    const sha256 = theirs[field] ?? "";
    const title = (models[sha256]?.name ?? "").replace(/\.(safetensors|ckpt)( \[\w+\])?$/, "");
    const found = checkpoints.find((entry) => sha256 && entry.sha256 === sha256) ?? checkpoints.find((entry) => entry.name === title);
    if (!found && !title) throw new Error(`a model of it has no name, and no file with the hash ${sha256.slice(0, 10)} is here.`);
    return { name: found?.name ?? title, ...(/^[0-9a-f]{64}$/.test(sha256) ? { sha256 } : {}) };
  });
  return {
    name: theirs.custom_name ?? "",
    dtype: theirs.save_as_half ? "fp16" : "as_first",
    root: {
      type: "merge",
      rule,
      models: files.map((file) => ({ type: "checkpoint", file })),
      parameters: { alpha: { base: theirs.multiplier ?? 0.5 } },
    },
  };
}
