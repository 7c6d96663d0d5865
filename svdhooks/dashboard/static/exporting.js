// Buttons on every figure: its numbers to the clipboard, its picture to a file.

import { element, onCard } from "./dom.js";
import { tablesOf } from "./figures.js";
import { painted } from "./picture.js";

const SHOWN = 1600;

/** From now on every card has the buttons. */
export function furnished() {
  onCard((card) => {
    const copy = tool("CSV", "Copy the numbers as CSV", () => copied(copy, csv(card)));
    const save = tool("PNG", "Save the figure as a picture", () => saved(card));
    const tools = element("div", { class: "tools" }, copy, save);
    card.querySelector("header").append(tools);
  });
}

function tool(text, title, onclick) {
  return element("button", { type: "button", class: "quiet", title, "aria-label": title, onclick }, text);
}

/** The tables of a card, an empty line between two. */
export function csv(card) {
  return tablesOf(card)
    .map(({ columns, rows }) => [columns, ...rows].map((r) => r.map(cell).join(",")).join("\r\n"))
    .join("\r\n\r\n");
}

/** A field; text that a spreadsheet would take for a formula is kept text. */
function cell(value) {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  let text = String(value ?? "");
  if (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

async function copied(button, text) {
  const done = (await written(text)) || typed(text);
  button.textContent = done ? "Copied" : "Not allowed";
  setTimeout(() => {
    button.textContent = "CSV";
  }, SHOWN);
}

async function written(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // not over plain HTTP from another machine
  }
}

/** The old way, which works there too. */
function typed(text) {
  const area = element("textarea", { class: "offscreen", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

function saved(card) {
  painted(card).toBlob((blob) => {
    const url = URL.createObjectURL(blob);
    const title = card.querySelector("h2, h3")?.textContent ?? "figure";
    const name = title.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+|-+$/g, "");
    element("a", { href: url, download: `svdhooks-${name.slice(0, 80) || "figure"}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  });
}
