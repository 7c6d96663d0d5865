// Lines over steps or indices: uPlot with our axes, a legend above the plot, and marks.

import uPlot from "./uPlot.esm.js";
import { line } from "./colors.js";
import { element, fill } from "./dom.js";
import { tells } from "./figures.js";
import { number, step, tick } from "./format.js";
import { marks } from "./marks.js";
import { FONT, inks, isDark } from "./theme.js";
import { linearTicks, logTicks, timeTicks } from "./ticks.js";

const HEIGHT = 232;

/**
 * Draw lines in `container`.
 *
 * data: { x: { label, log, early (asinh: much time for the first steps) }, y: { label, log, depth (share of the top at which it ends), bottom }, y2: { label } | null,
 *   series: [{ label, x, y, colour | at (index of a colour), width, dash, right, faint, hidden, digits, column (its name in tables) }],
 *   bands: [[upper series, lower series]], rules: [{ value, label }], mark: x | null,
 *   flags: x at which alarms were raised }
 * options: { height, onpick(x), label (for readers of screens), values: false for no legend values }
 */
export function createChart(container, data, options = {}) {
  const legend = element("div", { class: "legend" });
  const units = element("div", { class: "units" }, element("span"), element("span"));
  const plot = element("div", {
    class: "plot",
    role: "img",
    "aria-label": options.label ?? "Chart",
  });
  container.append(legend, units, plot);
  tells(plot, () => (chart ? tabled(chart, shown) : null));
  let chart = null;
  let shown = data;
  let width = 0;

  function build() {
    chart?.destroy();
    chart = null;
    width = Math.floor(plot.clientWidth);
    const usable = shown.series.filter((s) => s.x.length);
    if (!usable.length || width < 40) return;
    const [aligned, present] = align(usable, shown);
    chart = new uPlot(settings(present, width), aligned, plot);
    describe(present);
  }

  function describe(series) {
    const dark = isDark();
    if (options.values === false) {
      fill(legend, ...(shown.legend ?? []));
      legend.hidden = !shown.legend;
    } else fill(legend, ...keys(series, dark));
    units.firstChild.textContent = shown.y.label ?? "";
    units.lastChild.textContent = shown.y2?.label ?? "";
    read(null);
  }

  function keys(series, dark) {
    return series.map((s) => {
      if (s.hidden) return null;
      const value = element("b", {});
      s.value = value;
      const swatch = element("i", {
        class: s.dash ? "swatch dashed" : "swatch",
        style: { color: colour(s, dark) },
      });
      return element(
        "span",
        { class: "key" },
        swatch,
        element("span", { title: s.title }, s.label),
        value,
      );
    });
  }

  function read(index) {
    if (!chart || options.values === false) return;
    const at = index ?? nearest(chart.data[0], shown.mark ?? Infinity);
    shown.drawn.forEach((s, i) => {
      if (s.value) s.value.textContent = number(atOrBefore(chart.data[i + 1], at), s.digits ?? 3);
    });
    legend.dataset.at = step(chart.data[0][at]);
  }

  function settings(series, room) {
    const side = {
      stroke: () => inks().muted,
      grid: { stroke: () => inks().grid, width: 1 },
      ticks: { show: false },
      font: `11px ${FONT}`,
      gap: 6,
    };
    const axes = [
      {
        ...side,
        ...ticking(shown.x, room / 70),
        size: 26,
        label: shown.x.label,
        labelSize: 15,
        labelGap: 0,
        labelFont: `11px ${FONT}`,
      },
      { ...side, ...ticking(shown.y, 5), size: sized },
    ];
    const scales = { x: scale(shown.x, true), y: scale(shown.y, false) };
    if (shown.y2) {
      axes.push({
        ...side,
        ...ticking(shown.y2, 5),
        scale: "y2",
        side: 1,
        size: sized,
        grid: { show: false },
      });
      scales.y2 = scale(shown.y2, false);
    }
    return {
      width: room,
      height: options.height ?? HEIGHT,
      padding: [8, shown.y2 ? 2 : 20, 0, 0],
      legend: { show: false },
      scales,
      axes,
      series: [{}, ...series.map(lined)],
      bands: (shown.bands ?? []).map(([a, b]) => ({
        series: [series.indexOf(a) + 1, series.indexOf(b) + 1],
        fill: () => `${colour(a, isDark())}2b`,
      })),
      cursor: { points: { size: 6 }, drag: { x: true, y: false, setScale: true }, y: false },
      hooks: {
        draw: [(u) => marks(u, shown, inks())],
        setCursor: [(u) => read(u.cursor.idx)],
        ready: [(u) => listen(u)],
      },
    };
  }

  function listen(u) {
    if (!options.onpick) return;
    let down = null;
    u.over.addEventListener("mousedown", (e) => {
      down = e.clientX;
    });
    u.over.addEventListener("click", (e) => {
      if (Math.abs(e.clientX - (down ?? e.clientX)) < 4 && u.cursor.idx !== null)
        options.onpick(u.data[0][u.cursor.idx]);
    });
  }

  build();
  return {
    update(next) {
      shown = next;
      build();
    },
    mark(x) {
      shown.mark = x;
      chart?.redraw(false);
      read(null);
    },
    resize() {
      build();
    },
    destroy() {
      chart?.destroy();
      container.replaceChildren();
    },
  };
}

/** What is drawn, a row for each place on the x axis. */
function tabled(chart, shown) {
  const seen = shown.drawn.map((s, i) => [s, chart.data[i + 1]]).filter(([s]) => !s.hidden);
  const columns = [shown.x.label ?? "x", ...seen.map(([s]) => s.column ?? s.label)];
  const rows = Array.from(chart.data[0], (x, i) => [x, ...seen.map(([, y]) => y[i] ?? "")]);
  return { columns, rows };
}

function align(series, shown) {
  shown.drawn = series;
  const tables = series.map((s) => [
    Array.from(s.x),
    Array.from(s.y, (v) => (usable(v, s.right ? shown.y2 : shown.y) ? v : null)),
  ]);
  return [tables.length > 1 ? uPlot.join(tables) : tables[0], series];
}

function usable(value, axis) {
  return Number.isFinite(value) && !(axis?.log && value <= 0);
}

function lined(s) {
  const sparse = s.x.length <= 40 && !s.faint;
  return {
    label: s.label,
    scale: s.right ? "y2" : "y",
    stroke: () => (s.hidden ? "transparent" : colour(s, isDark())),
    width: s.width ?? 1.6,
    dash: s.dash,
    points: { show: sparse && !s.hidden, size: 4, fill: () => colour(s, isDark()) },
  };
}

function colour(s, dark) {
  return typeof s.colour === "function" ? s.colour(dark) : (s.colour ?? line(s.at ?? 0, dark));
}

function scale(axis, along) {
  const base = { time: false };
  if (axis.early)
    return {
      ...base,
      distr: 4,
      asinh: 1,
      range: (u, low, high) => [low, high > low ? high : low + 1],
    };
  if (axis.log)
    return {
      ...base,
      distr: 3,
      range: (u, low, high) =>
        low > 0 ? widened(Math.max(low, high * (axis.depth ?? 0)), high, along) : [1, 10],
    };
  return {
    ...base,
    range: (u, low, high) => (along ? [low, high > low ? high : low + 1] : padded(low, high, axis)),
  };
}

function widened(low, high, along) {
  if (along) return [low, high > low ? high : low * 10];
  const room = Math.max((high / low) ** 0.06, 1.05);
  return [low / room, high * room];
}

function padded(low, high, axis) {
  if (low === null || high === null) return [0, 1];
  if (axis.bottom !== undefined) low = Math.min(low, axis.bottom);
  const span = high - low || Math.abs(high) || 1;
  const bottom = low >= 0 && low < 0.6 * high ? 0 : low - 0.06 * span;
  return [bottom, high + 0.06 * span];
}

function ticking(axis, count) {
  const ticks = axis.early ? timeTicks : axis.log ? logTicks : linearTicks;
  const splits = (u, i, low, high) => ticks(low, high, Math.max(2, count));
  return {
    splits,
    filter: (u, found) => found,
    values: (u, found) => found.map(axis.format ?? tick),
  };
}

function sized(u, values) {
  const longest = (values ?? []).reduce((most, text) => Math.max(most, String(text).length), 0);
  return Math.max(30, 13 + 6.4 * longest);
}

function nearest(x, value) {
  let best = 0;
  for (let i = 0; i < x.length; i++)
    if (Math.abs(x[i] - value) <= Math.abs(x[best] - value)) best = i;
  return value === Infinity ? x.length - 1 : best;
}

function atOrBefore(values, index) {
  for (let i = index; i >= 0; i--)
    if (values[i] !== null && values[i] !== undefined) return values[i];
  return null;
}
