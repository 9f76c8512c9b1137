// Our HTTP interface (docs/http-api.md), as the page uses it.

export const address = (path) => new URL(path, document.baseURI).href;

export async function cancelJob(id) {
  const answer = await fetch(address(`api/v1/jobs/${encodeURIComponent(id)}`), { method: "DELETE" });
  if (!answer.ok) throw new Error(await problemOf(answer));
}

/** The JSON answer of our interface; with a body it is a POST. Throws what the server says is wrong. */
export async function ask(path, body, options = {}) {
  const sent =
    body === undefined
      ? {}
      : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(address(path), { ...sent, ...options });
  if (!answer.ok) throw new Error(await problemOf(answer));
  return answer.json();
}

const STORED = /\/api\/v1\/pictures\/([0-9a-f]{64})/;

/**
 * Keep a picture for jobs to begin with, and get {sha256, width, height, url, ...}. picture: a file, or the address of a
 * picture that was made or is stored here.
 */
export async function storePicture(picture) {
  const stored = typeof picture === "string" && STORED.exec(address(picture));
  if (stored) return ask(`api/v1/pictures/${stored[1]}/facts`);
  if (typeof picture === "string") return ask("api/v1/pictures/from-output", { url: picture });
  return ask("api/v1/pictures", picture, { body: picture, headers: { "Content-Type": "application/octet-stream" } });
}

/** The infotext inside a picture, "" when there is none. */
export async function readInfotext(file) {
  return (await readTexts(file)).info;
}

/** All that a picture says of itself: {info, items by keyword, parameters by name}. */
export async function readTexts(file) {
  return ask("sdapi/v1/png-info", { image: await asBase64(file) });
}

async function problemOf(answer) {
  try {
    const problem = await answer.json();
    return problem.errors || problem.detail || `The server answered ${answer.status}.`;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

function asBase64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error(`${file.name} could not be read.`));
    reader.readAsDataURL(file);
  });
}
