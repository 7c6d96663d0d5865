// About the recording: its cost, what was left out, how it was set.

import { createChart } from "./chart.js";
import { card, element, fill } from "./dom.js";
import { capital, shortened, step, visible } from "./format.js";
import { facts, flattened, named, table } from "./tables.js";

const KNOWN = {
  overhead: ["Time spent on recording", "% of the training time", 100],
  seconds: ["Time of each record", "seconds", 1],
  parts_measured: ["Parts measured at each record", "parts", 1],
};

// what follows from the others
const PLAIN = new Set(["elapsed", "spent", "parts_total"]);

/** Measures of the whole run: overhead, time per record. data: a run */
export function createRunMeasures(container, data) {
  const grid = element("div", { class: "cards" });
  fill(container, grid);
  const views = (data.run_measures ?? [])
    .filter(
      (m) => m.steps.length > 1 && !PLAIN.has(m.name) && m.values.some((v) => v !== m.values[0]),
    )
    .map((m) => {
      const [title, unit, factor] = KNOWN[m.name] ?? [
        capital(shortened(m.title ?? m.name, 80)),
        shortened(m.unit ?? "", 30),
        1,
      ];
      const frame = card(title, { call: m.call });
      grid.append(frame.root);
      const chart = createChart(
        frame.body,
        {
          x: { label: "step" },
          y: { label: unit, bottom: 0 },
          series: [{ x: m.steps, y: m.values.map((v) => factor * v), label: "", at: 0 }],
        },
        { label: title, height: 170, values: false },
      );
      return chart;
    });
  return {
    update() {},
    resize: () => views.forEach((v) => v.resize()),
    destroy: () => {
      views.forEach((v) => v.destroy());
      container.replaceChildren();
    },
  };
}

/** What was skipped, what failed, what was thinned, how it was set; `empty` if nothing. data: a run */
export function createAbout(container, data) {
  const parts = [
    section(
      "Failures",
      "Records that could not be made; the values are missing there.",
      data.failures,
      failures,
    ),
    section("Not watched", "Layers that were skipped, and why.", data.skipped, skipped),
    section("Left out of this page", null, data.notes, notes),
    section("Damage of the log", null, damage(data.damage), (found) => facts(found, "facts")),
    section("Hyper-parameters", null, flattened(data.hparams), (found) =>
      facts(found, "facts small"),
    ),
    section("Settings of the recording", null, settled(data.settings), (found) =>
      facts(found, "facts small"),
    ),
  ];
  fill(container, parts);
  return {
    empty: !parts.some(Boolean),
    update() {},
    resize() {},
    destroy: () => container.replaceChildren(),
  };
}

/** Settings as names and values; options of quantities that were not set are left out. */
function settled(settings) {
  return flattened(settings)
    .filter(
      ([key, value]) => !key.startsWith("quantities.") || (value !== null && value !== undefined),
    )
    .map(([key, value]) => [key.replace(".options.", "."), value]);
}

function section(title, note, found, show) {
  if (!found?.length) return null;
  return element(
    "section",
    { class: "about" },
    element("h3", {}, title),
    note ? element("p", { class: "note" }, note) : null,
    show(found),
  );
}

function failures(rows) {
  return table(
    [
      { label: "Layer", cell: (r) => named(r[0], 56) },
      { label: "Point", cell: (r) => named(r[1], 24, "span") },
      { label: "Step", numeric: true, cell: (r) => step(r[2]) },
      { label: "What happened", cell: (r) => named(r[3], 160, "span") },
    ],
    rows,
    { limit: 8, caption: "Failures" },
  );
}

function skipped(rows) {
  return table(
    [
      { label: "Layer", cell: (r) => named(r[0], 56) },
      { label: "Reason", cell: (r) => named(r[1], 200, "span") },
    ],
    rows,
    { limit: 8, caption: "Not watched" },
  );
}

function notes(rows) {
  return element(
    "ul",
    {},
    rows.map((n) => element("li", { dir: "auto" }, visible(n).slice(0, 2000))),
  );
}

function damage(found) {
  const words = {
    bad: "Bad records, skipped",
    resynced: "Places where reading found on again",
    dropped: "Records superseded by a restart",
  };
  return flattened(found)
    .filter(([, value]) => value)
    .map(([key, value]) => [words[key] ?? key, value]);
}
