// Tables with rows that are kept by key. They are laid out as grids, so that a column is as wide
// whatever is in it; the roles that a browser would forget with the layout are written down.

import { arrange, element, keyed, setAttribute, setHidden, setText } from "./dom.js";

/** Live numbers are put in order again after this long, and only where nobody points. */
const REORDER_MS = 5000;

/**
 * A table.
 *
 * `columns` are `{ key, label, kind, hint?, sort?, cell }`: `cell(td)` prepares a cell and returns the
 * function that fills it from a row; `sort(row)` gives what rows are ordered by. `order` is
 * `{ key, down }`, shared between tables; `onOrder` is told when a heading changed it.
 */
export class Table {
  #columns;
  #order;
  #heads = [];
  #kept = new Map();
  #rows = [];
  #body;
  #ordered = 0;

  constructor({ className, caption, columns, order, onOrder }) {
    this.#columns = columns;
    this.#order = order;
    this.caption = element("caption", { class: "unseen" }, caption);
    const heads = element("tr", { role: "row" });
    for (const column of columns) {
      const head = element("th", { role: "columnheader", scope: "col", class: `${column.key} ${column.kind}` });
      if (column.sort === undefined) {
        head.append(element("span", {}, column.label));
      } else {
        const button = element("button", { type: "button" }, column.label);
        if (column.hint !== undefined) button.title = column.hint;
        button.addEventListener("click", () => {
          const first = beginsDown(column);
          // Thrice is as it was: the order of the file.
          if (order.key !== column.key) Object.assign(order, { key: column.key, down: first });
          else if (order.down === first) order.down = !first;
          else Object.assign(order, { key: null, down: false });
          onOrder();
        });
        head.append(button);
      }
      heads.append(head);
      this.#heads.push(head);
    }
    this.#body = element("tbody", { role: "rowgroup" });
    this.element = element(
      "table",
      { role: "table", class: `grid ${className}` },
      this.caption,
      element("thead", { role: "rowgroup" }, heads),
      this.#body,
    );
    this.markOrder();
  }

  /** Rows, hidden ones included. */
  get size() {
    return this.#rows.length;
  }

  /** Shows which column the order is by. */
  markOrder() {
    this.#columns.forEach((column, index) => {
      const head = this.#heads[index];
      if (column.sort === undefined) return;
      const mine = this.#order.key === column.key;
      setAttribute(head, "aria-sort", mine ? (this.#order.down ? "descending" : "ascending") : null);
    });
    this.#ordered = 0;
  }

  /** Fills the table: rows are `{ key, id, level, text, … }`. */
  update(rows) {
    const make = (row) => {
      const made = element("tr", { role: "row", id: row.id, tabindex: "-1" });
      const fills = this.#columns.map((column, index) => {
        const name = index === 0 ? "th" : "td";
        const roles = index === 0 ? { role: "rowheader", scope: "row" } : { role: "cell" };
        const cell = element(name, { ...roles, class: `${column.key} ${column.kind}`, "data-label": column.label });
        made.append(cell);
        return column.cell(cell);
      });
      return { element: made, fills, row };
    };
    const fill = (entry, row) => {
      entry.row = row;
      setAttribute(entry.element, "data-level", row.level);
      for (const fill of entry.fills) fill(row);
    };
    const before = this.#rows.length;
    // A new or a removed row comes to its place in the order of the file first.
    const names = rows.map((row) => row.key).join("\n");
    if (names !== this.names || before !== rows.length) {
      this.names = names;
      this.#rows = keyed(this.#body, this.#kept, rows, (row) => row.key, make, fill);
      this.#ordered = 0;
    } else {
      this.#rows.forEach((entry, index) => fill(entry, rows[index]));
    }
    this.#arrange();
  }

  /** Hides the rows that do not pass. Returns how many do. */
  filter(passes) {
    let shown = 0;
    for (const { element, row } of this.#rows) {
      const pass = passes(row);
      setHidden(element, !pass);
      if (pass) shown += 1;
    }
    return shown;
  }

  #arrange() {
    const now = performance.now();
    const idle = !this.#body.matches(":hover, :focus-within");
    if (this.#ordered !== 0 && (this.#order.key === null || !idle || now - this.#ordered < REORDER_MS)) return;
    this.#ordered = now;
    const column = this.#columns.find((column) => column.key === this.#order.key);
    let entries = this.#rows;
    if (column?.sort !== undefined) {
      const turn = this.#order.down ? -1 : 1;
      entries = entries
        .map((entry, index) => ({ element: entry.element, by: column.sort(entry.row), index }))
        .sort((one, other) => compare(one.by, other.by, turn) || one.index - other.index);
    }
    arrange(this.#body, entries.map((entry) => entry.element));
  }
}

/** Whether a column is first ordered from its largest number down; `first` says otherwise. */
export const beginsDown = (column) => (column.first ?? (column.kind.startsWith("number") ? "down" : "up")) === "down";

/** Numbers by size, texts as people order them, what is unknown last in either direction. */
function compare(one, other, turn) {
  if (typeof one === "number" && typeof other === "number") return turn * (one - other);
  if (typeof one === "string" && typeof other === "string") {
    return turn * one.localeCompare(other, undefined, { numeric: true });
  }
  return Number(one === null || one === undefined) - Number(other === null || other === undefined);
}

/** A cell of plain text; its whole text shows when pointed at, as it may be cut. */
export const text = (value) => (cell) => {
  cell.append("");
  return (row) => {
    const content = value(row);
    if (cell.firstChild.data === content) return;
    setText(cell, content);
    cell.title = content;
  };
};

/** A cell with a number. */
export const number = (value) => (cell) => {
  cell.append("");
  return (row) => setText(cell, value(row));
};

/** A cell with something and, quieter, something about it. */
export const double = (main, more) => (cell) => {
  const [first, second] = [element("span", { class: "main" }, ""), element("span", { class: "more" }, "")];
  cell.append(first, second);
  return (row) => {
    const [one, other] = [main(row), more(row)];
    if (first.firstChild.data !== one || second.firstChild.data !== other) {
      setText(first, one);
      setText(second, other);
      cell.title = other === "" ? one : `${one} ${other}`;
    }
  };
};
