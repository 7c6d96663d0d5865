// Runs against each other: which layers differ, the map of one over the other, and curves.

import { createComparison } from "./comparison.js";
import { createCurves } from "./curves.js";
import { chooser, element, fill } from "./dom.js";
import { capital, shortened } from "./format.js";
import { createRankMap } from "./rankmap.js";
import { plain } from "./server.js";
import { lower } from "./mapheight.js";

const CURVES = 8;

/** A view of the tab. */
export function createCompare(tab, container) {
  const map = element("div");
  const grid = element("div", { class: "cards" });
  const words = element("div", { class: "section" });
  const layers = element("div", { class: "layerhead section" });
  let views = [];
  let against = tab.others[0] ?? null;
  let closed = false;
  let comparison = null;
  if (!against) {
    container.append(nothing(tab.store.listed.runs.length));
    return { changed() {}, grown() {}, resize() {}, destroy: () => container.replaceChildren() };
  }
  container.append(map, layers, grid, words);

  const mapped = () => {
    const { measure, layer, step } = tab.state.view;
    return { run: tab.run, measure, scale: "other", layer, step, other: against };
  };
  const among = tab.others.map((r) => [r.name, shortened(r.name, 40)]);
  const others =
    among.length > 1
      ? chooser("Against", among, against.name, (name) => {
          against = tab.store.run(name) ?? against;
          view.update(mapped());
        })
      : null;
  const view = createRankMap(map, mapped(), {
    title: `${shortened(tab.run.name, 40)} against ${others ? "another run" : shortened(against.name, 40)}`,
    only: "other",
    extra: others,
    height: lower,
    onselect: (l, s) => tab.choose(l, s),
    onmeasure: (measure) => tab.state.set({ measure }),
  });

  function heading() {
    const { run, state } = tab;
    const list = run.names.map((name) => [name, shortened(name, 56)]);
    fill(
      layers,
      element("h2", {}, "One layer in all runs"),
      element(
        "div",
        { class: "controls" },
        chooser("Layer", list, state.view.layer, (name) => tab.choose(name, null)),
      ),
    );
  }

  function curves() {
    for (const one of views) one.destroy();
    const { run, state } = tab;
    const { layer, step } = state.view;
    const found = run.measures.filter((m) => run.curve(m, layer).x.length);
    const first = found.filter((m) => m.name === state.view.measure || m.headline);
    const drawn = [...new Set([...first, ...found])].slice(0, CURVES);
    views = drawn.map((m) =>
      createCurves(
        grid,
        {
          run,
          layer,
          step,
          measures: [m],
          title: capital(shortened(m.title, 70)),
          others: tab.others.filter((r) => r.curve(r.measure(m.name), layer).x.length),
          narrow: true,
        },
        { onpick: (s) => tab.choose(null, s) },
      ),
    );
  }

  async function differences() {
    const runs = [tab.run, ...tab.others].map((r) => r.name);
    const found = await plain("compare", { run: runs });
    if (closed) return;
    comparison?.destroy();
    fill(words);
    const titles = new Map(tab.run.measures.map((m) => [m.name, m.title]));
    const onlayer = (layer, measure) => {
      const known = tab.run.measure(measure) ? measure : tab.state.view.measure;
      tab.state.set({ measure: known });
      tab.choose(layer, null);
      layers.scrollIntoView({ behavior: "smooth" });
    };
    comparison = createComparison(words, { comparison: found, titles }, { onlayer });
  }

  heading();
  curves();
  tab.waited(differences);
  return {
    changed(keys) {
      const { layer, step } = tab.state.view;
      if (keys.has("measure")) view.update(mapped());
      else view.mark(layer, step);
      if (keys.has("layer")) heading();
      if (keys.has("layer") || keys.has("measure")) curves();
      else for (const one of views) one.mark(step);
    },
    layerCame: curves,
    grown() {
      against = tab.store.run(against.name) ?? tab.others[0] ?? against;
      view.update(mapped());
      curves();
    },
    resize() {
      for (const one of [view, ...views, comparison]) one?.resize();
    },
    destroy() {
      closed = true;
      for (const one of [view, ...views, comparison]) one?.destroy();
      container.replaceChildren();
    },
  };
}

function nothing(count) {
  const how =
    count > 1
      ? "Tick one or more runs in the list on the left. They are held against the run that is shown: a map of where they differ, curves over each other, and a table of the differences."
      : "There is one run here. A second one below the same log directory can be held against it.";
  return element("div", { class: "plain" }, element("h2", {}, "No run to compare with"), element("p", {}, how));
}
