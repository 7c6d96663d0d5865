// The report's page: every view of a run in its place, and what ties them together.

import { onkey } from "./arrows.js";
import { chooser, element, fill, switcher } from "./dom.js";
import { shortened, visible } from "./format.js";
import { carried, firstLayer, opening } from "./opening.js";
import { Run } from "./run.js";
import { SECTIONS } from "./sections.js";
import { createState } from "./state.js";
import { chooseTheme, onSystemTheme, setPrinting } from "./theme.js";

class Page {
  constructor(tree, root) {
    this.tree = tree;
    this.root = root;
    this.runs = tree.runs.map((r) => new Run(r));
    this.state = createState(opening(this.runs));
    this.views = {};
    chooseTheme(this.state.view.theme);
    this.frame();
    this.openRun();
    this.state.listen((changed) => this.changed(changed));
    onSystemTheme(() => this.redraw());
  }

  get run() {
    return this.runs[this.state.view.run];
  }

  /** The places of all sections, in their order. */
  frame() {
    const { view } = this.state;
    this.places = {};
    const place = (name, cls = "section") =>
      (this.places[name] = element("div", { class: cls, id: `section-${name}` }));
    const themes = switcher(
      "Colours of the page",
      [
        ["auto", "Auto"],
        ["light", "Light"],
        ["dark", "Dark"],
      ],
      view.theme,
      (theme) => this.state.set({ theme }),
    );
    const bar = element("div", { class: "topcontrols" }, place("runs", ""), themes);
    const made = [
      this.tree.made
        ? new Date(this.tree.made).toLocaleString(undefined, {
            dateStyle: "medium",
            timeStyle: "short",
          })
        : null,
      `svdhooks ${visible(this.tree.svdhooks ?? "").slice(0, 20)}`,
    ];
    fill(
      this.root,
      element(
        "header",
        { class: "top" },
        element(
          "div",
          {},
          element("p", { class: "mark" }, made.filter(Boolean).join(" · ")),
          element(
            "h1",
            { dir: "auto", title: visible(this.tree.title).slice(0, 2000) },
            shortened(this.tree.title, 90),
          ),
        ),
        bar,
      ),
      place("overview"),
      place("verdict"),
      place("alarms"),
      place("map"),
      place("values"),
      place("comparison"),
      place("layer"),
      place("pairs"),
      place("descrambled"),
      place("cost"),
      place("about"),
      element(
        "footer",
        {},
        element(
          "p",
          { class: "note" },
          "Every figure names the call that recomputes it, with log = svdhooks.RunLog(…). Arrow keys move through layers and steps, space plays.",
        ),
      ),
    );
  }

  openRun() {
    this.runChoice();
    for (const [name, create] of Object.entries(SECTIONS)) {
      this.views[name]?.destroy();
      const place = this.places[name];
      fill(place);
      place.hidden = false;
      this.views[name] = create(this, place) ?? null;
      if (!this.views[name]) place.hidden = true;
    }
  }

  runChoice() {
    if (this.runs.length < 2) return;
    const list = this.runs.map((r, i) => [
      i,
      shortened(r.name, 40),
      visible(r.path ?? r.name).slice(0, 500),
    ]);
    const pick = (i) => this.state.set({ run: Number(i) });
    const few = list.length <= 4 && list.every(([, text]) => text.length <= 22);
    fill(
      this.places.runs,
      few
        ? switcher("Run", list, this.state.view.run, pick)
        : chooser("Run", list, this.state.view.run, pick),
    );
  }

  layerData() {
    const { view } = this.state;
    const others = this.runs.filter((r) => r !== this.run);
    return { run: this.run, layer: view.layer, step: view.step, measure: view.measure, others };
  }

  mapData() {
    const { measure, scale, layer, step } = this.state.view;
    return { run: this.run, measure, scale, layer, step };
  }

  changed(keys) {
    const { view } = this.state;
    if (keys.has("theme")) {
      chooseTheme(view.theme);
      return this.redraw();
    }
    if (keys.has("run")) {
      const { run } = this;
      view.layer = run.places.has(view.layer) ? view.layer : firstLayer(run);
      view.measure = run.measure(view.measure) ? view.measure : run.measures[0]?.name;
      return this.openRun();
    }
    if (keys.has("measure") || keys.has("scale")) this.views.map?.update(this.mapData());
    else if (keys.has("layer") || keys.has("step")) this.views.map?.mark(view.layer, view.step);
    if (keys.has("layer") || keys.has("measure")) this.views.layer?.update(this.layerData());
    else if (keys.has("step")) this.views.layer?.mark(view.step);
    if (keys.has("step")) this.views.pairs?.mark(view.step);
    if (keys.has("pair"))
      this.views.pairs?.update({ run: this.run, pair: view.pair, step: view.step });
    return undefined;
  }

  redraw() {
    for (const view of Object.values(this.views)) view?.resize();
  }

  go(layer, step) {
    this.state.set({ layer, step });
    this.places.layer.scrollIntoView({ behavior: "smooth", block: "start" });
  }
}

function onresize(page) {
  let width = window.innerWidth;
  let pending = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(() => page.redraw());
  });
  const paper = (printing) => {
    setPrinting(printing);
    document.documentElement.classList.toggle("paper", printing);
    page.redraw();
  };
  window.addEventListener("beforeprint", () => paper(true));
  window.addEventListener("afterprint", () => paper(false));
}

/** Show what the page carries. */
export async function start() {
  const root = document.getElementById("svdhooks");
  const page = new Page(await carried(), root);
  document.addEventListener("keydown", (event) => onkey(page, event));
  window.addEventListener("hashchange", () => location.reload());
  onresize(page);
  document.documentElement.dataset.drawn = String(Math.round(performance.now()));
}
