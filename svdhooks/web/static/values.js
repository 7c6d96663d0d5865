// Where there is one record only, a table says more than curves: layers by measures.

import { element, recomputed } from "./dom.js";
import { capital, number, shortened, visible } from "./format.js";
import { named, table } from "./tables.js";

const MOST = 8;

/** A number on a bar that is as long as its share of the largest one. */
function barred(measure) {
  const most =
    measure.values.reduce((a, b) => (Number.isFinite(b) ? Math.max(a, Math.abs(b)) : a), 0) || 1;
  return (i) => {
    const value = measure.values[i];
    const share = Number.isFinite(value) ? Math.round((100 * Math.abs(value)) / most) : 0;
    return element(
      "span",
      { class: "barred", style: { "--share": `${share}%` } },
      number(value, 3),
    );
  };
}

/** data: a run of one record; options: { onlayer(name) } */
export function createValues(container, data, options = {}) {
  const some = data.measures.filter((m) => m.values.some(Number.isFinite));
  const shown = [...some.filter((m) => m.headline), ...some.filter((m) => !m.headline)].slice(
    0,
    MOST,
  );
  const pick = (name) =>
    element(
      "button",
      { type: "button", class: "link", onclick: () => options.onlayer?.(name) },
      named(name, 48),
    );
  const columns = [
    { label: "Layer", cell: (i) => pick(data.names[i]) },
    { label: "Out × in", numeric: true, cell: (i) => data.layers[i].shape?.join(" × ") ?? "–" },
    ...shown.map((m) => ({
      label: capital(shortened(m.title, 44)),
      title: visible(m.meaning ?? "").slice(0, 300),
      numeric: true,
      cell: barred(m),
    })),
  ];
  container.replaceChildren(
    table(
      columns,
      data.names.map((_, i) => i),
      { limit: 30, caption: "Values of all layers" },
    ),
    ...[recomputed(shown.map((m) => m.call))].filter(Boolean),
  );
  return { update() {}, resize() {}, destroy: () => container.replaceChildren() };
}
