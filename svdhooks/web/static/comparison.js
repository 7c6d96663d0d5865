// Several runs: which layers differ, since when, and by how much.

import { line } from "./colors.js";
import { createChart } from "./chart.js";
import { stepAxis } from "./curves.js";
import { card, chooser, element, fill } from "./dom.js";
import { capital, number, shortened, step, visible } from "./format.js";
import { named, table } from "./tables.js";

/** data: { comparison, runs, titles: Map(metric -> title) }; options: { onlayer(name) } */
export function createComparison(container, data, options = {}) {
  const { comparison } = data;
  const grid = element("div", { class: "cards" });
  const title = (metric) => capital(shortened(data.titles?.get(metric) ?? metric, 44));
  const groups = comparison.groups ?? [];
  fill(
    container,
    element(
      "div",
      { class: "layerhead" },
      element("h2", {}, "Runs compared"),
      element("p", { dir: "auto" }, beginning(comparison.headline ?? "")),
    ),
    overview(groups, comparison),
    comparison.rows?.length
      ? table(columns(comparison, title, options), sorted(comparison.rows), {
          limit: 6,
          caption: "Differences",
          stack: true,
        })
      : null,
    grid,
    (comparison.notes ?? [])
      .slice(0, 20)
      .map((note) => element("p", { class: "note", dir: "auto" }, visible(note).slice(0, 1000))),
    absent(comparison),
  );
  let views = [];
  let chosen = 0;

  function draw() {
    for (const view of views) view.destroy();
    views = [];
    fill(grid);
    const curve = comparison.curves?.[chosen];
    if (!curve) return;
    const list = comparison.curves.map((c, i) => [
      i,
      `${shortened(c.layer, 32)}: ${title(c.metric)}`,
    ]);
    const frame = card(`${shortened(curve.layer, 40)}: ${title(curve.metric)}`, {
      wide: true,
      note: "Lines: mean over the runs of a group; bands: one spread over its runs.",
      call: curve.call ?? comparison.call,
      controls: chooser("Show", list, chosen, (i) => {
        chosen = Number(i);
        draw();
      }),
    });
    grid.append(frame.root);
    views.push(
      createChart(frame.body, bands(curve, groups, comparison.align, title), {
        label: "Groups of runs over training",
        height: 260,
      }),
    );
  }

  draw();
  return {
    update() {
      draw();
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

/** The first sentences of a long text. */
function beginning(text) {
  const shown = visible(text);
  if (shown.length <= 600) return shown;
  const end = shown.lastIndexOf(". ", 600);
  return `${shown.slice(0, end > 200 ? end + 1 : 600)} …`;
}

function bands(curve, groups, align, title) {
  const series = [];
  const filled = [];
  const numbers = (values) => values.map((v) => (v === null ? NaN : v));
  let drawn = -1;
  groups.forEach((group) => {
    const found = curve.groups?.[group.name];
    if (!found) return;
    drawn += 1;
    const place = drawn;
    const of = (values, rest) => ({
      x: curve.x,
      y: numbers(values),
      colour: (dark) => line(place, dark),
      dash: place >= 7 ? [7, 3] : undefined,
      ...rest,
    });
    series.push(
      of(found.mean, {
        label: shortened(group.name, 30),
        title: visible(group.name).slice(0, 500),
        width: 2,
      }),
    );
    if (!found.low?.some((v) => v !== null)) return;
    const [upper, lower] = [
      of(found.high, { hidden: true, label: "high" }),
      of(found.low, { hidden: true, label: "low" }),
    ];
    series.push(upper, lower);
    filled.push([upper, lower]);
  });
  return {
    x: align === "step" ? stepAxis(curve.x) : { label: align === "loss" ? "training loss" : align },
    y: { label: title(curve.metric) },
    series,
    bands: filled,
  };
}

function overview(groups, comparison) {
  if (!groups.some((g) => g.runs.length > 1 || g.runs[0] !== g.name)) return null;
  return table(
    [
      {
        label: "Group",
        cell: (g) =>
          element(
            "span",
            {},
            named(g.name, 60),
            g.name === comparison.reference ? " (reference)" : "",
          ),
      },
      {
        label: "Runs",
        cell: (g) =>
          element("span", {}, named(g.runs.map((r) => shortened(r, 30)).join(", "), 120)),
      },
    ],
    groups,
    { caption: "Groups" },
  );
}

function columns(comparison, title, options) {
  const layer = (row) =>
    element(
      "button",
      { type: "button", class: "link", onclick: () => options.onlayer?.(row.layer, row.metric) },
      named(row.layer, 40),
    );
  const range = (row) =>
    row.low === null || row.low === undefined
      ? "–"
      : `${change(row, row.low)} … ${change(row, row.high)}`;
  const known = (key) => comparison.rows.some((r) => r[key] !== null && r[key] !== undefined);
  return [
    { label: "Layer", cell: layer },
    { label: "Measure", long: true, cell: (r) => named(title(r.metric), 44, "span") },
    { label: "Group", cell: (r) => named(r.group, 32) },
    {
      label: "Value",
      numeric: true,
      title: "Mean over the last quarter of the records",
      cell: (r) => number(r.value, 3),
    },
    { label: "Reference", numeric: true, cell: (r) => number(r.reference_value, 3) },
    { label: "Change", numeric: true, cell: (r) => change(r, r.change) },
    known("low") && { label: "95 % interval", numeric: true, cell: range },
    known("since") && {
      label: "Since",
      numeric: true,
      cell: (r) => (comparison.align === "step" ? step(r.since) : number(r.since, 3)),
    },
    known("differs") && {
      label: "Differs",
      title: "Beyond what seeds make, corrected for all rows",
      cell: (r) => (r.differs ? "yes" : r.differs === false ? "no" : "unknown"),
    },
  ].filter(Boolean);
}

function change(row, value) {
  return row.scale === "ratio" ? `× ${number(value, 3)}` : number(value, 3);
}

function sorted(rows) {
  const size = (r) =>
    r.scale === "ratio"
      ? Math.abs(Math.log(Math.max(r.change ?? 1, 1e-9)))
      : Math.abs(r.change ?? 0);
  return [...rows].sort(
    (a, b) =>
      Number(b.differs === true) - Number(a.differs === true) ||
      (a.p_adjusted ?? 2) - (b.p_adjusted ?? 2) ||
      size(b) - size(a),
  );
}

function absent({ absent: missing }) {
  const layers = Object.keys(missing ?? {});
  if (!layers.length) return null;
  return element(
    "details",
    {},
    element("summary", {}, `${layers.length} layers are not in every run`),
    table(
      [
        { label: "Layer", cell: (l) => named(l, 60) },
        { label: "Missing in", cell: (l) => named(missing[l].join(", "), 120) },
      ],
      layers,
    ),
  );
}
