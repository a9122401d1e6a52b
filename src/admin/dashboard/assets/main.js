// The page: asks, keeps what the tables show, and says what is wrong.

import { byId, element, keyed, setAttribute, setHidden, setShape, setText, shape, sparkline } from "./dom.js";
import { Announcer, listen, sentence as eventSentence } from "./events.js";
import { BACKENDS, CERTIFICATES, INSTANCES, LISTENERS } from "./columns.js";
import { poll } from "./poll.js";
import { POINTS, Rates } from "./rates.js";
import { beginsDown, Table } from "./table.js";
import { brief, isUsable, problems, rowId, since, summary, verdict } from "./verdict.js";
import { bytes, clock, count, daysUntil, flow, isNumber, NONE, plural, rate, sentence, span } from "./words.js";

const rates = new Rates();
const announcer = new Announcer(byId("announcements"));
const array = (value) => (Array.isArray(value) ? value : []);

/** The order of backends, in all pools. */
const order = { key: null, down: false };
const noOrder = () => ({ key: null, down: false });

function table(id, caption, columns, className) {
  const own = noOrder();
  const made = new Table({ className, caption, columns, order: own, onOrder: () => { made.markOrder(); refresh(); } });
  byId(id).append(made.element);
  return made;
}
const listeners = table("listeners-table", "Listeners: where clients connect", LISTENERS, "listeners");
const instances = table("vrrp-table", "VRRP instances: who has the floating addresses", INSTANCES, "instances");
const certificates = table("certificates-table", "Certificates in use, and until when they are valid", CERTIFICATES, "certificates");
const pools = new Map();
let poolEntries = [];

// --- what is shown ---------------------------------------------------------------------------

let last = null; // { status, ills, at }: the last answer, and when it came
let silentSince = null;
let firstVersion = null;
let judged = null;

/** Shows the last answer again, with what it means now. */
function refresh() {
  if (last === null) return;
  const { status, ills } = last;
  const now = Date.now();
  rates.begin(status.pid ?? 0, last.at / 1000);
  const totals = showListeners(status);
  showPools(status);
  showInstances(status);
  showCertificates(status, now);
  showFacts(status, totals);
  rates.end();
  showFiltered();
  showVerdict(status, ills, now);
}

function showFacts(status, totals) {
  const process = status.process ?? {};
  setText(byId("node"), status.node ?? "");
  setHidden(byId("node"), !status.node);
  setText(byId("fact-version"), status.version ?? NONE);
  setText(byId("fact-uptime"), span(status.uptime_seconds));
  setText(byId("fact-generation"), count(status.generation));
  setText(byId("fact-connections"), count(status.connections));
  setText(byId("fact-limit"), isNumber(status.max_connections) ? `of ${count(status.max_connections)}` : "");
  setText(byId("fact-new"), rate(totals.fresh));
  setText(byId("fact-in"), flow(totals.inward));
  setText(byId("fact-out"), flow(totals.outward));
  draw.fresh(totals.freshPast);
  draw.inward(totals.inwardPast);
  draw.outward(totals.outwardPast);
  const cpu = rates.of("cpu", process.cpu_seconds);
  setText(byId("fact-cpu"), cpu === null ? NONE : `${Math.round(cpu * 100)} %`);
  setText(byId("fact-memory"), bytes(process.resident_bytes));
  setText(byId("fact-files"), count(process.open_files));
}

const draw = Object.fromEntries(
  [["fresh", "spark-new"], ["inward", "spark-in"], ["outward", "spark-out"]].map(([name, id]) => [name, sparkline(byId(id), POINTS)]),
);

/** Rates and history of something that counts connections and bytes. */
function flows(key, data, plotted) {
  const names = { fresh: data.connections_total, inward: data.bytes_in, outward: data.bytes_out };
  const found = {};
  for (const [name, value] of Object.entries(names)) {
    found[name] = rates.of(`${key} ${name}`, value);
    if (plotted) found[`${name}Past`] = rates.history(`${key} ${name}`, value);
  }
  return found;
}

function showListeners(status) {
  const all = array(status.listeners);
  const totals = { connections_total: 0, bytes_in: 0, bytes_out: 0 };
  const rows = all.map((data) => {
    for (const name of Object.keys(totals)) totals[name] += data[name] ?? 0;
    const id = rowId("listener", data.name);
    const refusing = rates.of(`${id} refused`, data.refused_total);
    return { key: data.name, id, level: null, data, refusing, ...flows(id, data, true), text: texts(data.name, data.protocol, data.pool, ...array(data.bind)), up: !(refusing > 0) };
  });
  listeners.update(rows);
  setHidden(byId("listeners-table"), all.length === 0);
  setText(byId("listeners-count"), all.length > 0 ? plural(all.length, "listener") : "None is configured: nobody can connect.");
  return flows("total", totals, true);
}

function showInstances(status) {
  const all = array(status.vrrp);
  const rows = all.map((data) => {
    const level = data.state === "init" ? "bad" : null;
    return { key: data.name, id: rowId("vrrp", data.name), level, data, text: texts(data.name, data.state, data.interface, ...array(data.addresses)), up: level === null };
  });
  instances.update(rows);
  setHidden(byId("vrrp-table"), all.length === 0);
  const states = tally(all.map((instance) => instance.state), ["master", "backup", "init"]);
  setText(byId("vrrp-count"), all.length > 0 ? states : "No instance is configured: this gateway has no floating address.");
}

function showCertificates(status, now) {
  const all = array(status.certificates);
  const rows = all.map((data) => {
    const days = daysUntil(data.not_after, now);
    const level = days < 0 ? "bad" : days < 14 ? "warn" : null;
    const id = rowId("certificate", data.listener, data.file);
    return { key: `${data.listener} ${data.file}`, id, level, data, days, text: texts(data.listener, data.file, ...array(data.names)), up: level === null };
  });
  certificates.update(rows);
  setHidden(byId("certificates-table"), all.length === 0);
  const soonest = Math.min(...rows.map((row) => row.days));
  const words = soonest < 0 ? "one has expired" : `the first ends in ${plural(soonest, "day")}`;
  setText(byId("certificates-count"), rows.length > 0 ? words : "No listener ends TLS: there are none.");
}

const LEVELS = { down: "bad", ejected: "bad", draining: "note", disabled: "note" };

function backendRow(pool, data) {
  const id = rowId("backend", pool.name, data.name);
  const lifetime = data.connections_total > 0 ? data.connect_seconds_total / data.connections_total : NaN;
  const connect = rates.mean(id, data.connect_seconds_total, data.connections_total) ?? (isNumber(lifetime) ? lifetime : null);
  return {
    key: data.name,
    id,
    level: LEVELS[data.state] ?? null,
    data,
    connect,
    failing: rates.of(`${id} failures`, data.connect_failures_total),
    ...flows(id, data, false),
    text: texts(data.name, data.address, data.resolved, data.state, data.reason, pool.name),
    up: ["up", "unchecked", "starting"].includes(data.state),
  };
}

function showPools(status) {
  const all = array(status.pools);
  poolEntries = keyed(byId("pool-list"), pools, all, (pool) => pool.name, makePool, (entry, pool) => {
    const backends = array(pool.backends);
    entry.table.update(backends.map((backend) => backendRow(pool, backend)));
    const sum = (name) => backends.reduce((sum, backend) => sum + (backend[name] ?? 0), 0);
    const fresh = rates.of(`pool ${pool.name}`, sum("connections_total"));
    const usable = isUsable(pool);
    setAttribute(entry.element, "data-level", usable ? null : "bad");
    setHidden(entry.unusable, usable);
    setText(entry.states, tally(backends.map((backend) => backend.state), Object.keys(LEVELS).concat("starting", "unchecked", "up")) || "no backends");
    const retries = isNumber(pool.retries_total) ? plural(pool.retries_total, "retry", "retries") : "";
    const about = [
      String(pool.balance ?? "").replaceAll("_", " "),
      plural(sum("connections"), "connection"),
      `${rate(fresh)} new`,
      `${count(pool.queue)} waiting`,
      retries,
    ];
    about.forEach((text, index) => setText(entry.about[index], text));
    setHidden(entry.none, backends.length > 0);
    setHidden(entry.table.element, backends.length === 0);
  });
  const states = all.flatMap((pool) => array(pool.backends).map((backend) => backend.state));
  const told = tally(states, ["down", "ejected", "disabled", "draining", "starting", "unchecked", "up"]);
  setText(byId("pools-count"), all.length > 0 ? told : "None is configured.");
}

function makePool(pool) {
  const title = element("h3", { id: `title-${rowId("pool", pool.name)}`, title: pool.name }, pool.name);
  const states = element("p", { class: "states" }, "");
  // Each in a place of its own: no number moves another.
  const about = ["balance", "conns", "new", "queue", "retries"].map((name) => element("span", { class: name }, ""));
  const unusable = element("p", { class: "unusable", "data-level": "bad" }, shape("bad"), "no usable backend");
  const none = element("p", { class: "none" }, "It has no backends.");
  const made = new Table({ className: "backends", caption: `Backends of ${pool.name}`, columns: BACKENDS, order, onOrder: ordered });
  const section = element(
    "section",
    { class: "panel pool", id: rowId("pool", pool.name), "aria-labelledby": title.id, tabindex: "-1" },
    element("header", {}, title, unusable, states, element("p", { class: "about" }, ...about)),
    none,
    made.element,
  );
  return { element: section, table: made, states, about, unusable, none };
}

/** How many there are of each state, those first that are of interest. */
function tally(states, sequence) {
  const numbers = sequence.map((state) => [state, states.filter((other) => other === state).length]);
  return numbers.filter(([, number]) => number > 0).map(([state, number]) => `${count(number)} ${state}`).join(" · ");
}

// --- the verdict -----------------------------------------------------------------------------

const kept = new Map();
const well = new Map();

function showVerdict(status, ills, now) {
  const found = problems(status, now, ills);
  if (firstVersion !== null && status.version !== firstVersion) {
    const why = `This page is that of ${firstVersion}. Load it again to have the new one`;
    found.push({ key: "page", level: "note", title: `The gateway is now version ${status.version}`, why, seconds: null });
  }
  const judgement = verdict(found);
  keyed(byId("well"), well, summary(status, now), ([subject]) => subject, makeFact, (entry, [subject, text]) => {
    setText(entry.subject, subject);
    setText(entry.text, text);
  });
  keyed(byId("problems"), kept, found, (problem) => problem.key, makeProblem, (entry, problem) => {
    setAttribute(entry.element, "data-level", problem.level);
    setShape(entry.icon, { bad: "bad", warn: "warn" }[problem.level] ?? "note");
    setText(entry.title, problem.title);
    setAttribute(entry.title, "href", problem.target === undefined ? null : `#${problem.target}`);
    setText(entry.since, isNumber(problem.seconds) ? since(problem.seconds, now, clock) : "");
    setText(entry.why, problem.why ?? "");
  });
  show(judgement, brief(found));
}

function makeFact() {
  const [subject, text] = [element("dt", {}, ""), element("dd", {}, "")];
  return { element: element("div", {}, subject, text), subject, text };
}

function makeProblem() {
  const icon = shape("bad");
  const title = element("a", {}, "");
  const [when, why] = [element("span", { class: "since" }, ""), element("p", { class: "why" }, "")];
  const item = element("li", {}, icon, element("div", {}, element("p", {}, title, " ", when), why));
  return { element: item, icon, title, since: when, why };
}

const SHAPES = { bad: "bad", warn: "warn", good: "good", none: "plain" };

/** Says the verdict, in full, at the top and in the title of the page; aloud if it is another one. */
function show(judgement, short) {
  for (const [id, text] of [["verdict", judgement.text], ["chip", short]]) {
    setAttribute(byId(id), "data-level", judgement.level);
    setShape(byId(id).firstElementChild, SHAPES[judgement.level]);
    setText(byId(`${id}-text`), text);
  }
  byId("verdict").title = judgement.text;
  const where = last?.status.node ? `${last.status.node} · ` : "";
  const mark = { bad: "✗ ", warn: "! " }[judgement.level] ?? "";
  const title = `${mark}${short} · ${where}lockgate`;
  if (document.title !== title) document.title = title;
  if (judged !== null && judged !== judgement.text) announcer.say(`${judgement.text}.`);
  judged = judgement.text;
}

/** Says how old the data is: always, and loudly once the gateway does not answer. */
function showAge() {
  const age = byId("age");
  if (silentSince === null) {
    setAttribute(age, "data-level", "none");
    setText(age, last === null ? "" : "live");
    setAttribute(document.body, "data-stale", null);
    return;
  }
  const seconds = Math.floor((Date.now() - silentSince.at) / 1000);
  const shown = last === null ? "Nothing to show yet" : `What you see is from ${clock(last.at, Date.now())}, ${span((Date.now() - last.at) / 1000)} ago`;
  setAttribute(document.body, "data-stale", "");
  setAttribute(age, "data-level", "bad");
  setText(age, `${shown}. ${silentSince.cause}`);
  show({ level: "bad", text: "The gateway does not answer" }, seconds < 1 ? "No answer" : `No answer for ${span(seconds)}`);
}

// --- filter and order ------------------------------------------------------------------------

const texts = (...parts) => parts.filter((part) => part).join("\n").toLowerCase();
const [filter, troubled, orderBy] = ["filter", "troubled", "order"].map(byId);

function showFiltered() {
  const words = filter.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
  const passes = (row) => (!troubled.checked || !row.up) && words.every((word) => row.text.includes(word));
  const active = words.length > 0 || troubled.checked;
  let [shown, all] = [0, 0];
  for (const { element, table } of poolEntries) {
    const here = table.filter(passes);
    // A pool that has nothing to show leaves, unless it is itself what is wrong.
    const broken = element.dataset.level === "bad" && words.length === 0;
    setHidden(element, active && here === 0 && !broken);
    shown += here;
    all += table.size;
  }
  listeners.filter(passes);
  setText(byId("shown"), active ? `${count(shown)} of ${plural(all, "backend")}` : plural(all, "backend"));
}

function ordered() {
  for (const entry of poolEntries) entry.table.markOrder();
  orderBy.value = order.key === null ? "" : order.key;
  refresh();
}

function fillOrders() {
  orderBy.append(element("option", { value: "" }, "as configured"));
  for (const column of BACKENDS) {
    if (column.sort !== undefined) orderBy.append(element("option", { value: column.key }, column.choice ?? column.label.toLowerCase()));
  }
  orderBy.addEventListener("change", () => {
    const column = BACKENDS.find((column) => column.key === orderBy.value);
    Object.assign(order, { key: column?.key ?? null, down: column !== undefined && beginsDown(column) });
    ordered();
  });
}

// --- what is remembered ----------------------------------------------------------------------

const remembered = (key) => {
  try {
    return localStorage.getItem(`lockgate.${key}`);
  } catch {
    return null;
  }
};
const remember = (key, value) => {
  try {
    if (value === null) localStorage.removeItem(`lockgate.${key}`);
    else localStorage.setItem(`lockgate.${key}`, value);
  } catch {
    // Storage may be forbidden; then it is as it was next time.
  }
};

function chooseTheme() {
  const themes = ["system", "light", "dark"];
  const root = document.documentElement;
  const name = () => root.dataset.theme ?? "system";
  setText(byId("theme-name"), name());
  byId("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(name()) + 1) % themes.length];
    setAttribute(root, "data-theme", next === "system" ? null : next);
    remember("theme", next === "system" ? null : next);
    setText(byId("theme-name"), name());
  });
}

function listenToKeys() {
  const shortcut = byId("shortcut");
  shortcut.checked = remembered("shortcut") !== "off";
  setHidden(byId("filter-hint"), !shortcut.checked);
  shortcut.addEventListener("change", () => {
    remember("shortcut", shortcut.checked ? null : "off");
    setHidden(byId("filter-hint"), !shortcut.checked);
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input, select, textarea") && event.target.type !== "checkbox";
    if (event.key === "/" && shortcut.checked && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      filter.focus();
      filter.select();
    } else if (event.key === "Escape" && event.target === filter) {
      filter.value = "";
      showFiltered();
    }
  });
}

// --- start -----------------------------------------------------------------------------------

fillOrders();
chooseTheme();
listenToKeys();
filter.addEventListener("input", showFiltered);
troubled.addEventListener("change", showFiltered);

listen({ items: byId("event-list"), none: byId("events-none"), state: byId("events-state") }, (event) => {
  const { subject, happened, cause } = eventSentence(event);
  announcer.say(`${subject} ${happened}: ${cause}.`);
});

poll(
  (status, ills) => {
    const began = performance.now();
    if (silentSince !== null) announcer.say("The gateway answers again.");
    silentSince = null;
    firstVersion ??= status.version;
    last = { status, ills, at: Date.now() };
    refresh();
    setAttribute(document.body, "data-waiting", null);
    showAge();
    performance.measure("lockgate.render", { start: began, end: performance.now() });
    performance.clearMeasures("lockgate.render");
  },
  (error) => {
    const cause = { TimeoutError: "It takes too long.", TypeError: "No connection to it." }[error.name] ?? sentence(`${error.message}.`);
    silentSince ??= { at: last?.at ?? Date.now(), cause };
    silentSince.cause = cause;
    showAge();
  },
);
