// What is wrong, since when and why. Pure: a function of the status and of now.

import { count, daysUntil, list, NONE, plural, span } from "./words.js";

/** Days before the end of a certificate from which on it is a concern: it should have been renewed. */
const DAYS = 14;

/** Share of a limit from which on it is a concern. */
const NEARLY = 0.9;

/** So many backends of a pool with one trouble are told one by one; more are told together. */
const SINGLY = 3;

/** A master that has heard another one within so many seconds is not alone. */
const HEARD_SECONDS = 3;

const BROKEN = "bad";
const CONCERN = "warn";
const NOTE = "note";

const of = (status, name) => (Array.isArray(status[name]) ? status[name] : []);

/** Whether connections can go to a pool. */
export const isUsable = (pool) =>
  typeof pool.usable === "boolean" ? pool.usable : of(pool, "backends").some((b) => b.effective_weight > 0);

export const rowId = (...names) => names.map((name) => encodeURIComponent(name)).join("/");

/** All that is not as it should be, the worst first: `{ key, level, title, why, seconds, target }`. */
export function problems(status, now, ills = []) {
  const found = [
    ...ills.map((ill) => ({ key: `ill ${ill}`, level: BROKEN, title: "The process is not well", why: ill })),
    ...of(status, "vrrp").flatMap(instance),
    ...of(status, "pools").flatMap(pool),
    ...of(status, "listeners").flatMap(listener),
    ...of(status, "certificates").flatMap((certificate) => expiring(certificate, now)),
    ...gateway(status, now),
  ];
  const rank = [BROKEN, CONCERN, NOTE];
  return found
    .map((problem, index) => ({ problem, index }))
    .sort((a, b) => rank.indexOf(a.problem.level) - rank.indexOf(b.problem.level) || a.index - b.index)
    .map(({ problem }) => problem);
}

/** The one sentence: `{ level, text }`. */
export function verdict(found) {
  const number = (level) => found.filter((problem) => problem.level === level).length;
  const [broken, concerns, notes] = [number(BROKEN), number(CONCERN), number(NOTE)];
  const also = concerns > 0 ? `, ${count(concerns)} to look at` : "";
  if (broken === 1) return { level: BROKEN, text: `${found[0].title}${also}` };
  if (broken > 1) return { level: BROKEN, text: `${count(broken)} things are broken${also}` };
  if (concerns === 1) return { level: CONCERN, text: found[0].title };
  if (concerns > 1) return { level: CONCERN, text: `${count(concerns)} things to look at, nothing broken` };
  if (notes > 0) return { level: "good", text: `All well, with ${plural(notes, "note")}` };
  return { level: "good", text: "All well" };
}

/** The same in a few words, for where there is little room. */
export function brief(found) {
  const broken = found.filter((problem) => problem.level === BROKEN).length;
  const concerns = found.filter((problem) => problem.level === CONCERN).length;
  if (broken > 0) return `${count(broken)} broken`;
  return concerns > 0 ? `${count(concerns)} to look at` : "All well";
}

/** What stands beside the troubles, and what "all well" means: pairs of a subject and a sentence. */
export function summary(status, now) {
  const backends = of(status, "pools").flatMap((pool) => of(pool, "backends"));
  const serving = backends.filter((backend) => backend.effective_weight > 0).length;
  const pairs = [
    ["Serving", `${plural(of(status, "listeners").length, "listener")}, ${plural(status.connections ?? 0, "connection")}`],
    ["Backends", backends.length === 0 ? "none" : `${count(serving)} of ${count(backends.length)} in use, in ${plural(of(status, "pools").length, "pool")}`],
  ];
  const instances = of(status, "vrrp");
  if (instances.length > 0) {
    const told = instances.map(({ name, state, master, since_seconds: seconds }) => {
      const whose = state === "backup" && master ? ` of ${master}` : "";
      return `${state}${whose} in ${name} for ${span(seconds)}`;
    });
    pairs.push(["VRRP", list(told, 2)]);
  }
  const certificates = of(status, "certificates");
  if (certificates.length > 0) {
    const days = Math.min(...certificates.map((certificate) => daysUntil(certificate.not_after, now)));
    pairs.push(["Certificates", days < 0 ? "one has expired" : `the first of ${count(certificates.length)} ends ${ends(days)}`]);
  }
  const reload = status.reloads?.last;
  if (reload) {
    pairs.push(["Last reload", `${span((now - Date.parse(reload.time)) / 1000)} ago: ${reload.result === "ok" ? reload.text : "refused"}`]);
  }
  return pairs;
}

function gateway(status, now) {
  const found = [];
  const add = (key, level, title, why, seconds = null) => found.push({ key, level, title, why, seconds });
  if (of(status, "listeners").length === 0) {
    add("idle", NOTE, "No listener is configured", "Nobody can connect: the configuration has no [[listener]]");
  }
  const { connections, max_connections: most } = status;
  if (most > 0 && connections >= most) {
    add("full", BROKEN, "No room for another connection", `All ${count(most)} are taken; further clients wait in the kernel`);
  } else if (most > 0 && connections >= NEARLY * most) {
    add("full", CONCERN, "Little room for connections", `${count(connections)} of ${count(most)} are taken`);
  }
  const files = status.process;
  if (files?.max_open_files > 0 && files.open_files >= NEARLY * files.max_open_files) {
    const why = `${count(files.open_files)} of ${count(files.max_open_files)} are open`;
    add("files", CONCERN, "Little room for open files", why);
  }
  const reload = status.reloads?.last;
  if (reload?.result === "failed") {
    const seconds = (now - Date.parse(reload.time)) / 1000;
    const why = `The configuration before it is still in use. ${reload.text ?? ""}`;
    add("reload", CONCERN, "The last reload was refused", why.trim(), seconds);
  }
  if (status.state === "draining") {
    add("stopping", CONCERN, "The gateway is stopping", `It takes no new connections; ${plural(connections, "connection")} left`);
  }
  if (status.drain) {
    const seconds = status.drain.since === undefined ? null : (now - Date.parse(status.drain.since)) / 1000;
    add("drain", CONCERN, "This node is drained", `By ${status.drain.who ?? "an operator"}`, seconds);
  }
  for (const process of of(status, "previous")) {
    const why = `Process ${process.pid} has ${plural(process.connections, "connection")} from before an upgrade`;
    add(`previous ${process.pid}`, NOTE, "An older process still drains", why, process.since_seconds);
  }
  return found;
}

/** Why a VRRP instance is in its state. */
export const because = ({ cause, reason }) => [cause?.replaceAll("_", " "), reason].filter((text) => text).join("; ");

function instance(instance) {
  const problem = (level, title, why, seconds = instance.since_seconds) => ({
    key: `vrrp ${instance.name} ${title}`,
    level,
    title: `VRRP ${instance.name} ${title}`,
    why,
    seconds,
    target: rowId("vrrp", instance.name),
  });
  if (instance.state === "init") return [problem(BROKEN, "takes no part", because(instance))];
  const found = [];
  const rivals = of(instance, "heard").filter((peer) => peer.ago_seconds < HEARD_SECONDS);
  if (instance.state === "master" && instance.since_seconds > HEARD_SECONDS && rivals.length > 0) {
    const who = rivals.map((peer) => `${peer.address} with priority ${peer.priority}`);
    found.push(problem(BROKEN, "has two masters", `This node is one, and it hears ${list(who)}`, null));
  }
  if (instance.state === "backup" && !instance.master) {
    found.push(problem(CONCERN, "knows no master", because(instance)));
  }
  if (instance.effective_priority !== instance.priority) {
    const why = instance.reason ?? `${instance.effective_priority} instead of ${instance.priority}`;
    found.push(problem(CONCERN, `has priority ${instance.effective_priority} instead of ${instance.priority}`, why, null));
  }
  return found;
}

function listener(listener) {
  const { name, connections, max_connections: most } = listener;
  if (!(most > 0) || connections < NEARLY * most) return [];
  const full = connections >= most;
  const title = full ? `Listener ${name} is full` : `Listener ${name} is nearly full`;
  const why = `${count(connections)} of ${count(most)} connections`;
  return [{ key: `full ${name}`, level: full ? BROKEN : CONCERN, title, why, target: rowId("listener", name) }];
}

function pool(pool) {
  const backends = of(pool, "backends");
  const found = [];
  const at = (title, level, why, seconds, target = rowId("pool", pool.name)) =>
    found.push({ key: `${target} ${title}`, level, title, why, seconds, target });
  if (pool.queue > 0) {
    const waiting = `${plural(pool.queue, "connection")} wait${pool.queue === 1 ? "s" : ""}`;
    at(`Pool ${pool.name} has a queue`, CONCERN, `${waiting} for a backend below its maximum`, null);
  }
  const usable = isUsable(pool);
  if (!usable) {
    const seconds = Math.min(...backends.map((backend) => backend.since_seconds ?? Infinity));
    const why = backends.length === 0 ? "It has none configured" : causes(backends);
    at(`Pool ${pool.name} has no usable backend`, BROKEN, why, Number.isFinite(seconds) ? seconds : null);
  }
  for (const [state, level] of [["down", BROKEN], ["ejected", BROKEN], ["draining", NOTE], ["disabled", NOTE]]) {
    const those = backends.filter((backend) => backend.state === state);
    // What is down is why the pool is unusable: it is said there.
    if (level === BROKEN && !usable) continue;
    if (those.length > SINGLY) {
      const title = `${count(those.length)} of ${count(backends.length)} backends of ${pool.name} are ${state}`;
      const seconds = Math.max(...those.map((backend) => backend.since_seconds ?? 0));
      at(title, level, `${causes(those)}: ${list(those.map((backend) => backend.name))}`, seconds);
    } else {
      for (const backend of those) {
        const why = level === NOTE ? setBy(backend) : (backend.reason ?? "");
        at(`${pool.name}/${backend.name} is ${state}`, level, why, backend.since_seconds, rowId("backend", pool.name, backend.name));
      }
    }
  }
  return found;
}

/** Who set a backend aside, and what of it is left. */
function setBy(backend) {
  const who = backend.set?.by ? `By ${backend.set.by}` : (backend.reason ?? "");
  return `${who}${who === "" ? "" : "; "}${plural(backend.connections, "connection")} left`;
}

/** Reasons of backends, the most frequent first. */
function causes(backends) {
  const numbers = new Map();
  for (const { reason } of backends) numbers.set(reason, (numbers.get(reason) ?? 0) + 1);
  const sorted = [...numbers].sort(([, a], [, b]) => b - a);
  if (sorted.length === 1) return `${sorted[0][0] ?? ""}`;
  return list(sorted.map(([reason, number]) => `${reason} (${count(number)})`));
}

function expiring(certificate, now) {
  const days = daysUntil(certificate.not_after, now);
  if (days >= DAYS) return [];
  const name = certificate.names?.[0] ?? certificate.file;
  const title =
    days < 0 ? `The certificate of ${name} has expired` : `The certificate of ${name} ends ${ends(days)}`;
  const target = rowId("certificate", certificate.listener, certificate.file);
  const seconds = days < 0 ? now / 1000 - certificate.not_after : null;
  return [{ key: target, level: days < 0 ? BROKEN : CONCERN, title, why: certificate.file, seconds, target }];
}

const ends = (days) => (days === 0 ? "within a day" : `in ${plural(days, "day")}`);

/** When a trouble began, in words. */
export function since(seconds, now, clock) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return NONE;
  return `since ${clock(now - seconds * 1000, now)} (${span(seconds)})`;
}
