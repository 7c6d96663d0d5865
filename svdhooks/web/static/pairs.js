// Between layers: how the singular vectors of one layer meet those of the next.

import { sequential, gradient } from "./colors.js";
import { createChart } from "./chart.js";
import { stepAxis } from "./curves.js";
import { card, chooser, element, fill, recomputed } from "./dom.js";
import { number, shortened, step, visible } from "./format.js";
import { createHeatmap } from "./heatmap.js";

/** data: { run, pair, step }; options: { onpair(index) } */
export function createPairs(container, data, options = {}) {
  const controls = element("div", { class: "controls" });
  const bar = element(
    "header",
    { class: "layerhead" },
    element("h2", {}, "Between layers: the spectral graph"),
    element(
      "p",
      { class: "note" },
      "Each cell is ⟨v, u⟩²: how far a direction that one layer writes is one that the next layer reads. 0 is not at all, 1 is the same direction.",
    ),
    controls,
  );
  const grid = element("div", { class: "cards" });
  container.append(bar, grid);
  let shown = data;
  let views = [];

  function update(next) {
    shown = next;
    for (const view of views) view.destroy();
    views = [];
    const { pairs } = shown.run;
    const index = Math.max(0, Math.min(pairs.length - 1, Number(shown.pair) || 0));
    const list = pairs.map((p, i) => [
      i,
      `${shortened(p.source, 30)} → ${shortened(p.target, 30)}${p.stream ? " (residual stream)" : ""}`,
    ]);
    fill(
      controls,
      chooser("Pair", list, index, (i) => options.onpair?.(i)),
    );
    const pair = pairs[index];
    if (pair) views.push(createAdjacency(grid, { pair }));
    const found = (shown.run.internal ?? []).filter(
      (e) => pair && e.pair === `${pair.source}->${pair.target}` && e.steps.length > 1,
    );
    for (const entry of found)
      views.push(createInternal(grid, { entry, step: shown.step }));
  }

  update(data);
  return {
    update,
    mark(value) {
      for (const view of views) view.mark?.(value);
    },
    resize() {
      for (const view of views) view.resize();
    },
    destroy() {
      for (const view of views) view.destroy();
      container.replaceChildren();
    },
  };
}

/** The edges between two layers at one step, as a map. data: { pair } */
export function createAdjacency(container, data) {
  const { pair } = data;
  const frame = card(`Edges at step ${step(pair.step)}`, { note: told(pair) });
  frame.root.append(...[recomputed(pair.call)].filter(Boolean));
  container.append(frame.root);
  const cells = described(pair);
  frame.body.append(key(cells.top, pair));
  const map = createHeatmap(frame.body, cells, {
    label: "Edges between singular vectors",
    height: () => 340,
    square: true,
    numeric: true,
    apart: 14,
    every: 40,
    margin: 0.14,
  });
  return {
    resize: map.resize,
    destroy() {
      map.destroy();
      frame.root.remove();
    },
  };
}

/** Internal dimensions over steps. data: { entry, step } */
export function createInternal(container, { entry, step: chosen }) {
  const frame = card("Internal dimensions", {
    note: "How many leading directions of both layers talk to each other beyond chance.",
    call: [entry.calls?.out, entry.calls?.in],
  });
  container.append(frame.root);
  const of = (y, label, at) => ({ x: entry.steps, y, label, at });
  const chart = createChart(
    frame.body,
    {
      x: stepAxis(entry.steps),
      y: { label: "directions", bottom: 0 },
      mark: chosen,
      series: [of(entry.out, "later layer", 0), of(entry.in, "earlier layer", 1)],
    },
    { label: "Internal dimensions over steps", height: 300 },
  );
  return {
    mark: chart.mark,
    resize: chart.resize,
    destroy() {
      chart.destroy();
      frame.root.remove();
    },
  };
}

function described(pair) {
  const [rows, columns] = pair.adjacency.shape;
  const top = pair.adjacency.reduce((a, b) => Math.max(a, b), 0) || 1;
  const each = pair.shrunk > 1 ? pair.shrunk : 1;
  const index = (i) => String(i * each + 1);
  return {
    rows,
    columns,
    top,
    lut: sequential(),
    hatched: null,
    groups: null,
    // the root, for most edges are small
    shares: pair.adjacency.map((v) => Math.sqrt(Math.max(0, v) / top)),
    rowLabel: index,
    columnLabel: index,
    row: -1,
    column: -1,
    columnTitle: `singular vectors of ${shortened(pair.source, 30)} (earlier)`,
    outline: pair.internal ? [pair.internal[0] / each, pair.internal[1] / each] : null,
    value: (i, j) => pair.adjacency[i * columns + j],
    describe: (i, j) => {
      const value = pair.adjacency[i * columns + j];
      const beyond = Number.isFinite(pair.threshold)
        ? value > pair.threshold
          ? " · beyond chance"
          : " · within chance"
        : "";
      return `later ${index(i)} · earlier ${index(j)} · ${number(value, 3)}${beyond}`;
    },
  };
}

function key(top, pair) {
  return element(
    "div",
    { class: "mapkey" },
    element(
      "div",
      { class: "scale" },
      element("div", { class: "bar", style: { background: gradient(sequential()) } }),
      element(
        "div",
        { class: "ticks" },
        [0, 0.25, 1].map((s) => element("span", {}, number(s * top, 2))),
      ),
    ),
    element("span", { class: "unit" }, "⟨v, u⟩², colours by its root"),
    element(
      "span",
      { class: "unit" },
      `rows: singular vectors of ${shortened(pair.target, 30)} (later)`,
    ),
  );
}

function told(pair) {
  const parts = [];
  if (Number.isFinite(pair.significant)) {
    const chance = Number.isFinite(pair.expected_false)
      ? `; chance alone makes ${number(pair.expected_false, 2)}`
      : "";
    const above = Number.isFinite(pair.threshold) ? ` above ${number(pair.threshold, 2)}` : "";
    parts.push(`${number(pair.significant, 4)} edges${above}${chance}.`);
  }
  if (pair.internal)
    parts.push(
      `Framed: ${pair.internal[0]} × ${pair.internal[1]} leading directions that exceed chance most.`,
    );
  if (pair.shrunk > 1)
    parts.push(`Shown as the largest of blocks of ${pair.shrunk} × ${pair.shrunk}.`);
  if (pair.kind) parts.push(`Kind: ${visible(pair.kind).slice(0, 60)}.`);
  return parts.join(" ");
}
