// Numbers and times in words. Pure: nothing here knows the page.

const grouped = new Intl.NumberFormat("en-GB");

export const NONE = "–";

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export const count = (value) => (isNumber(value) ? grouped.format(Math.round(value)) : NONE);

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** A weight: whole if it is, else with one decimal. */
export const weight = (value) => (isNumber(value) ? String(Math.round(value * 10) / 10) : NONE);

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Bytes in the largest unit that leaves a number of at least 1. */
export function bytes(value) {
  if (!isNumber(value)) return NONE;
  let unit = 0;
  // 1023.95 would be shown as 1024.0.
  while (value >= 1023.95 && unit + 1 < UNITS.length) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(value) : value.toFixed(value < 99.95 ? 1 : 0)} ${UNITS[unit]}`;
}

/** Bytes per second. */
export const flow = (value) => (isNumber(value) ? `${bytes(value)}/s` : NONE);

/** Something per second. */
export function rate(value) {
  if (!isNumber(value)) return NONE;
  if (value > 0 && value < 0.05) return "<0.1/s";
  return `${value < 9.95 && value > 0 ? value.toFixed(1) : count(value)}/s`;
}

/** Seconds as milliseconds, with as many digits as mean something. */
export function milliseconds(seconds) {
  if (!isNumber(seconds)) return NONE;
  const value = seconds * 1000;
  if (value < 0.095) return `${Math.round(value * 1000)} µs`;
  return `${value < 9.95 ? value.toFixed(1) : count(value)} ms`;
}

/** How long: seconds up to ten minutes, then minutes, then hours. */
export function span(seconds) {
  if (!isNumber(seconds)) return NONE;
  const whole = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [
    Math.floor(whole / 86400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
  ];
  if (days > 0) return `${days}d ${hours}h`;
  if (hours > 0) return `${hours}h ${minutes}m`;
  if (minutes >= 10) return `${minutes}m`;
  return minutes > 0 ? `${minutes}m ${whole % 60}s` : `${whole}s`;
}

const two = (number) => String(number).padStart(2, "0");

/** Time of day, with the date if it is not that of `now`; both in milliseconds since 1970. */
export function clock(at, now) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return NONE;
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  if (date.toDateString() === new Date(now).toDateString()) return time;
  return `${day(date)} ${time}`;
}

/** A date as in ISO 8601, in local time. */
export const day = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;

/** Days until a time in seconds since 1970, rounded down: 0 is the last day, below is past. */
export const daysUntil = (seconds, now) => Math.floor((seconds - now / 1000) / 86400);

/** A list in words, of which the first few are shown. */
export function list(items, shown = 3) {
  if (items.length <= shown) return items.join(", ");
  return `${items.slice(0, shown).join(", ")} and ${count(items.length - shown)} more`;
}

/** With a capital at its beginning. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
