// Rows of adapters as the page keeps them (see ui/adapter_rows.py), and curves and tags as text. Nothing here touches the page.

export const LOWEST = -10;
export const HIGHEST = 10;
const TAG = /<\s*(lora|lyco)\s*:([^:>]+)(?::([^>]*))?>/gi;
const NUMBER = "[+-]?(?:\\d+\\.?\\d*|\\.\\d+)";
const POINT = new RegExp(`^(${NUMBER})(?:\\s*@\\s*(${NUMBER}))?$`);

export const rowOf = (adapter, elemental = "") => ({ is_on: true, elemental, adapter });
export const newRow = (name, strength = 1) => rowOf({ file: { name }, strength, text_encoder_strength: null, weights: null });
export const isRow = (row) => typeof row?.adapter?.file?.name === "string";

/** What a request or a recipe gets: the rows that are on. */
export const sentRows = (rows) => (rows ?? []).filter((row) => isRow(row) && row.is_on !== false).map((row) => row.adapter);

/** Rows for the adapters of a request or a recipe. */
export const rowsFrom = (adapters) =>
  adapters.map(({ file, strength = 1, ...rest }) => rowOf({ file: typeof file === "string" ? { name: file } : file, strength, ...rest }));

export const limited = (value) => Math.min(HIGHEST, Math.max(LOWEST, Number(value.toFixed(4))));

/**
 * A strength over the steps out of "1@0, 0@0.5", or null for a text without one. inSteps: positions are steps, which
 * those above 1 are in any case. Throws for what is none.
 */
export function readCurve(text, inSteps = false) {
  const points = text.split(/[,;]/).map((part) => part.trim()).filter(Boolean).map((part) => {
    const found = part.match(POINT);
    if (!found) throw new Error(`"${part}" is no strength at a position, such as 0.5@0.2.`);
    const [strength, position] = [Number(found[1]), Number(found[2] ?? 0)];
    if (strength < LOWEST || strength > HIGHEST) throw new Error(`Strengths go from ${LOWEST} to ${HIGHEST}, not to ${strength}.`);
    if (position < 0) throw new Error("Positions begin at 0.");
    return [position, strength];
  });
  if (!points.length) return null;
  if (points.some(([position], index) => index > 0 && position < points[index - 1][0])) {
    throw new Error("Positions have to be in their order, the smallest first.");
  }
  return { points, in_steps: inSteps || points.some(([position]) => position > 1) };
}

export const curveText = (curve) => (curve ? curve.points.map(([position, strength]) => `${strength}@${position}`).join(", ") : "");

/** The LoRAs that tags of a prompt name: [{name, rest, text}]. */
export const tagsIn = (prompt) =>
  [...(prompt ?? "").matchAll(TAG)].map(([text, , name, rest = ""]) => ({ name: name.trim(), rest, text }));
