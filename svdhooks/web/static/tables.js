// Tables and lists of text from a log.

import { element } from "./dom.js";
import { number, shortened, visible } from "./format.js";

const LONGEST_TITLE = 2000;

/** A name from a log: short on the page, whole on hover, of its own writing direction. */
export function named(text, room = 48, tag = "bdi") {
  const whole = visible(text);
  const short = shortened(text, room);
  const title = short === whole ? null : whole.slice(0, LONGEST_TITLE);
  return element(tag, { class: "name", title, dir: "auto" }, short);
}

/**
 * A table. columns: [{ label, title, numeric, long, told, cell(row) -> element | text }].
 * Long tables show `limit` rows and a button for the rest. With `stack`, a row is a block on
 * a phone; a `long` cell has a line of its own, a `told` one its label before it.
 */
export function table(columns, rows, { limit = 12, caption = null, stack = false } = {}) {
  const head = element(
    "tr",
    {},
    columns.map((c) =>
      element("th", { scope: "col", title: c.title, class: c.numeric ? "numeric" : null }, c.label),
    ),
  );
  const body = element("tbody");
  const line = (row) =>
    element(
      "tr",
      {},
      columns.map((c) =>
        element(
          "td",
          {
            class: [c.numeric && "numeric", c.long && "long", c.told && "told"]
              .filter(Boolean)
              .join(" "),
            "data-label": c.label,
          },
          c.cell(row),
        ),
      ),
    );
  body.append(...rows.slice(0, limit).map(line));
  const root = element(
    "div",
    {
      class: "tablewrap",
      tabIndex: rows.length ? 0 : -1,
      role: "region",
      "aria-label": caption ?? "Table",
    },
    element(
      "table",
      { class: stack ? "stack" : null },
      caption ? element("caption", {}, caption) : null,
      element("thead", {}, head),
      body,
    ),
  );
  if (rows.length <= limit) return root;
  const more = element(
    "button",
    { type: "button", class: "quiet more" },
    `Show all ${rows.length}`,
  );
  more.addEventListener("click", () => {
    body.append(...rows.slice(limit).map(line));
    more.remove();
  });
  return element("div", {}, root, more);
}

/** Names and values side by side: facts, settings, hyper-parameters. */
export function facts(pairs, cls = "facts") {
  return element(
    "dl",
    { class: cls },
    pairs.map(([label, value]) =>
      element(
        "div",
        {},
        element("dt", {}, named(label, 60, "span")),
        element("dd", {}, valued(value)),
      ),
    ),
  );
}

function valued(value) {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value, 4);
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value) && value.every((v) => typeof v !== "object"))
    return named(value.join(", ") || "–", 100, "span");
  if (typeof value === "object" && !Object.keys(value).length) return "–";
  if (typeof value === "object") return named(JSON.stringify(value), 160, "span");
  return named(value, 100, "span");
}

/** Nested settings with dots between the names of their levels. */
export function flattened(tree, prefix = "") {
  return Object.keys(tree ?? {}).flatMap((key) => {
    const value = tree[key];
    const name = prefix ? `${prefix}.${key}` : key;
    if (
      Array.isArray(value) &&
      value.length &&
      value.every((v) => v && typeof v === "object" && v.name)
    ) {
      return value.flatMap(({ name: own, ...rest }) => flattened(rest, `${name}.${own}`));
    }
    const nested =
      value && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length;
    return nested ? flattened(value, name) : [[name, value]];
  });
}
