// A run in the cell of a notebook: rank map and layer view, redrawn as records come.

import { onkey } from "./arrows.js";
import { hostTheme, memory, onHostTheme } from "./cell.js";
import { element, fill, switcher } from "./dom.js";
import { shortened, step, visible } from "./format.js";
import { createLayerView } from "./layerview.js";
import { carried, firstLayer, lastStep } from "./opening.js";
import { createRankMap } from "./rankmap.js";
import { Run } from "./run.js";
import { createState } from "./state.js";
import { chooseTheme, onSystemTheme } from "./theme.js";
import { createValues } from "./values.js";

const SCALES = ["absolute", "start", "maximum"];
const THEMES = [
  ["auto", "Auto", "As the notebook"],
  ["light", "Light"],
  ["dark", "Dark"],
];

/** What is looked at: as before the redraw, else as asked for; the last step is followed. */
function opening(run, before, asked) {
  const measure =
    run.measure(before.measure) ?? run.measures.find((m) => m.headline) ?? run.measures[0];
  const layer = [before.layer, asked].find((name) => run.places.has(name));
  return {
    layer: layer ?? firstLayer(run),
    step: Number.isFinite(before.step) ? before.step : lastStep(run),
    measure: measure?.name,
    scale: SCALES.includes(before.scale) ? before.scale : "absolute",
    theme: THEMES.some(([name]) => name === before.theme) ? before.theme : "auto",
  };
}

/** 20 pixels a layer; many layers share the height that leaves the layer view in sight. */
function low(rows) {
  return rows <= 12 ? Math.max(20 * rows, 60) : Math.max(240, Math.min(420, rows * 14));
}

class Cell {
  constructor(tree, root) {
    this.tree = tree;
    this.root = root;
    this.run = new Run(tree.runs[0]);
    this.memory = memory(tree.cell.key);
    const before = this.memory.read();
    this.state = createState(opening(this.run, before, tree.cell.layer), () => {});
    this.scroll = before.scroll ?? 0;
    this.views = {};
    this.frame();
    this.themed();
    this.fill();
    this.state.listen((changed) => this.changed(changed));
    window.scrollTo({ top: this.scroll, behavior: "instant" });
  }

  frame() {
    const place = (name) => element("div", { class: "section", id: `section-${name}` });
    this.places = { map: place("map"), layer: place("layer"), notes: place("notes") };
    const themes = switcher("Colours of the view", THEMES, this.state.view.theme, (theme) =>
      this.state.set({ theme }),
    );
    const { names, steps } = this.run;
    const reach = steps.length > 1 ? `, steps ${step(steps[0])} to ${step(lastStep(this.run))}` : "";
    fill(
      this.root,
      element(
        "header",
        { class: "top" },
        element(
          "p",
          { class: "run" },
          element(
            "strong",
            { dir: "auto", title: visible(this.run.name).slice(0, 2000) },
            shortened(this.run.name, 60),
          ),
          element(
            "span",
            { class: "note" },
            `${counted(names.length, "layer")}, ${counted(this.tree.cell.records, "record")}${reach}`,
          ),
        ),
        themes,
      ),
      ...Object.values(this.places),
    );
  }

  fill() {
    const { run, places } = this;
    const select = (change) => this.state.set(change);
    if (!run.names.length || !run.steps.length) {
      places.map.append(element("p", { class: "plain" }, "There is no record yet."));
      return;
    }
    if (run.measures.length && run.steps.length > 1)
      this.views.map = createRankMap(places.map, this.mapData(), {
        height: low,
        onselect: (layer, at) => select({ layer, step: at }),
        onmeasure: (measure) => select({ measure }),
        onscale: (scale) => select({ scale }),
      });
    else if (run.measures.length)
      this.views.values = createValues(places.map, run, { onlayer: (layer) => select({ layer }) });
    this.views.layer = createLayerView(places.layer, this.layerData(), {
      onstep: (at) => select({ step: at }),
      onlayer: (layer) => select({ layer }),
    });
    this.notes(run.notes ?? []);
  }

  /** What had no room, and how to get it. */
  notes(notes) {
    this.places.notes.hidden = !notes.length;
    if (!notes.length) return;
    const list = notes.map((note) => element("li", {}, visible(note).slice(0, 600)));
    const title = `${counted(notes.length, "thing")} had no room in this view`;
    this.places.notes.append(
      element("details", {}, element("summary", {}, title), element("ul", { class: "note" }, list)),
    );
  }

  mapData() {
    const { measure, scale, layer, step: at } = this.state.view;
    return { run: this.run, measure, scale, layer, step: at };
  }

  layerData() {
    const { layer, step: at, measure } = this.state.view;
    return { run: this.run, layer, step: at, measure, others: [] };
  }

  changed(keys) {
    const { view } = this.state;
    this.remember();
    if (keys.has("theme")) return this.themed(true);
    if (keys.has("measure") || keys.has("scale")) this.views.map?.update(this.mapData());
    else if (keys.has("layer") || keys.has("step")) this.views.map?.mark(view.layer, view.step);
    if (keys.has("layer") || keys.has("measure")) this.views.layer?.update(this.layerData());
    else if (keys.has("step")) this.views.layer?.mark(view.step);
    return undefined;
  }

  /** For the next redraw; who looks at the last step will see the last one then. */
  remember() {
    const { view } = this.state;
    const at = view.step >= lastStep(this.run) ? null : view.step;
    this.memory.write({ ...view, step: at, scroll: this.scroll });
  }

  themed(redraw = false) {
    const { theme } = this.state.view;
    chooseTheme(theme === "auto" ? hostTheme() : theme);
    if (redraw) this.redraw();
  }

  redraw() {
    for (const view of Object.values(this.views)) view.resize?.();
  }
}

function counted(count, what) {
  return `${step(count)} ${what}${count === 1 ? "" : "s"}`;
}

/** What happens to the frame: another size, another theme, scrolling. */
function follow(cell) {
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth; // 0 while the notebook's tab is hidden
    if (width) requestAnimationFrame(() => cell.redraw());
  });
  window.addEventListener("scroll", () => {
    cell.scroll = window.scrollY;
    cell.remember();
  });
  onSystemTheme(() => cell.themed(true));
  onHostTheme(() => cell.themed(true));
}

/** Show what the page carries. */
export async function start() {
  const cell = new Cell(await carried(), document.getElementById("svdhooks"));
  document.addEventListener("keydown", (event) => onkey(cell, event));
  follow(cell);
  document.documentElement.dataset.drawn = String(Math.round(performance.now()));
}
