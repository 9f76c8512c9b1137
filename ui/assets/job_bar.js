// Cancel, and how many jobs wait.

import { mountForever } from "./forever.js";
import { formOf } from "./form_scope.js";
import { cancelCurrent, watchJobs } from "./jobs.js";

export function mount({ element }) {
  const button = element.querySelector(".em-cancel");
  const waiting = element.querySelector(".em-waiting");

  button.addEventListener("click", cancelCurrent);
  mountForever(element.querySelector(".em-forever"), formOf(element));
  watchJobs(({ jobs }) => {
    const count = jobs.filter((job) => job.state === "queued").length;
    button.disabled = count === 0 && !jobs.some((job) => job.state === "running");
    const text = count ? `${count} waiting` : "";
    if (waiting.textContent !== text) waiting.textContent = text;
  });
}
