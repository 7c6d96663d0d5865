// A heat map on a canvas: cells as an image, rows in groups, hatching, hover, keyboard.

import { element } from "./dom.js";
import { tells } from "./figures.js";
import { paintAxes, paintCells, paintSelection } from "./heatpaint.js";
import { inks } from "./theme.js";

const GAP = 4;

/**
 * Draw a matrix of colours in `container`.
 *
 * data: { rows, columns, shares (Float32Array rows × columns in [0, 1], NaN = nothing),
 *   lut (256 colours), hatched (Uint8Array | null), groups (a name per row | null),
 *   rowLabel(i), columnLabel(j), rowTitle, columnTitle, row, column (selected or -1),
 *   describe(i, j) -> text of the cell, value(i, j) -> for tables, if known, outline: [rows, columns] | null,
 *   flags: [[row, column]] to mark, or none }
 * options: { label, height(rows) -> pixels, square, margin (share of the width for names),
 *   onselect(i, j), onhover(text), apart: pixels between labels of rows }
 */
export function createHeatmap(container, data, options = {}) {
  const canvas = element("canvas", { class: "heat" });
  const over = element("canvas", {
    class: "heat over",
    tabIndex: 0,
    role: "application",
    "aria-roledescription": "heat map",
    "aria-label": `${options.label ?? "Heat map"}. Arrow keys move through rows and columns.`,
  });
  const tip = element("div", { class: "tip", role: "status", "aria-live": "polite" });
  tip.hidden = true;
  const frame = element("div", { class: "heatframe" }, canvas, over, tip);
  container.append(frame);
  tells(frame, () => (shown.value ? tabled(shown) : null));
  let shown = data;
  let place = null;
  let hover = null;

  function draw() {
    const width = Math.floor(frame.clientWidth);
    if (width < 40 || !shown.rows || !shown.columns) return;
    place = layout(shown, width, options, canvas.getContext("2d"));
    sizeCanvas(canvas, width, place.height);
    const ctx = canvas.getContext("2d");
    // names first: Chromium does not print an image that is the first thing on a canvas
    paintAxes(ctx, shown, place, inks(), options);
    paintCells(ctx, shown, place, inks());
    select();
  }

  function select() {
    if (!place) return;
    // a new size empties it; clearRect would be a white sheet over the map in print
    sizeCanvas(over, place.width, place.height);
    paintSelection(over.getContext("2d"), shown, place, inks(), hover);
  }

  function cellAt(event) {
    const box = over.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    if (!place || x < place.left || x >= place.left + place.plot || y < 0 || y > place.bottom)
      return null;
    const j = Math.min(
      shown.columns - 1,
      Math.floor(((x - place.left) / place.plot) * shown.columns),
    );
    let i = place.tops.findIndex((top) => y < top + place.row);
    if (i < 0) i = shown.rows - 1;
    return [i, j];
  }

  function show(cell, event) {
    hover = cell;
    select();
    tip.hidden = !cell;
    if (!cell) return;
    tip.textContent = shown.describe(...cell);
    const x = place.left + ((cell[1] + 0.5) / shown.columns) * place.plot;
    const y = place.tops[cell[0]];
    const room = frame.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(0, Math.min(room, x + 14))}px`;
    tip.style.top = `${y > tip.offsetHeight + 10 ? y - tip.offsetHeight - 8 : y + place.row + 10}px`;
    if (event) over.style.cursor = options.onselect ? "pointer" : "crosshair";
  }

  function choose(i, j) {
    shown.row = i;
    shown.column = j;
    options.onselect?.(i, j);
    select();
  }

  function onkey(event) {
    const moves = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      Home: [0, -1e9],
      End: [0, 1e9],
    };
    if (event.key === "Escape") return show(null);
    const move = moves[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return undefined;
    event.preventDefault();
    const from =
      shown.row >= 0 ? [shown.row, shown.column >= 0 ? shown.column : shown.columns - 1] : [0, 0];
    const i = Math.max(0, Math.min(shown.rows - 1, from[0] + move[0]));
    const j = Math.max(0, Math.min(shown.columns - 1, from[1] + move[1]));
    choose(i, j);
    return show([i, j]);
  }

  over.addEventListener("pointermove", (e) => show(cellAt(e), e));
  over.addEventListener("pointerleave", () => show(null));
  over.addEventListener("blur", () => show(null));
  over.addEventListener("click", (e) => {
    const cell = cellAt(e);
    if (cell) choose(...cell);
  });
  over.addEventListener("keydown", onkey);
  draw();
  return {
    update(next) {
      shown = next;
      hover = null;
      tip.hidden = true;
      draw();
    },
    mark(row, column) {
      shown.row = row;
      shown.column = column;
      select();
    },
    resize: draw,
    destroy() {
      frame.remove();
    },
  };
}

/** A row of the map in each row, its name first. */
function tabled(data) {
  const places = Array.from({ length: data.columns }, (_, j) => j);
  const rows = Array.from({ length: data.rows }, (_, i) => [
    data.rowLabel(i),
    ...places.map((j) => data.value(i, j)),
  ]);
  return { columns: ["", ...places.map((j) => data.columnLabel(j))], rows };
}

function sizeCanvas(canvas, width, height) {
  const pixel = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * pixel);
  canvas.height = Math.round(height * pixel);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.getContext("2d").setTransform(pixel, 0, 0, pixel, 0, 0);
}

/** Where everything goes, in CSS pixels. */
function layout(data, width, options, ctx) {
  const left = margin(data, width, options, ctx);
  const plot = width - left - 2;
  const side = Math.min(plot / data.columns, options.height(data.rows) / data.rows);
  const inner = options.square ? side * data.rows : options.height(data.rows);
  const starts = data.groups ? changes(data.groups) : [];
  const gap =
    starts.length && inner / data.rows >= 6
      ? GAP
      : starts.length && inner / data.rows >= 2.5
        ? 1
        : 0;
  const row = inner / data.rows;
  const tops = [];
  let y = row < 12 ? 7 : 1;
  for (let i = 0; i < data.rows; i++) {
    if (starts.includes(i)) y += gap;
    tops.push(y);
    y += row;
  }
  return {
    left,
    plot: options.square ? side * data.columns : plot,
    row,
    tops,
    starts,
    bottom: y,
    height: Math.ceil(y) + 36,
    width,
  };
}

function margin(data, width, options, ctx) {
  ctx.font = "12px sans-serif";
  let widest = 0;
  for (let i = 0; i < data.rows; i++)
    widest = Math.max(
      widest,
      Math.min(600, ctx.measureText(String(data.rowLabel(i)).slice(0, 90)).width),
    );
  return Math.ceil(
    Math.max(34, Math.min(widest + 22, width * (options.margin ?? (width < 480 ? 0.36 : 0.28)))),
  );
}

function changes(groups) {
  const found = [];
  for (let i = 1; i < groups.length; i++) if (groups[i] !== groups[i - 1]) found.push(i);
  return found;
}
