// Everything about one layer: spectra at a step, measures, local rank, ledger.

import { createCurves, createLedger, createLocalRank } from "./curves.js";
import { chooser, element, fill } from "./dom.js";
import { capital, shortened, visible } from "./format.js";
import { createSpectrum, createWaterfall } from "./spectra.js";
import { createStepper } from "./stepper.js";
import { named } from "./tables.js";

const FIRST = ["weight", "output", "input"];
const WEIGHT = ["weight_stable_rank", "weight_effective_rank", "weight_numerical_rank"];
const COVARIANCE = ["input_effective_rank", "output_effective_rank"];
const RANKS = "Ranks of the weight";
const IN_OUT = "Covariance in and out: effective rank";
const EXPLAINED = {
  [RANKS]:
    "Stable: falls when one direction takes over. Effective: weak directions count too. Numerical: exact loss, and nothing less.",
  [IN_OUT]:
    "Directions in use among what enters the layer, and among what leaves it before the nonlinearity; weak ones count too.",
};
const SHORT = {
  weight_stable_rank: "stable rank",
  weight_effective_rank: "effective rank",
  weight_numerical_rank: "numerical rank",
  input_effective_rank: "what enters",
  output_effective_rank: "what leaves",
};

/**
 * data: { run, layer, step, measure, others: [Run], besides: whether these come first }
 * options: { onstep(step), onlayer(name), onmeasure(name) }
 */
export function createLayerView(container, data, options = {}) {
  const head = element("div", { class: "layerhead" });
  const bar = element("div", { class: "layerbar" });
  const grid = element("div", { class: "cards" });
  const root = element(
    "section",
    { class: "layerview", "aria-label": "Layer", tabIndex: -1 },
    head,
    bar,
    grid,
  );
  container.append(root);
  let shown = data;
  let plan = [];
  let views = [];
  let stepper = null;
  let titled = "";
  let listed = null;

  function update(next) {
    const same = next.run === shown.run && next.layer === shown.layer;
    const open = !same || next.measure !== shown.measure || !views.length;
    shown = next;
    if (!open) return mark(next.step);
    // a list that is open stays open while the run grows
    const heading = `${shown.layer}\n${shown.run.names.length}\n${shown.run.name}`;
    if (heading !== titled) title();
    titled = heading;
    const steps = { steps: stepsOf(shown), step: shown.step };
    bar.hidden = steps.steps.length < 2;
    if (stepper) stepper.update(steps);
    else stepper = createStepper(bar, steps, { onpick: (s) => options.onstep?.(s) });
    return cards(same);
  }

  /** The cards of the layer: the same ones with other data, where they are the same. */
  function cards(same) {
    const before = plan.map(({ key }) => key).join("\n");
    plan = [];
    planned();
    if (views.length && plan.map(({ key }) => key).join("\n") === before) {
      if (!same) plan.forEach(({ of }, i) => views[i].update(of));
      else for (const view of views) view.mark?.(shown.step);
      return;
    }
    for (const view of views) view.destroy();
    views = plan.map(({ create, of }) =>
      create(grid, of, { onpick: (s) => options.onstep?.(s) }),
    );
    fillRows();
  }

  function title() {
    const { run, layer } = shown;
    const about = run.layer(layer);
    const place = run.places.get(layer);
    const go = (by) =>
      options.onlayer?.(run.names[(place + by + run.names.length) % run.names.length]);
    const words = [
      about.kind,
      about.shape ? `${about.shape[0]} × ${about.shape[1]} (out × in)` : null,
      about.note,
    ].filter(Boolean);
    fill(
      head,
      element("h2", { title: visible(layer).slice(0, 2000), dir: "auto" }, named(layer, 64)),
      element("p", { class: "note" }, visible(words.join(" · ")).slice(0, 300)),
      element(
        "div",
        { class: "controls" },
        element(
          "button",
          { type: "button", title: "Layer before (↑)", onclick: () => go(-1) },
          "↑ Before",
        ),
        element(
          "button",
          { type: "button", title: "Layer after (↓)", onclick: () => go(1) },
          "↓ After",
        ),
        chosen(),
      ),
    );
  }

  function planned() {
    const { run, layer } = shown;
    const several = run.steps.length > 1;
    const points = Object.keys(run.spectra?.[layer] ?? {});
    // where somebody chose runs to hold beside, these come first
    if (several && shown.besides) one();
    for (const point of FIRST) spectrum(point);
    if (several) ranks(RANKS, WEIGHT);
    if (several) ranks(IN_OUT, COVARIANCE);
    for (const kind of ["relative", "absolute"]) {
      const entry = run.local_rank?.[layer]?.[kind];
      if (entry?.steps.length) add(kind, createLocalRank, { entry, kind, step: shown.step });
    }
    const ledger = run.ledger?.[layer];
    if (ledger?.steps.length) add("ledger", createLedger, { entry: ledger, step: shown.step });
    for (const point of points) if (!FIRST.includes(point)) spectrum(point);
    if (several && !shown.besides) one();
  }

  function spectrum(point) {
    const { run, layer } = shown;
    const found = run.spectra?.[layer]?.[point];
    if (!found?.steps.length) return;
    const of = {
      spectrum: found,
      point,
      step: shown.step,
      note: point === "weight" ? run.layer(layer).note : "",
    };
    add(point, createSpectrum, of);
    if (point === "weight" && found.steps.length > 2) add("waterfall", createWaterfall, of);
  }

  /** A card that would stand alone in its row takes the whole of it. */
  function fillRows() {
    const cards = [...grid.children];
    if (getComputedStyle(grid).gridTemplateColumns.split(" ").length > 2) return;
    let left = true;
    cards.forEach((card, i) => {
      if (card.classList.contains("wide")) left = true;
      else if (left && (!cards[i + 1] || cards[i + 1].classList.contains("wide"))) {
        card.classList.add("wide");
        views[i].resize();
      } else left = !left;
    });
  }

  function ranks(name, wanted) {
    const { run, layer } = shown;
    const found = run
      .measuresOf(layer)
      .filter((m) => wanted.includes(m.name))
      .map((m) => ({ ...m, short: SHORT[m.name] }));
    found.sort((a, b) => wanted.indexOf(a.name) - wanted.indexOf(b.name));
    if (!found.length) return;
    const limited = found.some((m) => run.limited(m, layer))
      ? " Too few samples at some records: may read low."
      : "";
    add(`${name} ${found.length} ${limited}`, createCurves, {
      run,
      layer,
      step: shown.step,
      measures: found,
      title: name,
      note: (found.length > 1 ? EXPLAINED[name] : visible(found[0].meaning ?? "")) + limited,
    });
  }

  /** The measure of the map, for this layer: over all runs, where there are several. */
  function one() {
    const { run, layer, others } = shown;
    const measure = run.measure(shown.measure);
    if (!measure || !run.curve(measure, layer).x.length) return;
    const drawn = [...WEIGHT, ...COVARIANCE].includes(measure.name);
    const beside = (others ?? []).filter((r) => r.curve(r.measure(measure.name), layer).x.length);
    if (drawn && !beside.length) return;
    add(`${measure.name} ${beside.length}`, createCurves, {
      run,
      layer,
      step: shown.step,
      measures: [measure],
      others: beside,
      title: capital(shortened(measure.title, 70)),
    });
  }

  /** The list of layers; of a thousand it is made once. */
  function chosen() {
    const { run, layer } = shown;
    const of = `${run.name}\n${run.names.length}`;
    if (listed?.of !== of) {
      const list = run.names.map((name) => [name, shortened(name, 56)]);
      listed = { of, field: chooser("Layer", list, layer, (name) => options.onlayer?.(name)) };
    }
    listed.field.querySelector("select").value = layer;
    return listed.field;
  }

  /** Plan a card; `key` changes when its words do, not only its curves. */
  function add(key, create, of) {
    plan.push({ key: `${create.name} ${shown.layer} ${key}`, create, of });
  }

  function mark(value) {
    shown.step = value;
    stepper?.mark(value);
    for (const view of views) view.mark?.(value);
  }

  update(data);
  return {
    update,
    mark,
    toggle: () => stepper?.toggle(),
    move: (by) => stepper?.move(by),
    resize() {
      for (const view of views) view.resize();
    },
    destroy() {
      for (const view of views) view.destroy();
      stepper?.destroy();
      root.remove();
    },
  };
}

/** All steps at which anything of this layer was recorded. */
function stepsOf({ run, layer }) {
  const found = new Set(run.steps);
  for (const spectrum of Object.values(run.spectra?.[layer] ?? {}))
    for (const s of spectrum.steps) found.add(s);
  return Int32Array.from(found).sort();
}
