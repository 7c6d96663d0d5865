// Between layers: the graph of one pair at a step, internal dimensions, descrambled weights.

import { createDescrambled } from "./descrambled.js";
import { chooser, element, fill } from "./dom.js";
import { createEdges } from "./edges.js";
import { shortened, step } from "./format.js";
import { createAdjacency, createInternal } from "./pairs.js";
import { at } from "./run.js";
import { bundle } from "./server.js";
import { createStepper } from "./stepper.js";

const KEPT = 40;
const WAIT = "The graph is being made. The first one takes some seconds, for TensorBoard starts torch.";

/** A view of the tab. */
export function createBetween(tab, container) {
  const controls = element("div", { class: "controls" });
  const bar = element("div", { class: "layerbar" });
  const grid = element("div", { class: "cards" });
  const smooth = element("div", { class: "section" });
  const head = element(
    "header",
    { class: "layerhead" },
    element("h2", {}, "Between layers: the spectral graph"),
    element(
      "p",
      { class: "note" },
      "Each edge is ⟨v, u⟩²: how far a direction that one layer writes is one that the next layer reads. 0 is not at all, 1 is the same direction.",
    ),
    controls,
  );
  container.append(head, bar, grid, smooth);
  const kept = new Map();
  let there = null;
  let views = [];
  let stepper = null;
  let drawn = "";
  let closed = false;

  const steps = () => there.vector_steps ?? [];
  const now = () => steps()[at(steps(), tab.state.view.step ?? Infinity)];

  async function load() {
    const { name } = tab.run;
    there = await bundle("pairs", { run: name });
    if (closed) return;
    choices();
    await draw();
    descrambling();
  }

  function chosen() {
    const index = there.pairs.findIndex((p) => keyed(p) === tab.state.view.pair);
    return there.pairs[Math.max(0, index)];
  }

  function choices() {
    const list = there.pairs.map((p) => [
      keyed(p),
      `${shortened(p.source, 34)} → ${shortened(p.target, 34)}${p.stream ? " (residual stream)" : ""}`,
    ]);
    controls.hidden = bar.hidden = !list.length;
    if (!list.length) return;
    fill(controls, chooser("Pair", list, keyed(chosen()), (pair) => tab.state.set({ pair })));
    stepper ??= createStepper(bar, { steps: steps(), step: now() }, { onpick: (s) => tab.choose(null, s) });
    stepper.update({ steps: steps(), step: now() });
    bar.hidden = steps().length < 2;
  }

  async function draw() {
    const pair = chosen();
    if (!pair) return nothing();
    if (!drawn) fill(grid, element("p", { class: "note wide" }, WAIT));
    const found = steps().length ? await fetched(pair, now()) : null;
    // another was chosen meanwhile, or the view is gone
    if (closed || keyed(chosen()) !== keyed(pair) || (found && found.step !== now())) return undefined;
    const internal = (there.internal ?? []).filter(
      (e) => e.pair === `${pair.source}->${pair.target}` && e.steps.length > 1,
    );
    const state = JSON.stringify([keyed(pair), found?.step, internal.map((e) => e.steps.length)]);
    if (state === drawn) return undefined;
    drawn = state;
    for (const view of views) view.destroy();
    fill(grid);
    views = [];
    if (found) views.push(createAdjacency(grid, { pair: found }), createEdges(grid, { pair: found }));
    else grid.append(without());
    for (const entry of internal) views.push(createInternal(grid, { entry, step: tab.state.view.step }));
    // a card that would stand alone in its row takes the whole of it
    if (found && views.length % 2) {
      grid.lastElementChild.classList.add("wide");
      views.at(-1).resize();
    }
    return undefined;
  }

  async function fetched(pair, value) {
    const key = `${value} ${keyed(pair)}`;
    if (!kept.has(key)) {
      const { source, target } = pair;
      const answer = await bundle("pair", { run: tab.run.name, source, target, step: value });
      kept.set(key, answer.pair);
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return kept.get(key);
  }

  function nothing() {
    drawn = "";
    fill(
      grid,
      words(
        "No pairs of layers are known of this run",
        "They are found where the recorder follows what flows between layers.",
        'svdhooks.watch(model, log_dir, quantities=["weight_spectrum", "covariance", "spectral_edges"])',
      ),
    );
  }

  function without() {
    return words(
      "This run has no singular vectors",
      "The graph between layers needs them at some steps. Internal dimensions, where they were measured, are shown without.",
      'svdhooks.watch(model, log_dir, quantities=["weight_spectrum", svdhooks.WeightVectors(k=None), "spectral_edges"])',
    );
  }

  function descrambling() {
    const layers = there.descrambled ?? [];
    smooth.hidden = !layers.length;
    if (!layers.length) return;
    const cards = element("div", { class: "cards" });
    let shown = null;
    const show = async (layer) => {
      const at = steps()[steps().length - 1];
      const found = await bundle("descrambled", { run: tab.run.name, layer, step: at });
      if (closed) return;
      shown?.destroy();
      shown = createDescrambled(cards, { entry: found.descrambled });
    };
    const wanted = layers.includes(tab.state.view.layer) ? tab.state.view.layer : layers[0];
    const list = layers.map((name) => [name, shortened(name, 50)]);
    const pick = chooser("Layer", list, wanted, (layer) => tab.waited(() => show(layer)));
    fill(smooth, element("h2", {}, "Descrambled weights"), element("div", { class: "controls" }, pick), cards);
    views.smooth = { resize: () => shown?.resize() };
    tab.waited(() => show(wanted));
  }

  fill(grid, element("p", { class: "note" }, "Reading …"));
  tab.waited(load);
  return {
    changed(keys) {
      if (!there) return;
      if (keys.has("step")) stepper?.mark(now());
      if (keys.has("step")) for (const view of views) view.mark?.(tab.state.view.step);
      if (keys.has("pair") || keys.has("step")) tab.waited(draw);
    },
    grown: () => tab.waited(async () => {
      there = await bundle("pairs", { run: tab.run.name });
      if (closed) return;
      choices();
      await draw();
    }),
    toggle: () => stepper?.toggle(),
    move: (by) => stepper?.move(by),
    resize() {
      for (const view of views) view.resize();
      views.smooth?.resize();
    },
    destroy() {
      closed = true;
      stepper?.destroy();
      for (const view of views) view.destroy();
    },
  };
}

function keyed(pair) {
  return `${pair.source}->${pair.target}${pair.stream ? `@${pair.stream}` : ""}`;
}

function words(title, text, code) {
  return element(
    "div",
    { class: "plain wide" },
    element("h3", {}, title),
    element("p", {}, text),
    element("pre", {}, element("code", {}, code)),
  );
}
