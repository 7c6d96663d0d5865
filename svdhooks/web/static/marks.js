// What is drawn over the lines of a chart: the chosen step, and levels with their names.

import { FONT } from "./theme.js";

/** Draw `shown.mark` (a place on the x axis) and `shown.rules` (levels on the y axis). */
export function marks(u, shown, ink) {
  const { ctx, bbox } = u;
  const pixel = window.devicePixelRatio || 1;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.setLineDash([]); // the last line may have been dashed
  ctx.lineWidth = pixel;
  if (Number.isFinite(shown.mark)) upright(u, shown.mark, ink, pixel);
  for (const x of shown.flags ?? []) flag(u, x, ink, pixel);
  for (const rule of shown.rules ?? []) if (Number.isFinite(rule.value)) level(u, rule, ink, pixel);
  ctx.restore();
}

function upright(u, x, ink, pixel) {
  const at = Math.round(u.valToPos(x, "x", true)) + 0.5;
  u.ctx.strokeStyle = ink.accent;
  u.ctx.globalAlpha = 0.75;
  u.ctx.lineWidth = 1.5 * pixel;
  stroke(u.ctx, at, u.bbox.top, at, u.bbox.top + u.bbox.height);
  u.ctx.globalAlpha = 1;
}

/** A thin line and a triangle at the top. */
function flag(u, x, ink, pixel) {
  const at = Math.round(u.valToPos(x, "x", true)) + 0.5;
  u.ctx.strokeStyle = u.ctx.fillStyle = ink.alarm;
  u.ctx.lineWidth = pixel;
  stroke(u.ctx, at, u.bbox.top, at, u.bbox.top + u.bbox.height);
  u.ctx.beginPath();
  u.ctx.moveTo(at - 5 * pixel, u.bbox.top);
  u.ctx.lineTo(at + 5 * pixel, u.bbox.top);
  u.ctx.lineTo(at, u.bbox.top + 8 * pixel);
  u.ctx.fill();
}

function level(u, rule, ink, pixel) {
  const { ctx, bbox } = u;
  const at = Math.round(u.valToPos(rule.value, "y", true)) + 0.5;
  if (at < bbox.top || at > bbox.top + bbox.height) return;
  ctx.strokeStyle = ink.muted;
  ctx.lineWidth = pixel;
  ctx.setLineDash([5 * pixel, 4 * pixel]);
  stroke(ctx, bbox.left, at, bbox.left + bbox.width, at);
  ctx.setLineDash([]);
  if (!rule.label) return;
  ctx.font = `${11 * pixel}px ${FONT}`;
  ctx.fillStyle = ink.muted;
  ctx.textAlign = rule.left ? "left" : "right";
  ctx.textBaseline = at - bbox.top > 18 * pixel ? "bottom" : "top";
  ctx.lineWidth = 3 * pixel;
  ctx.strokeStyle = ink.paper;
  const place = rule.left ? bbox.left + 4 * pixel : bbox.left + bbox.width - 4 * pixel;
  const gap = ctx.textBaseline === "bottom" ? -2 * pixel : 3 * pixel;
  ctx.strokeText(rule.label, place, at + gap);
  ctx.fillText(rule.label, place, at + gap);
}

function stroke(ctx, x0, y0, x1, y1) {
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
}
