// JSON for people, number by number as it was written: what a script reads and writes again rounds long seeds.

const STEP = "  ";

/** The text with a line for each field; as it is where it is no JSON. */
export function indentedJson(text) {
  if (!isJson(text)) return text;
  let [depth, isText, out] = [0, false, ""];
  const line = () => `\n${STEP.repeat(depth)}`;
  for (let at = 0; at < text.length; at++) {
    const sign = text[at];
    if (isText) {
      out += sign === "\\" ? sign + text[++at] : sign;
      isText = sign !== '"';
    } else if (sign === '"') {
      out += sign;
      isText = true;
    } else if ("{[".includes(sign)) {
      const rest = /^\s*[}\]]/.exec(text.slice(at + 1, at + 40));
      if (rest) {
        out += sign + rest[0].trim();
        at += rest[0].length;
      } else {
        depth++;
        out += sign + line();
      }
    } else if ("}]".includes(sign)) {
      depth--;
      out += line() + sign;
    } else if (sign === ",") out += sign + line();
    else if (sign === ":") out += ": ";
    else if (!/\s/.test(sign)) out += sign;
  }
  return out;
}

function isJson(text) {
  try {
    return typeof JSON.parse(text) === "object";
  } catch {
    return false;
  }
}
