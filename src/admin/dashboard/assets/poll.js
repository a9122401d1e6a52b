// Asks the gateway once a second, and knows how old the last answer is. Pauses while the page is hidden.

/** Between the beginnings of two questions. */
const EVERY_MS = 1000;

/** After half a minute without an answer. */
const SELDOM_MS = 3000;
const SELDOM_AFTER = 30;

/** Longest wait for an answer. */
const PATIENCE_MS = 3000;

/** Questions between two after the health of the process. */
const HEALTH_TURNS = 5;

/** Asks for ever. `onStatus(status, ills)` gets answers, `onSilence(error)` is told of each failure. */
export function poll(onStatus, onSilence) {
  let failures = 0;
  let turn = 0;
  let ills = [];
  let timer = null;
  let asking = false;

  const ask = async () => {
    timer = null;
    if (document.hidden || asking) return;
    asking = true;
    const began = performance.now();
    try {
      const status = await (await get("v1/status")).json();
      if (turn % HEALTH_TURNS === 0) ills = await health();
      turn += 1;
      failures = 0;
      onStatus(status, ills);
    } catch (error) {
      failures += 1;
      // The first thing to know when it answers again.
      turn = 0;
      onSilence(error);
    }
    asking = false;
    const every = failures > SELDOM_AFTER ? SELDOM_MS : EVERY_MS;
    timer = setTimeout(ask, Math.max(0, every - (performance.now() - began)));
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden || asking) return;
    clearTimeout(timer);
    ask();
  });
  ask();
}

async function get(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`the gateway answers ${answer.status}`);
  return answer;
}

/** Why the process is not well: the lines of a 503. */
async function health() {
  const answer = await fetch("healthz", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.ok) return [];
  return (await answer.text()).split("\n").filter((line) => line !== "");
}
