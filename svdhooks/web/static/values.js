// Where there is one record only, a table says more than curves: layers by measures.

import { element } from "./dom.js";
import { capital, number, shortened, visible } from "./format.js";
import { named, table } from "./tables.js";

const MOST = 8;

/** data: a run of one record; options: { onlayer(name) } */
export function createValues(container, data, options = {}) {
  const some = data.measures.filter((m) => m.values.some(Number.isFinite));
  const shown = [...some.filter((m) => m.headline), ...some.filter((m) => !m.headline)].slice(0, MOST);
  const pick = (name) => element("button", { type: "button", class: "link", onclick: () => options.onlayer?.(name) }, named(name, 48));
  const columns = [
    { label: "Layer", cell: (i) => pick(data.names[i]) },
    { label: "Out × in", numeric: true, cell: (i) => data.layers[i].shape?.join(" × ") ?? "–" },
    ...shown.map((m) => ({
      label: capital(shortened(m.title, 28)), title: visible(m.meaning ?? "").slice(0, 300), numeric: true, cell: (i) => number(m.values[i], 4),
    })),
  ];
  container.replaceChildren(table(columns, data.names.map((_, i) => i), { limit: 30, caption: "Values of all layers" }));
  return { update() {}, resize() {}, destroy: () => container.replaceChildren() };
}
