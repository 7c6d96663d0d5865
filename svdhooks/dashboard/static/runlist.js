// The list of runs: which one is looked at, which ones beside it; a search for many.

import { line } from "./colors.js";
import { element, fill } from "./dom.js";
import { shortened, step, visible } from "./format.js";
import { counted } from "./shell.js";
import { isDark } from "./theme.js";

const MOST = 200;
const SEARCHED = 8;

/**
 * data: { runs: rows of the server, run, beside: [name] }
 * options: { onrun(name), onbeside(name, wanted) }
 */
export function createRunList(container, data, options = {}) {
  let shown = data;
  let text = "";
  const search = element("input", {
    type: "search",
    placeholder: "Search runs  ( / )",
    "aria-label": "Search runs",
    oninput: () => {
      text = search.value.trim().toLowerCase();
      draw();
    },
  });
  const head = element("h2", {}, "Runs");
  const list = element("ul", { class: "runs" });
  const rest = element("p", { class: "note" });
  fill(container, head, search, list, rest);

  function draw() {
    const words = text.split(/\s+/).filter(Boolean);
    const found = shown.runs.filter((r) =>
      words.every((w) => visible(r.title ?? r.name).toLowerCase().includes(w)),
    );
    head.textContent = words.length ? `Runs (${found.length} of ${shown.runs.length})` : `Runs (${shown.runs.length})`;
    search.hidden = shown.runs.length <= SEARCHED;
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    fill(list, found.slice(0, MOST).map(row));
    rest.textContent =
      found.length > MOST
        ? `${found.length - MOST} more: search for them.`
        : found.length
          ? "Tick runs to hold them against the one that is shown."
          : "No run has these words in its name.";
    if (focused) [...list.querySelectorAll("[data-key]")].find((e) => e.dataset.key === focused)?.focus();
  }

  function row(run) {
    const current = run.name === shown.run;
    const place = shown.beside.indexOf(run.name);
    const tick = element("input", {
      type: "checkbox",
      checked: place >= 0 || current,
      disabled: current,
      "aria-label": `Hold ${visible(run.title ?? run.name).slice(0, 200)} against the run that is shown`,
      title: current ? "This run is shown" : "Hold it against the run that is shown",
      onchange: () => options.onbeside?.(run.name, tick.checked),
    });
    tick.style.accentColor = line(current ? 0 : Math.max(0, place) + 1, isDark());
    tick.dataset.key = `t${run.name}`;
    const button = element(
      "button",
      {
        type: "button",
        class: "run",
        title: visible(run.title ?? run.name).slice(0, 1000),
        "aria-current": current ? "true" : null,
        onclick: () => options.onrun?.(run.name),
      },
      element("bdi", { class: "name", dir: "auto" }, shortened(run.title ?? run.name, 60)),
      element("small", {}, told(run)),
    );
    button.dataset.key = `b${run.name}`;
    return element("li", { class: current ? "current" : null }, tick, button, alarmed(run));
  }

  draw();
  return {
    update(next) {
      const same = JSON.stringify(next) === JSON.stringify(shown);
      shown = next;
      if (!same) draw();
    },
    resize: draw,
    focus: () => (search.hidden ? list.querySelector(".run")?.focus() : search.focus()),
    destroy: () => fill(container),
  };
}

function told(run) {
  if (run.error) return "cannot be read";
  if (run.records === undefined) return "…";
  if (!run.records) return "no record yet";
  return `${counted(run.layers, "layer")} · step ${step(run.last)}`;
}

function alarmed(run) {
  if (!run.alarms) return null;
  const words = counted(run.alarms, "alarm");
  return element("span", { class: "badge alarm", title: words, "aria-label": words }, `▲ ${run.alarms}`);
}
