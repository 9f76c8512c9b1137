// All jobs as the server tells them, in one stream per browser tab that is closed while the tab is hidden.

import { address, cancelJob } from "./server.js";
import { tellProblem } from "./messages.js";

const watchers = new Set();
let jobs = new Map();
let isComplete = false;
let isConnected = true;
let stream = null;
let isKept = false; // also while the browser's tab is hidden

/** Call `watcher({jobs, changed, isFirst, isConnected})` now, if anything is known, and after every change. */
export function watchJobs(watcher) {
  watchers.add(watcher);
  if (isComplete) watcher(state([...jobs.values()], true));
  if (!stream && isWanted()) connect();
}

const isWanted = () => isKept || !document.hidden;

/** Hear of jobs also while the browser's tab is hidden. */
export function stayConnected(isOn) {
  isKept = isOn;
  if (document.hidden) changeVisibility();
}

export const runningJob = () => [...jobs.values()].find((job) => job.state === "running");
export const waitingJobs = () => [...jobs.values()].filter((job) => job.state === "queued");

/** Cancel the running job or, when none runs, the one that would be next. */
export async function cancelCurrent() {
  const job = runningJob() ?? waitingJobs()[0];
  if (job) await cancel(job.id);
}

export async function cancel(id) {
  try {
    await cancelJob(id);
  } catch (error) {
    tellProblem(`The job could not be cancelled: ${error.message}`);
  }
}

function connect() {
  stream = new EventSource(address("api/v1/events"));
  stream.onmessage = (message) => receive(JSON.parse(message.data));
  stream.onopen = () => setConnected(true);
  stream.onerror = () => {
    setConnected(false);
    // A browser gives up when the answer is no stream, as while a server starts behind a proxy.
    if (stream?.readyState === EventSource.CLOSED) setTimeout(reconnect, 2000);
  };
}

function disconnect() {
  stream?.close();
  stream = null;
}

function reconnect() {
  disconnect();
  if (isWanted()) connect();
}

function receive(message) {
  const isFirst = !isComplete;
  if (message.is_complete) jobs = new Map();
  for (const job of message.jobs) jobs.set(job.id, job);
  isComplete = true;
  isConnected = true;
  publish(message.jobs, isFirst);
}

function setConnected(value) {
  if (value === isConnected) return;
  isConnected = value;
  publish([], false);
}

function publish(changed, isFirst) {
  for (const watcher of watchers) watcher(state(changed, isFirst));
}

function state(changed, isFirst) {
  return { jobs: [...jobs.values()], changed, isFirst, isConnected };
}

function changeVisibility() {
  if (isKept && stream) return;
  if (document.hidden && !isKept) disconnect();
  else reconnect();
}

document.addEventListener("visibilitychange", changeVisibility);
