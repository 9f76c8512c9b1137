// A server that was started again may have another page: other events, other extensions. This one is loaded anew then;
// what was typed is kept.

import { watchJobs } from "./jobs.js";
import { address } from "./server.js";

let wasConnected = true;

watchJobs(({ isConnected }) => {
  const isBack = isConnected && !wasConnected;
  wasConnected = isConnected;
  if (isBack) reloadIfReplaced().catch(() => (wasConnected = false)); // gone again: ask the next time
});

async function reloadIfReplaced() {
  const { app_id: now } = await (await fetch(address("gradio_api/app_id"))).json();
  if (now !== window.gradio_config.app_id) location.reload();
}
