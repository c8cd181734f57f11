// What the daemon said, as elements. Every text from the network becomes a text node, never markup.

const element = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");
const HEALTH = { healthy: "good", degraded: "warn", unhealthy: "bad" };
const STATUS = { completed: "good", cancelled: "warn", failed: "bad", healthy: "good", unhealthy: "bad", repaired: "good" };

function make(tag, { text, className, ...attributes } = {}, children = []) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function button(label, about, onClick) {
  const made = make("button", { text: label, type: "button", "aria-label": `${label} ${about}` });
  made.addEventListener("click", () => onClick(made));
  return made;
}

// Rows are made anew with each look; whoever is on one of their buttons stays there.
function replace(parent, children) {
  const held = parent.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  parent.replaceChildren(...children);
  if (held) [...parent.querySelectorAll("button")].find((each) => each.getAttribute("aria-label") === held)?.focus();
}

const number = (value) => (value === undefined ? "" : numbers.format(value));
const time = (text) => (text ? new Date(text).toLocaleString() : "");

function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

function definitions(id, rows) {
  replace(element(id), rows.flatMap(([term, text, className]) => [make("dt", { text: term }), make("dd", { text, className })]));
}

// columns: [heading, row -> text or element, class of the cell]
function table(id, columns, rows, none) {
  if (rows.length === 0) {
    replace(element(id), [make("p", { text: none, className: "quiet" })]);
    return;
  }
  const head = make("tr", {}, columns.map(([heading]) => make("th", { text: heading, scope: "col" })));
  const body = rows.map((row) => make("tr", {}, columns.map(([heading, cell, className]) => {
    const content = cell(row);
    const made = make("td", { className, "data-label": heading });
    made.append(content instanceof Node ? content : String(content ?? ""));
    return made;
  })));
  replace(element(id), [make("table", {}, [make("thead", {}, [head]), make("tbody", {}, body)])]);
}

const coloured = (status) => make("span", { text: status, className: STATUS[status] ?? "" });

export function health(answer) {
  element("health").textContent = answer.status;
  element("health").className = `badge ${HEALTH[answer.status] ?? ""}`;
  element("daemon").textContent = `version ${answer.version ?? "unknown"}, up ${duration(answer.uptime)}`;
  definitions("ready", [
    ...(answer.components ?? []).map(({ name, reason }) => [name, reason ?? "ready", reason ? "bad" : "good"]),
    ...(answer.notes ?? []).map(({ subject, note }) => [subject, note]),
  ]);
}

export function stream(answer) {
  const state = answer.paused ? ["paused", "warn"] : answer.connected ? ["connected", "good"] : ["not connected", "bad"];
  const sinceReceived = answer.lastReceivedAt ? (Date.parse(answer.timestamp) - Date.parse(answer.lastReceivedAt)) / 1000 : null;
  definitions("stream", [
    ["state", ...state],
    ["from", answer.url ?? ""],
    ["cursor", answer.cursor ?? "none yet"],
    ["newest event", answer.lagSeconds === undefined ? "none yet" : `${duration(answer.lagSeconds)} old`],
    ["last frame", sinceReceived === null ? "none yet" : `${duration(sinceReceived)} ago`],
    ["dead letters", number(answer.dlqCount)],
  ]);
  element("pause").disabled = answer.paused;
  element("resume").disabled = !answer.paused;
}

export function overview(answer) {
  const { repoStates = [], repos = 0, verified, ...counts } = answer;
  definitions("index", Object.entries(counts).map(([name, count]) => [name, number(count)]));
  definitions("repos", [
    ["tracked", number(repos)],
    ...(verified === undefined ? [] : [["verified in 24 h", number(verified)]]),
    ...repoStates.map(({ state, repos: count }) => [state, number(count)]),
  ]);
}

export function running(operations, onCancel) {
  replace(element("running"), operations.map((operation) => {
    const about = `${operation.type} ${operation.id}`;
    const { unitsProcessed = 0, totalUnits, unit = "unit" } = operation;
    const known = totalUnits !== undefined;
    const bar = make("progress", known ? { max: Math.max(totalUnits, 1), value: Math.min(unitsProcessed, totalUnits), "aria-label": about } : { "aria-label": about });
    const parts = [
      `${number(unitsProcessed)}${known ? ` of ${number(totalUnits)}` : ""} ${unit}s`,
      `${number(operation.recordsProcessed)} records`,
      operation.rate ? `${number(operation.rate)} a minute` : null,
      operation.eta ? `done in ${duration((Date.parse(operation.eta) - Date.now()) / 1000)}` : null,
      operation.unitsFailed ? `${number(operation.unitsFailed)} failed` : null,
      `since ${time(operation.startedAt)}`,
    ];
    const title = `${operation.type} · ${operation.cancelRequested ? "being cancelled" : (operation.phase ?? "running")} · ${operation.mode ?? ""}`;
    const stop = button("Cancel", about, (made) => onCancel(made, operation.id));
    stop.disabled = Boolean(operation.cancelRequested);
    return make("li", {}, [make("strong", { text: title }), bar, make("span", { className: "quiet", text: parts.filter(Boolean).join(" · ") }), stop]);
  }));
}

export function history(operations) {
  table("history", [
    ["type", (o) => o.type, "short"],
    ["status", (o) => coloured(o.status), "short"],
    ["started", (o) => time(o.startedAt), "short"],
    ["took", (o) => (o.completedAt ? duration((Date.parse(o.completedAt) - Date.parse(o.startedAt)) / 1000) : ""), "short"],
    ["records", (o) => number(o.recordsProcessed), "short"],
    ["by", (o) => o.startedBy ?? ""],
    ["remarks", (o) => [o.error, o.note].filter(Boolean).join("; ")],
  ], operations, "No operation has ended yet.");
}

export function letters(answer, onRetry, onDismiss) {
  element("letters-total").textContent = answer.total > answer.entries.length ? `${number(answer.total)}, the newest ${answer.entries.length} of them` : number(answer.total);
  table("letters", [
    ["id", (l) => l.id, "short"],
    ["reason", (l) => l.errorType, "short"],
    ["what", (l) => l.uri ?? l.did ?? (l.seq === undefined ? "" : `event ${l.seq}`)],
    ["message", (l) => l.errorMessage],
    ["when", (l) => time(l.createdAt), "short"],
    ["tries", (l) => number(l.retryCount), "short"],
    ["", (l) => make("span", {}, [button("Retry", l.id, (made) => onRetry(made, l.id)), " ", button("Dismiss", l.id, (made) => onDismiss(made, l.id))]), "short"],
  ], answer.entries, "Nothing has been refused.");
}

export function gaps(rows) {
  table("gaps", [
    ["status", (g) => coloured(g.status ?? ""), "short"],
    ["reason", (g) => g.reason, "short"],
    ["stream", (g) => g.url],
    ["seqs", (g) => `${g.afterSeq ?? "…"} to ${g.beforeSeq ?? "…"}`],
    ["between", (g) => `${time(g.startedAt)} and ${time(g.endedAt)}`],
    ["repaired", (g) => time(g.repairedAt), "short"],
  ], rows, "No loss of the live stream is known.");
}

export function hosts(stats, onRescan) {
  const rows = stats.items ?? [];
  element("hosts-total").textContent = stats.total === undefined ? "" : `${number(stats.total)}: ${number(stats.healthy)} healthy, ${number(stats.unhealthy)} unhealthy, ${number(stats.withRecords)} with records`;
  table("hosts", [
    ["host", (h) => h.url],
    ["status", (h) => coloured(h.status ?? ""), "short"],
    ["repos", (h) => number(h.repoCount), "short"],
    ["records", (h) => number(h.recordCount), "short"],
    ["last scan", (h) => time(h.lastScan), "short"],
    ["next scan", (h) => time(h.nextScanAt), "short"],
    ["error", (h) => h.error ?? ""],
    ["", (h) => button("Rescan", h.url, (made) => onRescan(made, h.url)), "short"],
  ], rows, "No host is known yet.");
}

export function audit(entries) {
  table("audit", [
    ["when", (e) => time(e.timestamp), "short"],
    ["who", (e) => e.actorHandle ?? e.actorDid],
    ["action", (e) => e.action],
    ["target", (e) => e.targetUri ?? ""],
    ["outcome", (e) => e.outcome ?? "", "short"],
  ], entries, "No admin has changed anything yet.");
}
