// The line that stays. Texts come from files and from other people, so they are only ever text.

import { clearLine, note, tellNotice, tellProblem, useLine } from "./messages.js";
import { revealResults } from "./results.js";
import { followNewest } from "./selection.js";

export function mount({ element, props, watch }) {
  const box = element.querySelector(".em-status");
  const text = element.querySelector(".em-status-text");

  useLine((kind, message) => {
    box.hidden = !message;
    box.dataset.kind = kind;
    text.textContent = message;
  });
  element.querySelector(".em-close").addEventListener("click", clearLine);

  const receive = () => {
    const status = props.value;
    if (status?.kind === "problem") tellProblem(status.text);
    else if (status?.kind === "notice") tellNotice(status.text);
    else if (status?.kind === "toast") note(status.text);
    else if (status?.kind === "queued") {
      clearLine();
      followNewest();
      revealResults();
    }
  };
  watch("value", receive);
}
