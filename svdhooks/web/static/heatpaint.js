// The painting of a heat map, given where everything goes.

import { fitted, visible } from "./format.js";
import { FONT } from "./theme.js";
import { spaced } from "./ticks.js";

/** The cells, pixel by pixel, on an empty canvas; then what cannot be trusted is hatched. */
export function paintCells(ctx, data, place, ink) {
  const pixel = window.devicePixelRatio || 1;
  const image = ctx.createImageData(
    Math.max(1, Math.round(place.plot * pixel)),
    Math.max(1, Math.round(place.bottom * pixel)),
  );
  const pixels = new Uint32Array(image.data.buffer);
  const colours = packedColours(data.lut);
  const none = packedColours([1, 3, 5].map((i) => parseInt(ink.missing.substr(i, 2), 16)))[0];
  const columns = Int32Array.from({ length: image.width }, (_, x) =>
    Math.min(data.columns - 1, Math.floor((x / image.width) * data.columns)),
  );
  for (let i = 0; i < data.rows; i++) {
    const top = Math.round(place.tops[i] * pixel);
    const bottom = Math.max(top + 1, Math.round((place.tops[i] + place.row) * pixel));
    const from = top * image.width;
    for (let x = 0; x < image.width; x++) {
      const share = data.shares[i * data.columns + columns[x]];
      pixels[from + x] = Number.isNaN(share)
        ? none
        : colours[share <= 0 ? 0 : share >= 1 ? 255 : Math.round(share * 255)];
    }
    for (let y = top + 1; y < bottom && y < image.height; y++)
      pixels.copyWithin(y * image.width, from, from + image.width);
  }
  ctx.putImageData(image, Math.round(place.left * pixel), 0);
  if (data.hatched) hatch(ctx, data, place);
  if (data.outline) outline(ctx, data, place);
}

/** Colours as the four bytes of a pixel in memory. */
function packedColours(lut) {
  const bytes = new Uint8ClampedArray((lut.length / 3) * 4).fill(255);
  for (let i = 0; i < lut.length; i++) bytes[Math.floor(i / 3) * 4 + (i % 3)] = lut[i];
  return new Uint32Array(bytes.buffer);
}

/** Diagonal strokes, light and dark at once, so that they are seen on every colour. */
function hatch(ctx, data, place) {
  const wide = place.plot / data.columns;
  ctx.beginPath();
  for (let i = 0; i < data.rows; i++) {
    for (let j = 0; j < data.columns; j++) {
      if (!data.hatched[i * data.columns + j]) continue;
      const from = j;
      while (j < data.columns && data.hatched[i * data.columns + j]) j++;
      ctx.rect(place.left + from * wide, place.tops[i], (j - from) * wide, place.row);
    }
  }
  ctx.fillStyle = strokes(ctx);
  ctx.fill();
}

/** The pattern of hatched cells, for maps and for their key. */
export function strokes(ctx) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const t = tile.getContext("2d");
  for (const [colour, shift] of [
    ["rgba(0,0,0,.5)", 0],
    ["rgba(255,255,255,.65)", 1.4],
  ]) {
    t.strokeStyle = colour;
    t.lineWidth = 1.2;
    for (const x of [-8, 0, 8]) {
      t.beginPath();
      t.moveTo(x + shift, 8);
      t.lineTo(x + 8 + shift, 0);
      t.stroke();
    }
  }
  return ctx.createPattern(tile, "repeat");
}

function outline(ctx, data, place) {
  const [rows, columns] = data.outline;
  const width = (place.plot / data.columns) * Math.min(columns, data.columns);
  const height = place.row * Math.min(rows, data.rows);
  for (const [colour, size] of [
    ["rgba(0,0,0,.8)", 3],
    ["#ffffff", 1.4],
  ]) {
    ctx.strokeStyle = colour;
    ctx.lineWidth = size;
    ctx.strokeRect(place.left, place.tops[0], width, height);
  }
}

/** Names of rows on the left, numbers of columns below. */
export function paintAxes(ctx, data, place, ink, options) {
  ctx.font = `${options.numeric ? 11 : 12}px ${FONT}`;
  ctx.fillStyle = options.numeric ? ink.muted : ink.ink;
  ctx.textBaseline = "middle";
  ctx.textAlign = "right";
  for (const [i, text] of rowLabels(data, place, options)) {
    ctx.fillText(fitted(ctx, visible(text), place.left - 12), place.left - 9, i);
  }
  ctx.font = `11px ${FONT}`;
  ctx.fillStyle = ink.muted;
  ctx.textBaseline = "top";
  for (const j of spaced(
    data.columns,
    place.plot,
    options.every ?? 64,
    options.numeric && options.square,
  )) {
    const x = place.left + ((j + 0.5) / data.columns) * place.plot;
    const text = data.columnLabel(j);
    const half = ctx.measureText(text).width / 2;
    if (x + half > place.left + place.plot + 2 && j) continue;
    ctx.textAlign = x - half < place.left && j === 0 ? "left" : "center";
    ctx.fillRect(x - 0.5, place.bottom + 1, 1, 3);
    ctx.fillText(text, ctx.textAlign === "left" ? place.left : x, place.bottom + 6);
  }
  ctx.textAlign = "center";
  ctx.fillText(data.columnTitle ?? "", place.left + place.plot / 2, place.bottom + 20);
}

/** [y, text] of the labels for which there is room: every row's, or each group's. */
function rowLabels(data, place, options) {
  const apart = options.apart ?? 13;
  const middle = (i, j) => (place.tops[i] + place.tops[j] + place.row) / 2;
  if (place.row >= apart - 0.5) return place.tops.map((_, i) => [middle(i, i), data.rowLabel(i)]);
  const bounds = [0, ...place.starts, data.rows];
  const found = [];
  let last = -Infinity;
  if (place.starts.length && data.groups) {
    for (let g = 0; g + 1 < bounds.length; g++) {
      const y = middle(bounds[g], bounds[g + 1] - 1);
      if (y - last < apart) continue;
      found.push([y, data.groups[bounds[g]] || data.rowLabel(bounds[g])]);
      last = y;
    }
    return found;
  }
  return spaced(data.rows, place.bottom, apart, options.numeric).map((i) => [
    middle(i, i),
    data.rowLabel(i),
  ]);
}

/** The chosen row and column, and the cell under the pointer, on an empty canvas. */
export function paintSelection(ctx, data, place, ink, hover) {
  const wide = place.plot / data.columns;
  if (data.row >= 0 && data.row < data.rows) {
    const y = place.tops[data.row];
    ctx.fillStyle = ink.accent;
    ctx.beginPath();
    ctx.moveTo(place.left - 1, y + place.row / 2);
    ctx.lineTo(place.left - 7, y + place.row / 2 - 4.5);
    ctx.lineTo(place.left - 7, y + place.row / 2 + 4.5);
    ctx.fill();
    twice(ctx, ink, () => ctx.strokeRect(place.left - 0.5, y - 0.5, place.plot + 1, place.row + 1));
  }
  if (data.column >= 0 && data.column < data.columns) {
    const x = place.left + (data.column + 0.5) * wide;
    ctx.fillStyle = ink.accent;
    ctx.beginPath();
    ctx.moveTo(x, place.bottom + 1);
    ctx.lineTo(x - 4.5, place.bottom + 7);
    ctx.lineTo(x + 4.5, place.bottom + 7);
    ctx.fill();
    twice(ctx, ink, () => ctx.strokeRect(x - 0.5, 0.5, 1, place.bottom - 0.5), 0.4);
  }
  for (const [i, j] of data.flags ?? [])
    flag(ctx, ink, place.left + (j + 0.5) * wide, place.tops[i] + place.row / 2);
  if (hover) {
    const [x, y] = [place.left + hover[1] * wide, place.tops[hover[0]]];
    twice(ctx, ink, () => ctx.strokeRect(x, y, Math.max(2, wide), Math.max(2, place.row)));
  }
}

function flag(ctx, ink, x, y) {
  ctx.beginPath();
  ctx.moveTo(x, y - 6);
  ctx.lineTo(x + 6, y + 5);
  ctx.lineTo(x - 6, y + 5);
  ctx.closePath();
  ctx.fillStyle = ink.alarm;
  ctx.fill();
  ctx.strokeStyle = ink.paper;
  ctx.lineWidth = 1.5;
  ctx.stroke();
}

function twice(ctx, ink, draw, strength = 1) {
  ctx.globalAlpha = strength;
  for (const [colour, size] of [
    [ink.paper, 3],
    [ink.ink, 1.3],
  ]) {
    ctx.strokeStyle = colour;
    ctx.lineWidth = size;
    draw();
  }
  ctx.globalAlpha = 1;
}
