// A card as a picture: its canvases, words and keys, painted where they are on the page.

const SCALE = 2;
const LEFT_OUT = "button:not([aria-pressed=true]), details, .tools, .tip, [hidden]";

/** A canvas with what a card shows. */
export function painted(card) {
  const box = card.getBoundingClientRect();
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(box.width * SCALE);
  canvas.height = Math.round(box.height * SCALE);
  const ctx = canvas.getContext("2d");
  ctx.scale(SCALE, SCALE);
  ctx.translate(-box.left, -box.top);
  ctx.fillStyle = getComputedStyle(card).backgroundColor;
  ctx.fillRect(box.left, box.top, box.width, box.height);
  paint(ctx, card);
  return canvas;
}

function paint(ctx, node) {
  if (node.nodeType === Node.TEXT_NODE) return words(ctx, node);
  if (node.nodeType !== Node.ELEMENT_NODE || node.matches(LEFT_OUT)) return undefined;
  if (node.tagName === "CANVAS") return picture(ctx, node);
  if (node.tagName === "SELECT") return chosen(ctx, node);
  if (node.tagName !== "BUTTON") boxed(ctx, node);
  for (const child of node.childNodes) paint(ctx, child);
  return undefined;
}

/** What a list stands at, as words. */
function chosen(ctx, select) {
  const style = getComputedStyle(select);
  const box = select.getBoundingClientRect();
  inked(ctx, style);
  const left = box.left + parseFloat(style.paddingLeft) + 4;
  ctx.fillText(select.selectedOptions[0]?.textContent ?? "", left, box.top + box.height / 2 + 5);
}

function inked(ctx, style) {
  ctx.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  ctx.fillStyle = style.color;
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
}

function picture(ctx, canvas) {
  const box = canvas.getBoundingClientRect();
  if (canvas.width && box.width) ctx.drawImage(canvas, box.left, box.top, box.width, box.height);
}

/** Text, line by line as the page broke it. */
function words(ctx, node) {
  if (!node.textContent.trim()) return;
  const style = getComputedStyle(node.parentElement);
  inked(ctx, style);
  for (const { text, left, top, bottom } of lines(node)) {
    const size = parseFloat(style.fontSize);
    ctx.fillText(text, left, (top + bottom) / 2 + 0.35 * size);
  }
}

function lines(node) {
  const range = document.createRange();
  const found = [];
  const text = node.textContent;
  let i = 0;
  for (const character of text) {
    range.setStart(node, i);
    i += character.length;
    range.setEnd(node, i);
    const box = range.getClientRects()[0];
    if (!box || !box.width) continue;
    const line = found[found.length - 1];
    if (line && Math.abs(line.top - box.top) < 3) line.text += character;
    else found.push({ text: character, left: box.left, top: box.top, bottom: box.bottom });
  }
  return found;
}

/** Grounds, ramps of colour and swatches of lines. */
function boxed(ctx, node) {
  const style = getComputedStyle(node);
  const box = node.getBoundingClientRect();
  if (!box.width || !box.height) return;
  const stops = style.backgroundImage.match(/rgba?\([^)]*\)/g);
  if (stops?.length > 1 && style.backgroundImage.startsWith("linear-gradient")) {
    const ramp = ctx.createLinearGradient(box.left, 0, box.right, 0);
    stops.forEach((colour, i) => ramp.addColorStop(i / (stops.length - 1), colour));
    ctx.fillStyle = ramp;
    ctx.fillRect(box.left, box.top, box.width, box.height);
  } else if (!/^rgba\(.*, 0\)$|^transparent$/.test(style.backgroundColor)) {
    ctx.fillStyle = style.backgroundColor;
    ctx.fillRect(box.left, box.top, box.width, box.height);
  }
  const thick = parseFloat(style.borderTopWidth);
  if (!node.matches(".swatch") || !thick) return;
  ctx.strokeStyle = style.borderTopColor;
  ctx.lineWidth = thick;
  ctx.setLineDash(style.borderTopStyle === "dashed" ? [5, 3] : []);
  ctx.beginPath();
  ctx.moveTo(box.left, box.top + thick / 2);
  ctx.lineTo(box.right, box.top + thick / 2);
  ctx.stroke();
  ctx.setLineDash([]);
}
