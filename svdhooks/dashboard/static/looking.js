// What is looked at, and what has to be asked for it. Draws nothing, so that it can begin
// while everything that draws is still on its way.

import { addressed } from "./host.js";
import { Store } from "./store.js";

export const ABSOLUTE = "absolute";
const VIEWS = ["training", "between", "compare", "about"];

/** The view, the store, and what the one needs of the other. */
export class Looking {
  constructor() {
    this.store = new Store();
    this.view = asked();
  }

  get run() {
    return this.store.run(this.view.run);
  }

  get others() {
    return this.view.beside.map((name) => this.store.run(name)).filter(Boolean);
  }

  /** Ask for all that the first picture needs. */
  async begin() {
    const { run } = this.view;
    const early = run ? this.store.renew(run).catch(() => null) : null;
    await this.store.list();
    await early;
    await this.settle(early !== null);
    this.layer().catch(() => null); // asked again, and told, when it is drawn
  }

  /** Choose a run if none is, and ask for it and for those beside it. */
  async settle(fresh = false) {
    const { view } = this;
    const { runs } = this.store.listed;
    if (!runs.some((r) => r.name === view.run)) view.run = foremost(runs)?.name ?? view.run;
    view.beside = view.beside.filter((n) => n !== view.run && runs.some((r) => r.name === n));
    if (!runs.length) return;
    const last = lastStep(this.run);
    const wanted = fresh && this.run ? view.beside : [view.run, ...view.beside];
    await Promise.all(wanted.map((name) => this.store.renew(name)));
    const { run } = this;
    if (!run.places.has(view.layer)) view.layer = firstLayer(run);
    if (!run.measure(view.measure))
      view.measure = (run.measures.find((m) => m.headline) ?? run.measures[0])?.name;
    // who looked at the end goes on with it
    if (view.step === undefined || (view.step === last && !fresh)) view.step = lastStep(run);
  }

  /** Ask for the layer that is looked at, of all runs that have it. */
  async layer() {
    const { layer, run, beside } = this.view;
    if (layer) await Promise.all([run, ...beside].map((name) => this.store.layer(name, layer)));
  }
}

/** The view that the address asks for. */
export function asked() {
  const given = addressed();
  const step = given.step === undefined ? NaN : Number(given.step);
  return {
    run: given.run,
    beside: (given.beside ?? "").split(",").filter(Boolean).map(decoded),
    view: VIEWS.includes(given.view) ? given.view : "training",
    layer: given.layer,
    step: Number.isFinite(step) ? step : undefined,
    measure: given.measure,
    scale: ["start", "maximum", "other"].includes(given.scale) ? given.scale : ABSOLUTE,
    pair: given.pair,
  };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The run that is looked at first: the last that was written. */
function foremost(runs) {
  return runs.reduce((best, r) => ((r.written ?? 0) > (best?.written ?? -1) ? r : best), null);
}

function firstLayer(run) {
  const alarmed = run.alarms?.find((a) => a.severity === "alarm" && run.places.has(a.layer));
  return alarmed?.layer ?? run.names[Math.floor(run.names.length / 2)];
}

export function lastStep(run) {
  return run?.steps?.length ? run.steps[run.steps.length - 1] : undefined;
}
