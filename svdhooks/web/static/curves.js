// Curves of one layer over steps: measures with the loss, local rank, ledger.

import { createChart } from "./chart.js";
import { card, element } from "./dom.js";
import { shortened, visible } from "./format.js";
import { crowded } from "./ticks.js";

const STEP = { label: "step" };

/** The axis of steps: logarithmic, where they are crowded at the start. */
export function stepAxis(steps) {
  return crowded(steps) ? { label: "step (logarithmic)", early: true } : STEP;
}

/** The loss as a thin dashed line on the right axis, or nothing. */
function lossOf(run) {
  if (!run.loss) return [];
  const label = shortened(run.loss.tag, 24);
  return [
    {
      x: run.loss.steps,
      y: run.loss.values,
      label,
      title: run.loss.tag,
      column: run.loss.tag,
      right: true,
      dash: [5, 3],
      width: 1.2,
      faint: true,
      at: 6,
    },
  ];
}

/**
 * Some measures of a layer with one unit in one chart, the loss joined in.
 *
 * data: { run, layer, step, measures: [measure], title, note, loss: true | false, others: [Run],
 *   narrow: true for half the width }
 * options: { onpick(step) }. With `others`, their curves are drawn beside (one measure only).
 */
export function createCurves(container, data, options = {}) {
  const frame = card(data.title, {
    note: data.note ?? meanings(data.measures),
    call: data.measures.map((m) => m.call),
    wide: data.others?.length > 1 && !data.narrow,
  });
  container.append(frame.root);
  let shown = data;
  const chart = createChart(frame.body, described(), {
    label: `${data.title} over steps`,
    onpick: options.onpick,
  });

  function described() {
    const { run, layer, measures } = shown;
    const series = shown.others?.length
      ? overlaid(shown)
      : measures.map((m, i) => ({
          ...run.curve(m, layer),
          label: labelled(m, measures),
          column: m.name,
          title: visible(m.meaning ?? "").slice(0, 300),
          at: i,
        }));
    const loss = shown.loss === false || shown.others?.length ? [] : lossOf(run);
    const unit = measures[0]?.unit ?? "";
    const most = ceiling(shown);
    return {
      x: STEP,
      y: { label: visible(unit).slice(0, 40), bottom: unit === "share" ? 0 : undefined },
      y2: loss.length ? { label: loss[0].label } : null,
      series: [...series, ...loss],
      rules: most ? [most] : [],
      mark: shown.step,
      flags: raised(run, layer),
    };
  }

  return {
    update(next) {
      shown = next;
      chart.update(described());
    },
    mark(value) {
      shown.step = value;
      chart.mark(value);
    },
    resize: () => chart.resize(),
    destroy() {
      chart.destroy();
      frame.root.remove();
    },
  };
}

/** Steps at which an alarm was raised for a layer, or for the run. */
function raised(run, layer) {
  return (run.alarms ?? [])
    .filter((a) => a.severity === "alarm" && (a.layer === layer || !a.layer))
    .map((a) => a.step);
}

/** The curve of one measure in several runs. */
function overlaid({ run, others, layer, measures }) {
  return [run, ...others].map((r, i) => ({
    ...r.curve(r.measure(measures[0].name), layer),
    label: shortened(r.name, 28),
    title: visible(r.name).slice(0, 500),
    at: i,
    dash: i >= 7 ? [7, 3] : undefined,
  }));
}

/** The largest possible value, where the curves come near it. */
function ceiling({ run, layer, measures }) {
  const place = run.places.get(layer);
  const most = measures[0]?.maximum?.[place];
  if (measures.length !== 1 || !Number.isFinite(most)) return null;
  const top = run.curve(measures[0], layer).y.reduce((a, b) => Math.max(a, b), 0);
  return top > 0.5 * most ? { value: most, label: "largest possible" } : null;
}

function labelled(measure, measures) {
  if (measures.length === 1) return shortened(measure.title, 36);
  return shortened(measure.short ?? measure.title, 34);
}

function meanings(measures) {
  if (measures.length > 1) return null;
  return visible(measures[0]?.meaning ?? "").slice(0, 500) || null;
}

/** Local rank with its spread over samples. data: { entry, kind, step }; options: { onpick } */
export function createLocalRank(container, data, options = {}) {
  const names = { relative: "Local rank, relative", absolute: "Local rank, absolute" };
  const bound = data.entry.bound?.some(Boolean);
  const note = [
    "Directions of the input that the layer still tells apart near the samples",
    data.entry.threshold ? `: ${visible(data.entry.threshold)}.` : ".",
    " Line: mean; band: one standard deviation; dashes: least and most.",
    bound ? " Some records are lower bounds (a sketch of the Jacobian)." : "",
  ].join("");
  const frame = card(names[data.kind] ?? data.kind, { note, call: data.entry.call });
  container.append(frame.root);
  let shown = data;
  const chart = createChart(frame.body, described(), {
    label: names[data.kind],
    onpick: options.onpick,
  });

  function described() {
    const { steps, mean, std, min, max } = shown.entry;
    const of = (y, rest) => ({ x: steps, y, at: 0, ...rest });
    const upper = of(
      mean.map((m, i) => m + std[i]),
      { label: "mean + std", hidden: true },
    );
    const lower = of(
      mean.map((m, i) => m - std[i]),
      { label: "mean − std", hidden: true },
    );
    const series = [of(mean, { label: "mean", width: 2 }), upper, lower];
    if (min && max)
      series.push(
        of(min, { label: "least", dash: [3, 3], width: 1 }),
        of(max, { label: "most", dash: [3, 3], width: 1 }),
      );
    return {
      x: stepAxis(steps),
      y: { label: "directions", bottom: 0 },
      series,
      bands: [[upper, lower]],
      mark: shown.step,
    };
  }

  return {
    update(next) {
      shown = next;
      chart.update(described());
    },
    mark(value) {
      chart.mark(value);
    },
    resize: () => chart.resize(),
    destroy() {
      chart.destroy();
      frame.root.remove();
    },
  };
}

const LEDGER = {
  input_null_share: ["Variance in directions that S drops", "share"],
  nonlinearity_removed_share: ["Variance that the nonlinearity removes", "share"],
  negative_fraction: ["Pre-activations below 0", "share"],
  dead_fraction: ["Dead units", "share"],
  always_on_fraction: ["Units that are always on", "share"],
  information: ["Information above the noise", "nats"],
  information_slope: ["Directions above the noise", "directions"],
};

/** Where a layer throws something away. data: { entry, step }; options: { onpick } */
export function createLedger(container, data, options = {}) {
  const present = Object.keys(LEDGER).filter((f) => data.entry.fields[f]?.some(Number.isFinite));
  const groups = [
    present.filter((f) => LEDGER[f][1] === "share"),
    present.filter((f) => LEDGER[f][1] !== "share"),
  ];
  const frame = card("Ledger: what V, S, U and the nonlinearity do", {
    note: "Vᵀ and U only turn. S drops what lies where its values are near zero, and the nonlinearity cuts the rest. Variances, not what matters for the task.",
    call: data.entry.call,
    wide: groups.every((g) => g.length),
  });
  frame.body.classList.toggle(
    "beside",
    groups.every((g) => g.length),
  );
  container.append(frame.root);
  let shown = data;
  const used = groups.filter((g) => g.length);
  const charts = used.map((group) => {
    const holder = element("div");
    frame.body.append(holder);
    return createChart(holder, curves(group), {
      label: "Ledger over steps",
      height: 190,
      onpick: options.onpick,
    });
  });

  function curves(group) {
    const axes = new Set(group.map((f) => LEDGER[f][1]));
    const series = group.map((f, i) => ({
      x: shown.entry.steps,
      y: shown.entry.fields[f],
      label: LEDGER[f][0],
      title: f,
      at: i,
      right: LEDGER[f][1] === "directions" && axes.size > 1,
    }));
    const first = LEDGER[group[0]][1];
    return {
      x: STEP,
      y: { label: first, bottom: 0 },
      y2: axes.size > 1 ? { label: "directions", bottom: 0 } : null,
      series,
      mark: shown.step,
    };
  }

  return {
    update(next) {
      shown = next;
      charts.forEach((chart, i) => chart.update(curves(used[i])));
    },
    mark(value) {
      shown.step = value;
      for (const chart of charts) chart.mark(value);
    },
    resize() {
      for (const chart of charts) chart.resize();
    },
    destroy() {
      for (const chart of charts) chart.destroy();
      frame.root.remove();
    },
  };
}
