// What has changed, as the gateway tells it: `GET /v1/events`.

import { element, setHidden, setText, shape } from "./dom.js";
import { clock, count, NONE } from "./words.js";

const KINDS = ["backend", "vrrp", "reload", "certificate", "gateway", "operator"];

/** Most that are shown. */
const SHOWN = 50;

/** A stream that the gateway has ended for good is asked for again after so long. */
const AGAIN_MS = 5000;

/** What was there before comes within so long. */
const REPLAY_MS = 500;

/** Fields of which others make the sentence. */
const SAID = new Set([
  "time", "kind", "cause", "from", "to", "before", "after", "who", "what", "pool", "backend", "instance", "result", "event",
]);

/** What it is about, what happened to it, and a shape for that. */
export function sentence(event) {
  const subject = event.pool !== undefined && event.backend !== undefined
    ? `${event.pool}/${event.backend}`
    : event.instance ?? event.listener ?? event.pool ?? event.what ?? event.kind ?? NONE;
  const [before, after] = [event.from ?? event.before, event.to ?? event.after];
  const turn = before !== undefined && after !== undefined ? `${show(before)} → ${show(after)}` : "";
  const kind = event.event === "transition" ? "" : words(event.event);
  const happened = [kind, turn, event.result].filter((part) => part).join(" ");
  const rest = Object.entries(event).filter(([key, value]) => !SAID.has(key) && value !== null && value !== subject);
  const more = rest.map(([key, value]) => `${key} ${show(value)}`).join(", ");
  return { subject: String(subject), happened, cause: words(event.cause), more };
}

/** What is one word to a program, as words. */
const words = (value) => (/^[a-z_]+$/.test(value ?? "") ? value.replaceAll("_", " ") : show(value ?? ""));

const show = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

const LOOKS = {
  up: ["good", "good"], down: ["bad", "bad"], ejected: ["warn", "bad"], draining: ["drain", "warn"],
  disabled: ["off", "warn"], starting: ["rise", "note"], master: ["master", "good"], backup: ["backup", "none"],
  init: ["bad", "bad"], failed: ["bad", "bad"], refused: ["bad", "bad"], ok: ["good", "good"], renewed: ["good", "good"],
  address_failed: ["bad", "bad"], guard_died: ["bad", "bad"],
};
const looksOf = (event) => LOOKS[event.to] ?? LOOKS[event.after] ?? LOOKS[event.result] ?? LOOKS[event.event] ?? ["note", "none"];

/** Listens while the page is seen. `onEvent(event)` is told of what is new since then. */
export function listen({ items, none, state }, onEvent) {
  const seen = new Set();
  const all = [];
  let source = null;
  // What comes in the first moment was there before the page, and is no news.
  let newsFrom = Infinity;
  let timer = null;

  const add = (message) => {
    let event;
    try {
      event = JSON.parse(message.data);
    } catch {
      return;
    }
    // What was told before is told again with a new stream; numbers begin anew with a process.
    const name = `${message.lastEventId} ${event.time}`;
    if (seen.has(name)) return;
    seen.add(name);
    const entry = { event, element: render(event) };
    // A process that is gone had its own numbers: time tells what came first.
    let at = all.length;
    while (at > 0 && String(all[at - 1].event.time) > String(event.time)) at -= 1;
    all.splice(at, 0, entry);
    items.insertBefore(entry.element, all[at - 1]?.element ?? null);
    while (all.length > SHOWN) {
      const old = all.shift();
      old.element.remove();
    }
    setHidden(none, true);
    if (performance.now() > newsFrom) onEvent(event);
  };

  const open = () => {
    clearTimeout(timer);
    if (document.hidden || source !== null) return;
    source = new EventSource(`v1/events?last=${SHOWN}`);
    for (const kind of KINDS) source.addEventListener(kind, add);
    source.addEventListener("message", add);
    source.addEventListener("open", () => {
      if (newsFrom === Infinity) newsFrom = performance.now() + REPLAY_MS;
      setText(state, "");
    });
    source.addEventListener("error", () => {
      setText(state, "not connected");
      // Otherwise the browser tries by itself.
      if (source?.readyState === EventSource.CLOSED) {
        close();
        timer = setTimeout(open, AGAIN_MS);
      }
    });
  };
  const close = () => {
    source?.close();
    source = null;
  };
  // A gateway has room for so many who listen: who does not look does not listen.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();
}

function render(event) {
  const { subject, happened, cause, more } = sentence(event);
  const [name, level] = looksOf(event);
  const time = element("time", { datetime: String(event.time), title: String(event.time) }, clock(event.time, Date.now()));
  const what = element("p", {}, element("b", {}, subject), happened === "" ? "" : ` ${happened}`);
  const told = element("div", {}, what);
  const why = [cause, more].filter((part) => part !== "").join(" · ");
  if (why !== "") told.append(element("p", { class: "cause" }, why));
  const kind = element("span", { class: "kind" }, String(event.kind ?? ""));
  const item = element("li", { "data-level": level }, shape(name), time, told, kind);
  return item;
}

/** What a screen reader is told: a few words, and never more than one message in a while. */
export class Announcer {
  #target;
  #waiting = [];
  #timer = null;

  constructor(target) {
    this.#target = target;
  }

  say(text) {
    this.#waiting.push(text);
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      const said = this.#waiting.splice(0);
      const extra = said.length > 3 ? ` And ${count(said.length - 3)} more changes.` : "";
      setText(this.#target, `${said.slice(0, 3).join(" ")}${extra}`);
    }, 1000);
  }
}
