// The tab: what is being looked at, what is asked for, and when.

import { element } from "./dom.js";
import { visible } from "./format.js";
import { furnished } from "./exporting.js";
import { address, addressed, followTheme, onAddress, onReload, onSeen, seen } from "./host.js";
import { onkey } from "./keys.js";
import { createRunList } from "./runlist.js";
import { createShell } from "./shell.js";
import { createState } from "./state.js";
import { ABSOLUTE, asked, lastStep } from "./looking.js";
import { chooseTheme } from "./theme.js";
import { MAKERS } from "./views.js";

const PAUSE = 5000;
const LONGEST = 60_000;

/** Everything of one frame. */
export class Tab {
  /** `looking` is what is looked at and known, and asks for it: see looking.js. */
  constructor(root, looking) {
    this.root = root;
    this.looking = looking;
    this.store = looking.store;
    this.state = createState(looking.view, () => this.write());
    looking.view = this.state.view;
    this.pause = PAUSE;
    this.view = null;
    this.shell = createShell(root, { onview: (view) => this.state.set({ view }) });
    furnished();
    this.state.listen((keys) => this.changed(keys));
    followTheme((dark) => {
      chooseTheme(dark ? "dark" : "light");
      this.redraw();
    });
  }

  get run() {
    return this.store.run(this.state.view.run);
  }

  /** The runs beside the one that is looked at, as far as they are there. */
  get others() {
    return this.looking.others;
  }

  /** Show what was asked for, and go on asking. */
  show(problem) {
    this.draw();
    this.shell.notice(problem);
    onSeen(() => this.refresh());
    onReload(() => this.refresh());
    onAddress(() => this.follow());
    window.addEventListener("resize", () => this.resized());
    document.addEventListener("keydown", (event) => onkey(this, event));
    this.root.dataset.drawn = String(Math.round(performance.now()));
    this.later();
    if (this.run) this.come(this.state.view.layer);
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), this.pause);
  }

  /** Ask what is new, if anybody looks. */
  async refresh() {
    if (this.asking) return;
    if (!seen()) return this.later();
    this.asking = true;
    try {
      await this.store.list();
      const before = this.run;
      await this.looking.settle();
      await this.looking.layer();
      this.grown(before);
      this.pause = PAUSE;
      this.shell.notice(null);
    } catch (problem) {
      this.pause = Math.min(LONGEST, 2 * this.pause);
      this.shell.notice(problem);
    } finally {
      this.asking = false;
      this.later();
    }
  }

  draw() {
    const { view } = this.state;
    const { runs } = this.store.listed;
    this.shell.several(runs.length > 1);
    if (!this.run) {
      this.view?.destroy();
      this.view = null;
      return this.shell.empty(...helped(this.store.listed, runs.length));
    }
    this.list();
    this.tell();
    this.shell.press(view.view);
    this.view?.destroy();
    this.shell.place.replaceChildren();
    this.view = MAKERS[view.view](this, this.shell.place);
    return undefined;
  }

  list() {
    const { run, beside } = this.state.view;
    const data = { runs: this.store.listed.runs, run, beside: [...beside] };
    if (this.runs) this.runs.update(data);
    else
      this.runs = createRunList(this.shell.runs, data, {
        onrun: (name) => this.state.set({ run: name }),
        onbeside: (name, wanted) => this.hold(name, wanted),
      });
  }

  tell() {
    const { name } = this.run;
    this.shell.tell(this.run, this.store.listed.runs.find((r) => r.name === name));
  }

  /** After a refresh: only what is new is drawn again. */
  grown(before) {
    if (!this.run || !this.view || !before) return this.draw();
    this.list();
    this.tell();
    const state = [this.run, ...this.others];
    if (!state.every((run, i) => run === this.drawn?.[i]) || state.length !== this.drawn?.length) {
      this.drawn = state;
      this.view.grown();
    }
    return undefined;
  }

  async changed(keys) {
    const { view } = this.state;
    if (keys.has("view")) return this.draw();
    if (keys.has("run") || keys.has("beside")) return this.waited(() => this.open());
    this.view?.changed(keys);
    if (keys.has("layer")) await this.come(view.layer);
    return undefined;
  }

  /** Another run, or other runs beside it. */
  async open() {
    await this.looking.settle();
    await this.looking.layer();
    this.drawn = [this.run, ...this.others];
    this.draw();
  }

  /** Another layer: drawn when its spectra are there; its neighbours are asked for then. */
  async come(layer) {
    const { view } = this.state;
    await this.waited(async () => {
      await this.looking.layer();
      if (view.layer === layer) this.view?.layerCame?.();
    });
    const place = this.run?.places.get(layer);
    for (const by of [1, -1]) {
      const next = this.run?.names[place + by];
      if (view.layer === layer && next) await this.store.layer(view.run, next).catch(() => null);
    }
  }

  /** Do something that takes time: shown if it takes long, and if it fails. */
  async waited(work) {
    const slow = setTimeout(() => this.shell.busy(true), 150);
    try {
      await work();
      this.shell.notice(null);
    } catch (problem) {
      this.shell.notice(problem);
    } finally {
      clearTimeout(slow);
      this.shell.busy(false);
    }
  }

  hold(name, wanted) {
    const { beside } = this.state.view;
    this.state.set({ beside: wanted ? [...beside, name] : beside.filter((n) => n !== name) });
  }

  choose(layer, step) {
    const { view } = this.state;
    this.state.set({ layer: layer ?? view.layer, step: step ?? view.step });
  }

  /** Show a layer at a step, wherever one is. */
  go(layer, step) {
    this.state.set({ view: "training" });
    this.choose(layer, step);
    this.view?.layerPlace?.scrollIntoView({ behavior: "smooth", block: "start" });
  }

  redraw() {
    this.runs?.resize();
    this.view?.resize();
  }

  resized() {
    if (!seen() || this.width === window.innerWidth) return;
    this.width = window.innerWidth;
    cancelAnimationFrame(this.pending);
    this.pending = requestAnimationFrame(() => this.view?.resize());
  }

  write() {
    const { beside, step, scale, view, ...rest } = this.state.view;
    address({
      ...rest,
      beside: beside.map(encodeURIComponent).join(","),
      step: step === lastStep(this.run) ? undefined : step,
      scale: scale === ABSOLUTE ? undefined : scale,
      view: view === "training" ? undefined : view,
    });
  }

  /** Somebody followed a link: to us, or to another tab and back. */
  follow() {
    const given = addressed();
    if (!Object.keys(given).length) return this.write();
    return this.state.set({ ...this.state.view, ...asked(), step: asked().step ?? lastStep(this.run) });
  }
}

/** What to do where there is no run. */
function helped({ help, logdir }, some) {
  if (some) return [element("p", {}, "Reading the run …")];
  const { text, code, more } = help ?? {};
  return [
    element("h2", {}, "No run recorded by svdhooks is here yet"),
    element("p", {}, text ?? "Record one with svdhooks.watch(model, log_dir)."),
    code ? element("pre", {}, element("code", {}, code)) : null,
    more ? element("p", {}, more) : null,
    logdir ? element("p", { class: "note" }, `TensorBoard looks here: ${visible(logdir).slice(0, 500)}`) : null,
  ];
}
