// What figures show, as tables: for copying, and for tests.

const TABLES = new WeakMap();

/** Say how to make the table of a figure: () -> { columns: [text], rows: [[text | number]] }. */
export function tells(figure, table) {
  TABLES.set(figure, table);
}

/** The tables of all figures inside an element, in their order. */
export function tablesOf(root) {
  const figures = [...root.querySelectorAll(".plot, .heatframe")];
  return figures.map((f) => TABLES.get(f)?.()).filter(Boolean);
}
