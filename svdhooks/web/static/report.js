// The report's page: every view of a run in its place, and what ties them together.

import { chooser, element, fill, switcher } from "./dom.js";
import { shortened, visible } from "./format.js";
import { arraysOf, bytesOf, inflated, joined } from "./packed.js";
import { Run } from "./run.js";
import { SECTIONS } from "./sections.js";
import { createState, parsed } from "./state.js";
import { chooseTheme, onSystemTheme, setPrinting } from "./theme.js";
import { gravity } from "./verdict.js";

/** Read the data that the page carries. */
async function carried() {
  const text = (id) => document.getElementById(id).textContent;
  const { tree, manifest } = JSON.parse(text("svdhooks-tree"));
  const bytes = await inflated(bytesOf(text("svdhooks-arrays").trim()));
  return joined(tree, arraysOf(bytes, manifest));
}

/** The layer that is looked at first: that of the first alarm, else the one in the middle. */
function firstLayer(run) {
  const alarmed = (run.alarms ?? []).find((a) => a.severity === "alarm" && run.places.has(a.layer));
  if (alarmed) return alarmed.layer;
  const told = Object.keys(run.spectra ?? {}).filter((name) => run.places.has(name));
  return told[Math.floor(told.length / 2)] ?? run.names[0];
}

function opening(runs) {
  const asked = parsed(location.hash);
  const gravest = runs.reduce((worst, r, i) => (gravity(r) < gravity(runs[worst]) ? i : worst), 0);
  const index =
    asked.run === undefined
      ? gravest
      : Math.max(0, Math.min(runs.length - 1, Number(asked.run) || 0));
  const run = runs[index];
  const measure =
    run.measure(asked.measure) ?? run.measures.find((m) => m.headline) ?? run.measures[0];
  return {
    run: index,
    layer: run.places.has(asked.layer) ? asked.layer : firstLayer(run),
    step:
      asked.step !== undefined && Number.isFinite(Number(asked.step))
        ? Number(asked.step)
        : lastStep(run),
    measure: measure?.name,
    scale: ["absolute", "start", "maximum"].includes(asked.scale) ? asked.scale : "absolute",
    pair: asked.pair,
    theme: asked.theme ?? "auto",
  };
}

function lastStep(run) {
  return run.steps?.length ? run.steps[run.steps.length - 1] : 0;
}

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

/** Arrow keys anywhere in the layer view; charts and maps have their own. */
function onkey(page, event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
  const { target } = event;
  if (target.closest("input, select, textarea, button, summary, [role=application]")) return;
  if (!page.places.layer.contains(target)) return;
  const places = page.run.places;
  const move = (by) => {
    const next = page.run.names[places.get(page.state.view.layer) + by];
    if (next !== undefined) page.state.set({ layer: next });
  };
  const keys = {
    ArrowUp: () => move(-1),
    ArrowDown: () => move(1),
    ArrowLeft: () => page.views.layer.move(-1),
    ArrowRight: () => page.views.layer.move(1),
    " ": () => page.views.layer.toggle(),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
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
