// Elements. Texts of the gateway (names, causes) are data from strangers: they become text nodes and
// attributes, never markup. What has not changed is not touched.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** A new element with attributes and children; a string becomes a text node. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Sets the text of an element that has nothing but one text node. */
export function setText(target, text) {
  const node = target.firstChild;
  if (node === null) target.append(text);
  else if (node.data !== text) node.data = text;
}

/** Sets an attribute; `null` removes it. */
export function setAttribute(target, name, value) {
  if (value === null) {
    if (target.hasAttribute(name)) target.removeAttribute(name);
  } else if (target.getAttribute(name) !== value) {
    target.setAttribute(name, value);
  }
}

export function setHidden(target, hidden) {
  if (target.hidden !== hidden) target.hidden = hidden;
}

/** One of the shapes at the top of the page. */
export function shape(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "shape");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#shape-${name}`);
  svg.append(use);
  return svg;
}

export function setShape(svg, name) {
  setAttribute(svg.firstElementChild, "href", `#shape-${name}`);
}

/** How a state looks: which shape, and which level of urgency colours it. */
export const STATES = {
  up: ["good", "good"],
  unchecked: ["plain", "none"],
  starting: ["rise", "note"],
  draining: ["drain", "warn"],
  disabled: ["off", "warn"],
  ejected: ["warn", "bad"],
  down: ["bad", "bad"],
  master: ["master", "good"],
  backup: ["backup", "none"],
  init: ["bad", "bad"],
};

export const looks = (state) => STATES[state] ?? ["plain", "none"];

/** A shape and a word. Returns a function that sets the state. */
export function badge(parent) {
  const icon = shape("plain");
  const word = element("span", {}, "");
  parent.append(icon, word);
  return (state, text = state) => {
    const [name, level] = looks(state);
    setShape(icon, name);
    setText(word, text);
    setAttribute(parent, "data-level", level);
  };
}

/**
 * Makes the children of `parent` those of `items`, by key, in their order. Elements that stay are
 * kept, and moved only if they have to be. `make` returns `{ element, … }`, `update` fills it.
 */
export function keyed(parent, kept, items, key, make, update) {
  const seen = new Set();
  const wanted = [];
  for (const item of items) {
    let name = key(item);
    // Names are unique in a valid configuration; if not, nothing may be lost.
    while (seen.has(name)) name += "\u0000";
    seen.add(name);
    let entry = kept.get(name);
    if (entry === undefined) {
      entry = make(item);
      kept.set(name, entry);
    }
    update(entry, item);
    wanted.push(entry);
  }
  for (const [name, entry] of kept) {
    if (!seen.has(name)) {
      entry.element.remove();
      kept.delete(name);
    }
  }
  arrange(parent, wanted.map((entry) => entry.element));
  return wanted;
}

/** Puts the children into this order, moving as few as it can see. */
export function arrange(parent, children) {
  let next = parent.firstElementChild;
  for (const child of children) {
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
  }
}

/** A sparkline of the last `points` values. Returns a function that draws values; `null` is a gap. */
export function sparkline(svg, points) {
  const [width, height] = [points - 1, 20];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("focusable", "false");
  const [area, line] = ["area", "line"].map((kind) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    svg.append(path);
    return path;
  });
  return (values) => {
    // A little above nothing, so that one connection in a minute is no mountain.
    const most = values.reduce((most, value) => Math.max(most, value ?? 0), 1);
    const first = points - values.length;
    let [above, below, start] = ["", "", null];
    const close = (last) => {
      if (start !== null) below += `L${last} ${height}L${start} ${height}Z`;
      start = null;
    };
    values.forEach((value, index) => {
      const x = first + index;
      if (value === null) {
        close(x - 1);
        return;
      }
      const y = (height - 1 - (value / most) * (height - 3)).toFixed(1);
      const step = `${start === null ? "M" : "L"}${x} ${y}`;
      above += step;
      below += step;
      start ??= x;
    });
    close(points - 1);
    setAttribute(line, "d", above);
    setAttribute(area, "d", below);
  };
}
