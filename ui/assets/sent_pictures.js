// Pictures on their way from one part of the page to a tab, which may not have been opened yet.

import { turnTo } from "./tabs.js";

const receivers = new Map(); // by tab
const waiting = new Map();

/** Send the picture at `url` to a tab and open it; everyone may do the same by the event "em-send". */
export function sendPicture(url, target) {
  document.dispatchEvent(new CustomEvent("em-send", { detail: { url, target } }));
}

/** Call `receiver` with the address of every picture that is sent to the tab `target`, and of one that waits for it. */
export function receivePictures(target, receiver) {
  receivers.set(target, receiver);
  if (!waiting.has(target)) return;
  receiver(waiting.get(target));
  waiting.delete(target);
}

document.addEventListener("em-send", ({ detail: { url, target } }) => {
  const receiver = receivers.get(target);
  turnTo(target);
  if (receiver) receiver(url);
  else waiting.set(target, url);
});
