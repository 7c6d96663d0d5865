// The strong edges between two layers, drawn as lines from direction to direction.

import { css, gradient, sequential } from "./colors.js";
import { card, element, fill } from "./dom.js";
import { tells } from "./figures.js";
import { fitted, number, shortened } from "./format.js";
import { FONT, inks, isDark } from "./theme.js";
import { linearTicks } from "./ticks.js";

const MOST = 300;
const HEIGHT = 380;
const PAD = { top: 34, bottom: 14, side: 64 };

/** The strongest edges beyond chance: [later, earlier, value], the strongest first. */
export function strongEdges(pair) {
  const columns = pair.adjacency.shape[1];
  const least = Number.isFinite(pair.threshold) ? pair.threshold : 0;
  const found = [];
  pair.adjacency.forEach((value, i) => {
    if (value > least) found.push([Math.floor(i / columns), i % columns, value]);
  });
  return found.sort((a, b) => b[2] - a[2]);
}

/** data: { pair: { source, target, adjacency, threshold, shrunk } } */
export function createEdges(container, data) {
  const canvas = element("canvas", { class: "heat" });
  const tip = element("div", { class: "tip", role: "status" });
  tip.hidden = true;
  const frame = element("div", { class: "heatframe" }, canvas, tip);
  const key = element("div", { class: "mapkey" });
  const holder = card("Strong edges");
  holder.body.append(key, frame);
  container.append(holder.root);
  let { pair } = data;
  let edges = [];
  let place = null;
  tells(frame, () => ({
    columns: [`later: ${pair.target}`, `earlier: ${pair.source}`, "edge"],
    rows: edges.map(([i, j, v]) => [numbered(i), numbered(j), v]),
  }));

  const each = () => (pair.shrunk > 1 ? pair.shrunk : 1);
  const numbered = (i) => i * each() + 1;

  function draw() {
    const width = Math.floor(frame.clientWidth);
    edges = strongEdges(pair);
    tell();
    if (width < 80) return;
    const pixel = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * pixel);
    canvas.height = Math.round(HEIGHT * pixel);
    Object.assign(canvas.style, { width: `${width}px`, height: `${HEIGHT}px` });
    const ctx = canvas.getContext("2d");
    ctx.setTransform(pixel, 0, 0, pixel, 0, 0);
    place = placed(pair, width);
    lines(ctx, edges.slice(0, MOST), place);
    for (const side of ["earlier", "later"]) axis(ctx, place, side, numbered);
  }

  function tell() {
    const shown = Math.min(edges.length, MOST);
    holder.caption.hidden = false;
    holder.caption.textContent = edges.length
      ? `${shown === edges.length ? shown : `The strongest ${shown} of ${edges.length}`} edges beyond chance. Level lines join directions of the same rank: the layers pass on the leading ones in order.`
      : "No edge is beyond chance here.";
    const top = edges[0]?.[2] ?? 1;
    fill(
      key,
      element(
        "div",
        { class: "scale" },
        element("div", { class: "bar", style: { background: gradient(ramp()) } }),
        element(
          "div",
          { class: "ticks" },
          [0, 0.5, 1].map((s) => element("span", {}, number(s * top, 2))),
        ),
      ),
      element("span", { class: "unit" }, "⟨v, u⟩²; thick is strong"),
    );
  }

  function hover(event) {
    const box = canvas.getBoundingClientRect();
    const found = place && nearest(edges.slice(0, MOST), place, event.clientX - box.left, event.clientY - box.top);
    tip.hidden = !found;
    if (!found) return;
    const [i, j, value] = found;
    tip.textContent = `earlier ${numbered(j)} → later ${numbered(i)} · ${number(value, 3)}`;
    const left = event.clientX - box.left + 14;
    tip.style.left = `${Math.min(left, frame.clientWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${event.clientY - box.top + 14}px`;
  }

  canvas.addEventListener("pointermove", hover);
  canvas.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });
  draw();
  return {
    update(next) {
      ({ pair } = next);
      draw();
    },
    resize: draw,
    mark() {},
    destroy: () => holder.root.remove(),
  };
}

/** Dark pages need the light end of the map for what is strong, light ones the dark end. */
function ramp() {
  const lut = sequential();
  const part = new Uint8ClampedArray(lut.length);
  for (let i = 0; i < 256; i++) {
    const share = isDark() ? 0.25 + (0.7 * i) / 255 : 0.85 - (0.85 * i) / 255;
    const from = 3 * Math.round(255 * share);
    part.set(lut.subarray(from, from + 3), 3 * i);
  }
  return part;
}

function placed(pair, width) {
  const [rows, columns] = pair.adjacency.shape;
  const room = HEIGHT - PAD.top - PAD.bottom;
  // one scale for both, so that level lines join directions of the same rank
  const y = (i) => PAD.top + (room * (i + 0.5)) / Math.max(rows, columns);
  return {
    width,
    rows,
    columns,
    left: PAD.side,
    right: width - PAD.side,
    later: y,
    earlier: y,
    names: [shortened(pair.source, 60), shortened(pair.target, 60)],
  };
}

function lines(ctx, edges, place) {
  const lut = ramp();
  const top = edges[0]?.[2] ?? 1;
  for (const [i, j, value] of [...edges].reverse()) {
    const share = value / top;
    ctx.strokeStyle = css(lut, share);
    ctx.globalAlpha = 0.25 + 0.75 * share;
    ctx.lineWidth = 0.6 + 2.6 * share;
    ctx.beginPath();
    ctx.moveTo(place.left, place.earlier(j));
    ctx.lineTo(place.right, place.later(i));
    ctx.stroke();
  }
  ctx.globalAlpha = 1;
}

function axis(ctx, place, side, numbered) {
  const ink = inks();
  const [x, count, y, out] =
    side === "earlier"
      ? [place.left, place.columns, place.earlier, -1]
      : [place.right, place.rows, place.later, 1];
  ctx.strokeStyle = ink.frame;
  ctx.lineWidth = 1;
  ctx.beginPath();
  ctx.moveTo(x, PAD.top - 2);
  ctx.lineTo(x, y(count - 1) + 3);
  ctx.stroke();
  ctx.font = `11px ${FONT}`;
  ctx.fillStyle = ink.muted;
  ctx.textBaseline = "middle";
  ctx.textAlign = out < 0 ? "right" : "left";
  const marks = [0, ...linearTicks(0, count, 8).map((v) => v - 1)].filter((i) => i >= 0 && i < count && Number.isInteger(i));
  for (const i of new Set(marks)) {
    ctx.fillRect(out < 0 ? x - 4 : x, y(i) - 0.5, 4, 1);
    ctx.fillText(String(numbered(i)), x + out * 8, y(i));
  }
  ctx.textBaseline = "top";
  ctx.font = `12px ${FONT}`;
  ctx.fillStyle = ink.ink;
  ctx.textAlign = out < 0 ? "left" : "right";
  const name = out < 0 ? `earlier: ${place.names[0]}` : `later: ${place.names[1]}`;
  ctx.fillText(fitted(ctx, name, place.width / 2 - 12), out < 0 ? 2 : place.width - 2, 4);
}

/** The edge whose line passes within some pixels of a point. */
function nearest(edges, place, x, y) {
  const share = (x - place.left) / (place.right - place.left);
  if (share < 0 || share > 1) return null;
  let best = null;
  let least = 5;
  for (const edge of edges) {
    const at = place.earlier(edge[1]) * (1 - share) + place.later(edge[0]) * share;
    const away = Math.abs(at - y);
    if (away < least) [best, least] = [edge, away];
  }
  return best;
}
