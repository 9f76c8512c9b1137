// What the user notes about a LoRA. It is kept as it is typed, and says whether it is.

import { element, labelled } from "./elements.js";
import { ask } from "./server.js";

const PAUSE_MS = 700;
const TEXTS = [
  ["activation_text", "Activation text", 2, "Goes into the prompt with the tag."],
  ["negative_text", "Negative text", 2, "Goes into the negative prompt with the tag."],
  ["description", "Description", 2, ""],
  ["notes", "Notes", 3, ""],
];

/** {form, settle}: settle() waits until everything is kept. `onsaved` is called after every saving. */
export function notesForm(lora, onsaved) {
  const form = element("form", "em-lora-part em-lora-notes", "", { "aria-label": "Notes" });
  const state = element("p", "em-lora-state", "", { role: "status" });
  const weight = element("input", "", "", { type: "number", step: "0.05", min: "-10", max: "10", placeholder: "1" });
  weight.value = lora.preferred_weight || "";
  const texts = TEXTS.map(([name, , rows]) => {
    const area = element("textarea", "", "", { rows: String(rows), name });
    area.value = lora[name] ?? "";
    return area;
  });
  form.append(
    element("h3", "", "Notes"),
    labelled("Preferred weight", weight),
    ...texts.map((area, index) => labelled(TEXTS[index][1], area, TEXTS[index][3])),
    state,
  );

  let timer = 0;
  let isChanged = false;
  let saving = Promise.resolve();

  function tell(kind, text) {
    state.dataset.kind = kind;
    state.textContent = text;
  }

  async function save() {
    clearTimeout(timer);
    if (!isChanged) return;
    if (!weight.checkValidity()) return tell("problem", "The preferred weight is a number between -10 and 10. Nothing was saved.");
    isChanged = false;
    tell("asking", "Saving ...");
    const said = Object.fromEntries(texts.map((area) => [area.name, area.value]));
    try {
      await ask("api/v1/loras/notes", { name: lora.name, ...said, preferred_weight: weight.valueAsNumber || 0 }, { method: "PUT" });
      if (!isChanged) tell("done", "Saved.");
      onsaved();
    } catch (error) {
      isChanged = true;
      tell("problem", `Not saved: ${error.message}`);
    }
  }

  const saveInTurn = () => (saving = saving.then(save));
  form.addEventListener("input", () => {
    isChanged = true;
    tell("asking", "Not saved yet.");
    clearTimeout(timer);
    timer = setTimeout(saveInTurn, PAUSE_MS);
  });
  form.addEventListener("change", saveInTurn);
  form.addEventListener("submit", (event) => event.preventDefault());
  return { form, settle: saveInTurn };
}
