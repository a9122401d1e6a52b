// What counters say about the last seconds. Pure, but for what it remembers.

/** Points of a sparkline: one a second. */
export const POINTS = 90;

/** Seconds over which the rates of tables are means: one second alone would flicker. */
const WINDOW = 5;

/** A pause of more than this many seconds is a gap in a sparkline. */
const GAP = 5;

/** Remembers counters by name, and turns them into rates. */
export class Rates {
  #series = new Map();
  #process = null;
  #at = null;
  #turn = 0;

  /** Begins the reading of one status, of a process, at a time in seconds. */
  begin(process, at) {
    // The same status, shown again.
    if (this.#process === process && this.#at === at) return;
    // Counters begin anew with a process.
    if (this.#process !== null && this.#process !== process) this.#series.clear();
    this.#process = process;
    this.gap = this.#at !== null && at - this.#at > GAP;
    this.#at = at;
    this.#turn += 1;
  }

  /** Forgets what this status did not have. */
  end() {
    for (const [name, series] of this.#series) {
      if (series.turn !== this.#turn) this.#series.delete(name);
    }
  }

  /** Growth of a counter per second, over the last seconds; `null` while that is not known. */
  of(name, value) {
    const samples = this.#samples(name, value);
    if (samples === null || samples.length < 2) return null;
    const [first, last] = [samples[0], samples[samples.length - 1]];
    return (last.value - first.value) / (last.at - first.at);
  }

  /** Mean of what is summed up, over what was counted meanwhile; `null` if that was nothing. */
  mean(name, sum, number) {
    const [sums, numbers] = [this.#samples(`${name} sum`, sum), this.#samples(`${name} number`, number)];
    if (sums === null || numbers === null) return null;
    const grown = (samples) => samples[samples.length - 1].value - samples[0].value;
    return grown(numbers) > 0 ? grown(sums) / grown(numbers) : null;
  }

  /** The growth per second, second by second, for a sparkline. */
  history(name, value) {
    const samples = this.#samples(name, value);
    if (samples === null) return [];
    const series = this.#series.get(name);
    if (series.plotted !== this.#turn) {
      series.plotted = this.#turn;
      const [before, last] = samples.slice(-2);
      const known = last !== undefined && !this.gap;
      if (this.gap && series.points.length > 0) series.points.push(null);
      if (known) series.points.push((last.value - before.value) / (last.at - before.at));
      if (series.points.length > POINTS) series.points.shift();
    }
    return series.points;
  }

  #samples(name, value) {
    if (typeof value !== "number") return null;
    let series = this.#series.get(name);
    if (series === undefined) {
      series = { samples: [], points: [], turn: 0, plotted: 0 };
      this.#series.set(name, series);
    }
    const { samples } = series;
    if (series.turn !== this.#turn) {
      series.turn = this.#turn;
      const last = samples[samples.length - 1];
      // A counter that is less than it was has begun anew, and two at one time have no rate.
      if (last !== undefined && value < last.value) samples.length = 0;
      if (last === undefined || this.#at > last.at) samples.push({ at: this.#at, value });
      while (samples.length > 2 && samples[1].at <= this.#at - WINDOW) samples.shift();
    }
    return samples;
  }
}
