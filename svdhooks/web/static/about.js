// About the recording: its cost, what was left out, how it was set.

import { createChart } from "./chart.js";
import { card, element, fill } from "./dom.js";
import { step, visible } from "./format.js";
import { facts, flattened, named, table } from "./tables.js";

/** Measures of the whole run: overhead, time per record. data: a run */
export function createRunMeasures(container, data) {
  const grid = element("div", { class: "cards" });
  fill(container, grid);
  const views = (data.run_measures ?? []).filter((m) => m.steps.length > 1).map((m) => {
    const share = /overhead|share/.test(m.name);
    const frame = card(visible(m.title ?? m.name).slice(0, 90), {});
    grid.append(frame.root);
    const chart = createChart(frame.body, {
      x: { label: "step" }, y: { label: share ? "% of the training time" : visible(m.unit ?? "").slice(0, 30), bottom: 0 },
      series: [{ x: m.steps, y: share ? m.values.map((v) => 100 * v) : m.values, label: "", at: 0 }],
    }, { label: visible(m.title ?? m.name).slice(0, 200), height: 170, values: false });
    return chart;
  });
  return { update() {}, resize: () => views.forEach((v) => v.resize()), destroy: () => { views.forEach((v) => v.destroy()); container.replaceChildren(); } };
}

/** What was skipped, what failed, what was thinned, how it was set. data: a run */
export function createAbout(container, data) {
  const parts = [
    section("Failures", "Records that could not be made; the values are missing there.", data.failures, failures),
    section("Not watched", "Layers that were skipped, and why.", data.skipped, skipped),
    section("Left out of this page", null, data.notes, notes),
    section("Damage of the log", null, damage(data.damage), (found) => facts(found, "facts")),
    section("Hyper-parameters", null, flattened(data.hparams), (found) => facts(found, "facts small")),
    section("Settings of the recording", null, flattened(data.settings), (found) => facts(found, "facts small")),
  ];
  fill(container, parts);
  return { update() {}, resize() {}, destroy: () => container.replaceChildren() };
}

function section(title, note, found, show) {
  if (!found?.length) return null;
  return element("section", { class: "about" }, element("h3", {}, title), note ? element("p", { class: "note" }, note) : null, show(found));
}

function failures(rows) {
  return table([
    { label: "Layer", cell: (r) => named(r[0], 56) }, { label: "Point", cell: (r) => named(r[1], 24, "span") },
    { label: "Step", numeric: true, cell: (r) => step(r[2]) }, { label: "What happened", cell: (r) => named(r[3], 160, "span") },
  ], rows, { limit: 8, caption: "Failures" });
}

function skipped(rows) {
  return table([{ label: "Layer", cell: (r) => named(r[0], 56) }, { label: "Reason", cell: (r) => named(r[1], 200, "span") }], rows, { limit: 8, caption: "Not watched" });
}

function notes(rows) {
  return element("ul", {}, rows.map((n) => element("li", { dir: "auto" }, visible(n).slice(0, 2000))));
}

function damage(found) {
  const words = { bad: "Bad records, skipped", resynced: "Places where reading found on again", dropped: "Records superseded by a restart" };
  return flattened(found).filter(([, value]) => value).map(([key, value]) => [words[key] ?? key, value]);
}
