// The Extras tab: pictures are gathered, it is said how large they become and by what, and one job makes them so.

import { takeIncoming } from "./extras_intake.js";
import { pictureCards } from "./extras_pictures.js";
import { sizeFields } from "./extras_size.js";
import { pictureTexts } from "./extras_texts.js";
import { upscalerFields } from "./extras_upscalers.js";
import { cancelCurrent, watchJobs } from "./jobs.js";
import { clearLine, tellProblem } from "./messages.js";
import { revealResults } from "./results.js";
import { followNewest } from "./selection.js";
import { receivePictures } from "./sent_pictures.js";
import { ask } from "./server.js";

const KEY = "emulsion.extras";

export function mount({ element }) {
  const panel = element.querySelector(".em-extras");
  const find = (name) => panel.querySelector(`[data-part="${name}"]`);
  const kept = keptValues();
  const texts = pictureTexts(find("texts"));
  const size = sizeFields(find("size"), kept.size, () => changed());
  const upscalers = upscalerFields(find("upscalers"), kept.upscalers, () => changed());
  const pictures = pictureCards(find, kept.pictures, { sizeAfter: size.after, changed: () => changed(), select: texts.show });

  function changed() {
    pictures.showSizes();
    const count = pictures.all().length;
    find("start").textContent = count > 1 ? `Upscale ${count} pictures` : "Upscale";
    localStorage.setItem(KEY, JSON.stringify({ pictures: pictures.all(), size: size.values(), upscalers: upscalers.values() }));
  }

  async function start() {
    try {
      await pictures.arrived();
      const asked = pictures.all().map(({ sha256 }) => sha256);
      if (!asked.length) return tellProblem("There is no picture yet. Drop one on this tab, paste it, or open its file.");
      await ask("api/v1/upscale", { pictures: asked, ...size.read(), ...upscalers.read() });
      clearLine();
      followNewest();
      revealResults();
    } catch (error) {
      tellProblem(`Nothing was queued: ${error.message}`);
    }
  }

  find("start").addEventListener("click", start);
  find("cancel").addEventListener("click", cancelCurrent);
  takeIncoming(panel, pictures.add);
  receivePictures("extras", (url) => pictures.add([url]));
  watchJobs(({ jobs }) => {
    const count = jobs.filter((job) => job.state === "queued").length;
    find("cancel").disabled = count === 0 && !jobs.some((job) => job.state === "running");
    const text = count ? `${count} waiting` : "";
    if (find("waiting").textContent !== text) find("waiting").textContent = text;
  });
  changed();
  panel.dataset.state = "open"; // from now on it takes what comes in
}

function keptValues() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
