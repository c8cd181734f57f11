// The page: who is signed in, what is asked for how often, and what the buttons do.

import { Daemon, Refused } from "/console-daemon.js";
import * as show from "/console-views.js";

const FAST_MS = 2000;
const SLOW_MS = 10000;
const PAGE = 50;

const element = (id) => document.getElementById(id);
let daemon = null;
let timers = [];

// What is looked at: a question to the daemon, and what shows its answer.
const FAST = [
  [(d) => d.query("pub.chive.admin.getSystemHealth"), show.health],
  [(d) => d.query("pub.chive.admin.getFirehoseStatus"), show.stream],
  [(d) => d.query("pub.chive.admin.getBackfillStatus", { status: "running" }), showRunning],
];
const SLOW = [
  [(d) => d.query("pub.chive.admin.getOverview"), show.overview],
  [(d) => d.query("pub.chive.admin.listDLQEntries", { limit: PAGE }), (answer) => show.letters(answer, retry, dismiss)],
  [(d) => d.query("pub.chive.indexer.listGaps", { limit: PAGE }), (answer) => show.gaps(answer.gaps)],
  [(d) => d.query("pub.chive.admin.listPDSes", { limit: PAGE }), (answer) => show.hosts(answer.stats ?? {}, rescan)],
  [(d) => d.query("pub.chive.admin.getBackfillHistory"), (answer) => show.history(answer.operations)],
  [(d) => d.query("pub.chive.admin.getAuditLog", { limit: PAGE }), (answer) => show.audit(answer.entries)],
];
const troubles = new Map();
let atWork = "";

// What has begun or ended shows in the history and elsewhere too.
function showRunning({ operations = [] }) {
  show.running(operations, cancel);
  const ids = operations.map(({ id }) => id).join();
  if (ids === atWork) return;
  atWork = ids;
  look(SLOW);
}

// One look at each of some parts. A part that fails takes no other with it, and is looked at again.
async function look(parts) {
  const asked = daemon;
  if (asked === null || document.hidden) return;
  await Promise.all(parts.map(async (part) => {
    const [ask, display] = part;
    try {
      const answer = await ask(asked);
      if (asked !== daemon) return;
      display(answer);
      troubles.delete(part);
    } catch (error) {
      if (asked !== daemon) return;
      if (error instanceof Refused && error.status === 401) signOut("The password is no longer accepted.");
      else troubles.set(part, error.message);
    }
  }));
  if (asked === daemon) say(troubles.values().next().value ?? "");
}

function say(text) {
  element("notice").textContent = text;
  element("notice").hidden = text === "";
}

// A change that was asked for: its button rests until the answer, and the page looks again.
async function act(button, change, done = () => {}) {
  button.disabled = true;
  try {
    done(await change(daemon));
    await Promise.all([look(FAST), look(SLOW)]);
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}

const cancel = (button, id) => act(button, (d) => d.call("pub.chive.admin.cancelBackfill", { id }));
const retry = (button, id) => act(button, (d) => d.call("pub.chive.admin.retryDLQEntry", { index: Number(id) }));
const dismiss = (button, id) => act(button, (d) => d.call("pub.chive.admin.dismissDLQEntry", { index: Number(id) }));
const rescan = (button, pdsUrl) => act(button, (d) => d.call("pub.chive.admin.rescanPDS", { pdsUrl }));

function start(event) {
  event.preventDefault();
  const given = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value.trim() !== ""));
  if ("batchSize" in given) given.batchSize = Number(given.batchSize);
  act(event.submitter, (d) => d.call("pub.chive.admin.triggerBackfill", given), ({ operation }) => {
    element("started").textContent = `${given.type} ${operation.id}: ${operation.phase ?? operation.status}`;
  });
}

// Only the parameters of the chosen type are there to be filled in.
function chooseType() {
  const form = element("start");
  for (const label of form.querySelectorAll("[data-for]")) {
    const applies = label.dataset.for === form.elements.type.value;
    label.hidden = !applies;
    label.querySelector("input").disabled = !applies;
  }
}

async function signIn(event) {
  event.preventDefault();
  const password = event.target.elements.password;
  const candidate = new Daemon(password.value);
  element("sign-in-error").textContent = "";
  event.submitter.disabled = true;
  try {
    await candidate.query("pub.chive.admin.getSystemHealth");
  } catch (error) {
    element("sign-in-error").textContent = error.status === 401 ? "Wrong password." : error.message;
    password.select();
    return;
  } finally {
    event.submitter.disabled = false;
  }
  password.value = "";
  daemon = candidate;
  setVisible(true);
  timers = [setInterval(look, FAST_MS, FAST), setInterval(look, SLOW_MS, SLOW)];
  await Promise.all([look(FAST), look(SLOW)]);
}

function signOut(reason = "") {
  daemon = null;
  timers.forEach(clearInterval);
  troubles.clear();
  setVisible(false);
  say("");
  element("sign-in-error").textContent = reason;
  element("health").textContent = "not signed in";
  element("health").className = "badge";
  element("daemon").textContent = "";
}

function setVisible(isSignedIn) {
  element("sign-in").hidden = isSignedIn;
  element("console").hidden = !isSignedIn;
  element("sign-out").hidden = !isSignedIn;
}

element("sign-in").addEventListener("submit", signIn);
element("sign-out").addEventListener("click", () => signOut());
element("start").addEventListener("submit", start);
element("start").elements.type.addEventListener("change", chooseType);
element("pause").addEventListener("click", (event) =>
  act(event.target, (d) => d.call("pub.chive.indexer.pauseStream", { reason: "console" })));
element("resume").addEventListener("click", (event) =>
  act(event.target, (d) => d.call("pub.chive.indexer.resumeStream", {})));
document.addEventListener("visibilitychange", () => {
  look(FAST);
  look(SLOW);
});
chooseType();
