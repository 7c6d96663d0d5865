// The rank map: one measure of all layers over all records.

import { gradient } from "./colors.js";
import { card, chooser, element, fill, recomputed, switcher } from "./dom.js";
import { capital, number, shortened, step, visible } from "./format.js";
import { createHeatmap } from "./heatmap.js";
import { strokes } from "./heatpaint.js";
import { AGAINST, SCALES, scaled } from "./mapscale.js";
import { at } from "./run.js";
import { isDark } from "./theme.js";

/**
 * data: { run, measure, scale, layer, step, other: a run for scale "other" }
 * options: { onselect(layer, step), onmeasure(name), onscale(mode), title,
 *   only: the one scale, height(rows) -> pixels, extra: one more control }
 */
export function createRankMap(container, data, options = {}) {
  const controls = element("div", { class: "controls" });
  const key = element("div", { class: "mapkey" });
  const frame = card(options.title ?? "Rank map", { controls, level: "h2", wide: true });
  const call = element("div");
  const plot = element("div");
  frame.body.append(key, plot);
  frame.root.append(call);
  container.append(frame.root);
  let shown = data;
  let records = [];
  let map = null;

  function update(next) {
    shown = next;
    const measure = shown.run.measure(shown.measure) ?? shown.run.measures[0];
    if (!measure) return;
    if (!possible(shown, measure)) shown = { ...shown, scale: "absolute" };
    records = shown.run.recorded(measure);
    if (!records.length) records = Array.from(shown.run.steps, (_, t) => t);
    const colours = scaled(shown.run, measure, records, shown.scale, isDark(), shown.other);
    choices(measure);
    legend(measure, colours);
    frame.caption.hidden = false;
    frame.caption.textContent = visible(measure.meaning ?? "").slice(0, 600);
    fill(call, recomputed(measure.call));
    const cells = described(measure, colours);
    if (map) map.update(cells);
    else
      map = createHeatmap(plot, cells, {
        label: "Rank map, layers by records",
        height: options.height ?? tall,
        onselect: chosen,
      });
  }

  function choices(measure) {
    const list = shown.run.measures.map((m) => [
      m.name,
      capital(shortened(m.title, 60)),
      visible(m.meaning ?? "").slice(0, 300),
      capital(shortened(m.point || "other", 40)),
    ]);
    const scales = SCALES.filter(([mode]) => mode !== "maximum" || measure.maximum);
    if (shown.other) scales.push([AGAINST[0], `Against ${shortened(shown.other.name, 24)}`, AGAINST[2]]);
    fill(
      controls,
      options.extra,
      chooser("Measure", list, measure.name, (name) => options.onmeasure?.(name)),
      options.only ? null : switcher("Colours show", scales, shown.scale, (mode) => options.onscale?.(mode)),
    );
  }

  function described(measure, colours) {
    const { run } = shown;
    const groups = run.layers.map((l) => l.group || "");
    const m = records.length;
    return {
      rows: run.names.length,
      columns: m,
      shares: colours.shares,
      lut: colours.lut,
      hatched: hatching(measure),
      groups: new Set(groups).size > 1 ? groups : null,
      rowLabel: (i) => run.names[i],
      columnLabel: (j) => step(run.steps[records[j]]),
      columnTitle: "step, one column per record",
      flags: flagged(run),
      row: run.places.get(shown.layer) ?? -1,
      column: column(shown.step),
      describe: (i, j) => reading(measure, colours, i, j, m),
      value: (i, j) => colours.related[i * m + j],
    };
  }

  function reading(measure, colours, i, j, m) {
    const { run } = shown;
    const raw = colours.raw[i * m + j];
    const unit = measure.unit && measure.unit !== "share" ? ` ${measure.unit}` : "";
    const most = measure.maximum?.[i];
    const parts = [
      shortened(run.names[i], 60),
      `step ${step(run.steps[records[j]])}`,
      Number.isNaN(raw)
        ? "no value"
        : `${number(raw, 4)}${Number.isFinite(most) ? ` of ${number(most, 4)}` : ""}${unit}`,
    ];
    if (colours.reading && !Number.isNaN(raw))
      parts.push(colours.reading(colours.related[i * m + j], colours.beside?.[i * m + j]));
    if (measure.limited?.[records[j] * run.names.length + i])
      parts.push("too few samples: may read low");
    return parts.join(" · ");
  }

  function hatching(measure) {
    if (!measure.limited) return null;
    const wide = shown.run.names.length;
    const found = new Uint8Array(wide * records.length);
    for (let l = 0; l < wide; l++) {
      for (let j = 0; j < records.length; j++)
        found[l * records.length + j] = measure.limited[records[j] * wide + l];
    }
    return found;
  }

  function legend(measure, colours) {
    const bar = element("div", { class: "bar", style: { background: gradient(colours.lut) } });
    const ticks = element(
      "div",
      { class: "ticks" },
      colours.ticks.map(([, text]) => element("span", {}, text)),
    );
    const parts = [
      element("div", { class: "scale" }, bar, ticks),
      element("span", { class: "unit" }, visible(colours.title).slice(0, 60)),
    ];
    if (measure.limited?.some(Boolean))
      parts.push(element("span", { class: "sample" }, swatch(), "too few samples: may read low"));
    if (flagged(shown.run).length)
      parts.push(
        element(
          "span",
          { class: "sample" },
          element("span", { class: "badge alarm", "aria-hidden": "true" }, "▲"),
          "alarm raised",
        ),
      );
    if (colours.raw.some(Number.isNaN))
      parts.push(
        element("span", { class: "sample" }, element("i", { class: "missing" }), "no value"),
      );
    fill(key, ...parts);
  }

  /** Cells at which an alarm was raised. */
  function flagged(run) {
    const raised = (run.alarms ?? []).filter(
      (a) => a.severity === "alarm" && run.places.has(a.layer),
    );
    return raised.map((a) => [run.places.get(a.layer), column(a.step)]);
  }

  function column(value) {
    if (value === null || value === undefined || !records.length) return -1;
    return at(
      records.map((t) => shown.run.steps[t]),
      value,
    );
  }

  function chosen(i, j) {
    options.onselect?.(shown.run.names[i], shown.run.steps[records[j]]);
  }

  update(data);
  return {
    update,
    mark(layer, value) {
      shown.layer = layer;
      shown.step = value;
      map?.mark(shown.run.places.get(layer) ?? -1, column(value));
    },
    resize: () => update(shown),
    destroy: () => frame.root.remove(),
  };
}

/** Whether a scale can be shown of a measure. */
function possible({ scale, other }, measure) {
  if (scale === "maximum") return Boolean(measure.maximum);
  return scale !== "other" || Boolean(other);
}

/** 20 pixels a layer; many layers share the height of a screen, or a little more. */
function tall(rows) {
  return rows <= 26 ? Math.max(20 * rows, 60) : Math.max(520, Math.min(1000, rows * 2));
}

function swatch() {
  const canvas = element("canvas", { class: "hatched", width: 22, height: 12 });
  const ctx = canvas.getContext("2d");
  ctx.fillStyle = "#3b7f87";
  ctx.fillRect(0, 0, 22, 12);
  ctx.fillStyle = strokes(ctx);
  ctx.fillRect(0, 0, 22, 12);
  return canvas;
}
