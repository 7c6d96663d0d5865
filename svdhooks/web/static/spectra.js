// Spectra of a layer: at one step among others, and as they move over training.

import { css, gradient, sequential } from "./colors.js";
import { createChart } from "./chart.js";
import { card, element, fill } from "./dom.js";
import { number, power, step, tick } from "./format.js";
import { createHeatmap } from "./heatmap.js";
import { at } from "./run.js";

const OTHERS = 7;

// below this share of the largest value is rounding, in float32
const DEPTH = 1e-5;

export const POINTS = {
  weight: ["Singular values of the weight", "σ, singular value"],
  input: ["Covariance of what enters", "λ, eigenvalue"],
  output: ["Covariance of what leaves", "λ, eigenvalue"],
  jacobian: ["Jacobian from the model's input", "σ, mean over samples"],
  heads: ["Singular values of the heads", "σ, singular value"],
  update: ["Singular values of the last update", "σ, singular value"],
  drift: ["Singular values of the change since the start", "σ, singular value"],
};

/** The values of one record of a spectrum, with their indices from 1. */
function record(spectrum, t) {
  const k = spectrum.index.length;
  return {
    x: Array.from(spectrum.index, (i) => i + 1),
    y: spectrum.values.subarray(t * k, (t + 1) * k),
  };
}

/**
 * A spectrum on logarithmic axes at a step, with some other steps faintly behind it.
 *
 * data: { spectrum, point, step, note }; options: {}
 */
export function createSpectrum(container, data) {
  const [title, unit] = POINTS[data.point] ?? [data.point, "value"];
  const frame = card(title, { call: data.spectrum.call, note: noted(data) });
  container.append(frame.root);
  let shown = data;
  const chart = createChart(frame.body, described(), {
    label: `${title}, on logarithmic axes`,
    values: false,
  });

  function described() {
    const { spectrum } = shown;
    const now = at(spectrum.steps, shown.step ?? Infinity);
    const last = spectrum.steps.length - 1;
    const others = last > 0 ? spreadOver(last) : [];
    const series = others.map((t) => ({
      ...record(spectrum, t),
      label: `step ${step(spectrum.steps[t])}`,
      hidden: false,
      faint: true,
      width: 1,
      colour: () => css(sequential(), 0.08 + (0.84 * t) / last),
    }));
    series.push({
      ...record(spectrum, now),
      label: `step ${step(spectrum.steps[now])}`,
      width: 2.4,
      faint: true,
      colour: (dark) => (dark ? "#ffffff" : "#11161b"),
    });
    const rules = spectrum.edge ? [{ value: spectrum.edge[now], label: "" }] : [];
    const depth = shown.point === "input" || shown.point === "output" ? DEPTH ** 2 : DEPTH;
    return {
      x: { label: "index (logarithmic)", log: true },
      y: { label: unit, log: true, depth },
      series,
      rules,
      legend: ends(spectrum, now),
    };
  }

  return {
    update(next) {
      shown = next;
      frame.caption.textContent = noted(next);
      frame.caption.hidden = !frame.caption.textContent;
      chart.update(described());
    },
    mark(value) {
      shown.step = value;
      chart.update(described());
    },
    resize: () => chart.resize(),
    destroy() {
      chart.destroy();
      frame.root.remove();
    },
  };
}

/** The key: a thick line for now, and the colours of the steps behind it. */
function ends(spectrum, now) {
  const last = spectrum.steps.length - 1;
  const current = element(
    "span",
    { class: "key" },
    element("i", { class: "swatch thick" }),
    `step ${step(spectrum.steps[now])}`,
    finite(spectrum, now) ? null : element("b", {}, "not finite"),
  );
  const edge = spectrum.edge?.[now];
  const noise = edge > 0
    ? [
        element(
          "span",
          { class: "key" },
          element("i", { class: "swatch dashed" }),
          "random-matrix edge",
          element("b", {}, number(edge)),
        ),
      ]
    : [];
  if (!last) return [current, ...noise];
  return [
    current,
    ramp(`step ${step(spectrum.steps[0])}`, `step ${step(spectrum.steps[last])}`),
    ...noise,
  ];
}

function finite(spectrum, t) {
  const k = spectrum.index.length;
  return spectrum.values.subarray(t * k, (t + 1) * k).some(Number.isFinite);
}

/** A small bar of colours between two words. */
function ramp(from, to) {
  return element(
    "span",
    { class: "key" },
    from,
    element("i", { class: "ramp", style: { background: gradient(sequential()) } }),
    to,
  );
}

function spreadOver(last) {
  const count = Math.min(OTHERS, last + 1);
  return [
    ...new Set(Array.from({ length: count }, (_, i) => Math.round((i * last) / (count - 1)))),
  ];
}

function noted({ spectrum, note }) {
  const parts = [];
  if (note) parts.push(`Of the ${note}.`);
  if (spectrum.edge) parts.push("Values above the edge are no noise of independent entries.");
  if (spectrum.thinned)
    parts.push(`${spectrum.steps.length} of ${spectrum.of} records are in this page.`);
  return parts.join(" ");
}

/**
 * The same as a map: index by step, the colour is log₁₀ of the value. A click picks a step.
 *
 * data as of createSpectrum; options: { onpick(step) }
 */
export function createWaterfall(container, data, options = {}) {
  const [title] = POINTS[data.point] ?? [data.point];
  const frame = card(`${title}, over training`, {
    call: data.spectrum.call,
    note: "The largest value on top. A click goes to its step.",
  });
  container.append(frame.root);
  let shown = data;
  let described = cells();
  const key = element("div", { class: "legend" });
  const unit = element("div", { class: "units" }, element("span", {}, "index"));
  frame.body.append(key, unit);
  const map = createHeatmap(frame.body, described, {
    label: `${title}: index by step`,
    height: () => 198,
    apart: 15,
    every: 70,
    margin: 0.16,
    numeric: true,
    onselect: (i, j) => options.onpick?.(shown.spectrum.steps[j]),
  });
  tell();

  function tell() {
    const label = (POINTS[shown.point] ?? [])[1] ?? "value";
    fill(
      key,
      element("span", { class: "key" }, label),
      ramp(tick10(described.low), `${tick10(described.high)} (logarithmic)`),
    );
  }

  function cells() {
    const { spectrum } = shown;
    const [rows, columns] = [spectrum.index.length, spectrum.steps.length];
    const logs = spectrum.values.map((v) => (v > 0 ? Math.log10(v) : NaN));
    const sorted = logs.filter(Number.isFinite).sort();
    const high = sorted[sorted.length - 1] ?? 1;
    const low = Math.max(sorted[Math.floor(sorted.length * 0.01)] ?? 0, high - 8);
    const shares = new Float32Array(rows * columns);
    for (let t = 0; t < columns; t++) {
      for (let i = 0; i < rows; i++) {
        const value = logs[t * rows + i];
        shares[i * columns + t] =
          spectrum.values[t * rows + i] === 0
            ? 0
            : Math.max(0, Math.min(1, (value - low) / (high - low || 1)));
      }
    }
    return {
      rows,
      columns,
      shares,
      low,
      high,
      lut: sequential(),
      hatched: null,
      groups: null,
      rowLabel: (i) => tick(spectrum.index[i] + 1),
      columnLabel: (j) => tick(spectrum.steps[j]),
      columnTitle: "step, one column per record",
      row: -1,
      column: at(spectrum.steps, shown.step ?? Infinity),
      value: (i, j) => spectrum.values[j * rows + i],
      describe: (i, j) =>
        `index ${step(spectrum.index[i] + 1)} · step ${step(spectrum.steps[j])} · ${number(spectrum.values[j * rows + i], 3)}`,
    };
  }

  return {
    update(next) {
      shown = next;
      described = cells();
      tell();
      map.update(described);
    },
    mark(value) {
      shown.step = value;
      map.mark(-1, at(shown.spectrum.steps, value));
    },
    resize: () => map.resize(),
    destroy() {
      map.destroy();
      frame.root.remove();
    },
  };
}

function tick10(exponent) {
  const rounded = Math.round(exponent);
  return Math.abs(exponent - rounded) < 0.05 ? power(rounded) : number(10 ** exponent, 2);
}
