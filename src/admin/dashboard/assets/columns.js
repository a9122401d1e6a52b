// The columns of each table: what a cell shows, and what rows are ordered by.

import { badge, element, setAttribute, setHidden, setText, sparkline } from "./dom.js";
import { POINTS } from "./rates.js";
import { double, number, text } from "./table.js";
import { because } from "./verdict.js";
import { count, day, flow, isNumber, list, milliseconds, NONE, plural, rate, span, weight } from "./words.js";

/** Of how many, where there is a most. */
const outOf = (most) => (most > 0 ? `of ${count(most)}` : "");

const state = (value, words = value) => (cell) => {
  const set = badge(cell);
  return (row) => set(value(row), words(row));
};

/** A name and what is to be known with it. */
const name = (tag) => (cell) => {
  const [label, note] = [element("span", { class: "main" }, ""), element("span", { class: "tag" }, "")];
  cell.append(label, note);
  return (row) => {
    setText(label, row.data.name);
    setAttribute(label, "title", row.data.name);
    const said = tag(row);
    setText(note, said);
    setHidden(note, said === "");
  };
};

const URGENCY = ["down", "ejected", "disabled", "draining", "starting", "unchecked", "up"];

/** Of the `set` of a backend: its weight, if an operator changed that. */
const isSet = ({ data }) => isNumber(data.set?.weight);

const weights = double(
  ({ data }) => weight(data.effective_weight),
  (row) => {
    if (isSet(row)) return `set, of ${weight(row.data.weight)}`;
    return row.data.effective_weight === row.data.weight ? "" : `of ${weight(row.data.weight)}`;
  },
);

const checked = ({ check }) => {
  if (!check?.result) return NONE;
  return check.result === "ok" ? milliseconds(check.seconds) : check.result;
};

export const BACKENDS = [
  { key: "name", label: "Backend", choice: "name", kind: "words", sort: ({ data }) => data.name, cell: name(({ data }) => (data.backup ? "backup" : "")) },
  {
    key: "address",
    label: "Address",
    kind: "code",
    sort: ({ data }) => data.address,
    cell: text(({ data }) => (data.resolved ? `${data.address} (${data.resolved})` : data.address)),
  },
  { key: "state", label: "State", kind: "state", sort: ({ data }) => URGENCY.indexOf(data.state), cell: state(({ data }) => data.state) },
  { key: "for", label: "For", choice: "time in state", kind: "number", hint: "How long it has been in its state", first: "up", sort: ({ data }) => data.since_seconds, cell: number(({ data }) => span(data.since_seconds)) },
  { key: "why", label: "Why", choice: "reason", kind: "words", sort: ({ data }) => data.reason, cell: text(({ data }) => data.reason ?? "") },
  { key: "weight", label: "Weight", kind: "number", hint: "What picks go by; and what is configured, if that is another number", sort: ({ data }) => data.effective_weight, cell: weights },
  { key: "conns", label: "Conns", choice: "connections", kind: "number", hint: "Connections now", sort: ({ data }) => data.connections, cell: double(({ data }) => count(data.connections), ({ data }) => outOf(data.max_connections)) },
  { key: "new", label: "New", choice: "new connections", kind: "number", hint: "New connections per second", sort: ({ fresh }) => fresh, cell: number(({ fresh }) => rate(fresh)) },
  { key: "connect", label: "Connect", choice: "time to connect", kind: "number", hint: "Mean time to connect, of the last seconds or else since the start", sort: ({ connect }) => connect, cell: number(({ connect }) => milliseconds(connect)) },
  { key: "check", label: "Check", choice: "time of the check", kind: "number", hint: "What the last health check took", sort: ({ data }) => data.check?.seconds, cell: number(({ data }) => checked(data)) },
  {
    key: "errors",
    label: "Errors",
    kind: "number",
    hint: "Connections that could not be made: per second if there are any just now, and in all",
    sort: ({ data }) => data.connect_failures_total,
    cell: (cell) => {
      const fill = double(({ data }) => count(data.connect_failures_total), ({ failing }) => (failing > 0 ? `+${rate(failing)}` : ""))(cell);
      return (row) => {
        fill(row);
        setAttribute(cell, "data-level", row.failing > 0 ? "bad" : null);
      };
    },
  },
  { key: "in", label: "In", choice: "bytes in", kind: "number", hint: "Bytes to the backend", sort: ({ inward }) => inward, cell: number(({ inward }) => flow(inward)) },
  { key: "out", label: "Out", choice: "bytes out", kind: "number", hint: "Bytes from the backend", sort: ({ outward }) => outward, cell: number(({ outward }) => flow(outward)) },
];

/** A rate with its last minute and a half. */
const plotted = (value, words, history) => (cell) => {
  const label = element("span", { class: "main" }, "");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  cell.append(label, svg);
  const draw = sparkline(svg, POINTS);
  return (row) => {
    setText(label, words(value(row)));
    draw(history(row));
  };
};

/** Why connections were refused, the most frequent first. */
const REFUSALS = /^(limited|denied|no_backend|no_route|queue_timeout|tls_failed|bad_.*)$/;
export function refusals({ closed }) {
  const reasons = Object.entries(closed ?? {}).filter(([reason, number]) => number > 0 && REFUSALS.test(reason));
  reasons.sort(([, one], [, other]) => other - one);
  const words = reasons.map(([reason, number]) => [reason.replaceAll("_", " "), count(number)]);
  // One reason alone has the number of them all.
  if (words.length === 1) return words[0][0];
  return words.map((pair) => pair.join(" ")).join(", ");
}

export const LISTENERS = [
  { key: "name", label: "Listener", kind: "words", sort: ({ data }) => data.name, cell: name(() => "") },
  { key: "address", label: "Addresses", kind: "code", cell: text(({ data }) => list(data.bind ?? [], 4)) },
  { key: "protocol", label: "Protocol", kind: "words", sort: ({ data }) => data.protocol, cell: text(({ data }) => data.protocol) },
  { key: "pool", label: "Pool", kind: "words", sort: ({ data }) => data.pool ?? "", cell: text(({ data }) => data.pool ?? NONE) },
  { key: "conns", label: "Conns", kind: "number", hint: "Connections now", sort: ({ data }) => data.connections, cell: double(({ data }) => count(data.connections), ({ data }) => outOf(data.max_connections)) },
  { key: "new", label: "New", kind: "number plot", hint: "New connections per second", sort: ({ fresh }) => fresh, cell: plotted(({ fresh }) => fresh, rate, ({ freshPast }) => freshPast) },
  { key: "in", label: "From clients", kind: "number plot", sort: ({ inward }) => inward, cell: plotted(({ inward }) => inward, flow, ({ inwardPast }) => inwardPast) },
  { key: "out", label: "To clients", kind: "number plot", sort: ({ outward }) => outward, cell: plotted(({ outward }) => outward, flow, ({ outwardPast }) => outwardPast) },
  {
    key: "refused",
    label: "Refused",
    kind: "number",
    hint: "Connections that were not served, in all, and why",
    sort: ({ data }) => data.refused_total,
    cell: (cell) => {
      const fill = double(({ data }) => count(data.refused_total), ({ data }) => refusals(data))(cell);
      return (row) => {
        fill(row);
        setAttribute(cell, "data-level", row.refusing > 0 ? "bad" : null);
      };
    },
  },
];

/** The other nodes of an instance: who was heard, with what, how long ago. */
function heard({ data }) {
  if (!Array.isArray(data.heard)) return NONE;
  if (data.heard.length === 0) {
    // Backups are silent: a master that hears nobody is what it should be.
    return data.state === "master" ? "nobody: backups are silent" : "nothing yet";
  }
  const words = ({ address, priority, ago_seconds: ago }) => `${address} priority ${priority}, ${ago < 2 ? "now" : `${span(ago)} ago`}`;
  return list(data.heard.map(words), 2);
}

const priority = ({ data }) => {
  const { effective_priority: now, priority: configured } = data;
  return now === configured ? "" : `of ${configured}`;
};

export const INSTANCES = [
  { key: "name", label: "Instance", kind: "words", cell: name(() => "") },
  { key: "interface", label: "Where", kind: "code", cell: text(({ data }) => `${data.interface} vrid ${data.vrid}`) },
  { key: "state", label: "State", kind: "state", cell: state(({ data }) => data.state) },
  { key: "for", label: "For", kind: "number", cell: number(({ data }) => span(data.since_seconds)) },
  { key: "priority", label: "Priority", kind: "number", cell: double(({ data }) => String(data.effective_priority), priority) },
  { key: "master", label: "Master", kind: "code", cell: text(({ data }) => (data.state === "master" ? `this node` : (data.master ?? "unknown"))) },
  { key: "addresses", label: "Addresses", kind: "code", cell: text(({ data }) => list(data.addresses ?? [], 3)) },
  { key: "heard", label: "Heard from the other", kind: "words", cell: text(heard) },
  { key: "why", label: "Why", kind: "words", cell: text(({ data }) => because(data)) },
];

const left = ({ days }) => (days < 0 ? "expired" : plural(days, "day"));

export const CERTIFICATES = [
  { key: "name", label: "For", kind: "words", sort: ({ data }) => data.name, cell: text(({ data }) => list(data.names ?? [], 3)) },
  { key: "listener", label: "Listener", kind: "words", sort: ({ data }) => data.listener, cell: text(({ data }) => data.listener) },
  {
    key: "left",
    label: "Left",
    kind: "state",
    sort: ({ days }) => days,
    cell: (cell) => {
      const set = badge(cell);
      return (row) => {
        const looks = row.days < 0 ? "down" : row.level === null ? "up" : "ejected";
        set(looks, left(row));
        setAttribute(cell, "data-level", row.days < 0 ? "bad" : row.level === null ? "good" : "warn");
      };
    },
  },
  { key: "until", label: "Until", kind: "number", first: "up", sort: ({ data }) => data.not_after, cell: number(({ data }) => (isNumber(data.not_after) ? day(new Date(data.not_after * 1000)) : NONE)) },
  { key: "file", label: "File", kind: "code", sort: ({ data }) => data.file, cell: text(({ data }) => data.file) },
];
