// The sections of the report's page: what each is made of, and what it tells the others.

import { createAbout, createRunMeasures } from "./about.js";
import { createComparison } from "./comparison.js";
import { createDescrambled } from "./descrambled.js";
import { element } from "./dom.js";
import { createLayerView } from "./layerview.js";
import { createPairs } from "./pairs.js";
import { createRankMap } from "./rankmap.js";
import { createValues } from "./values.js";
import { createAlarms, createVerdict, createVerdicts } from "./verdict.js";

/** Section -> what makes it, or nothing where the run has nothing for it. */
export const SECTIONS = {
  overview: (page, place) => {
    if (page.runs.length < 2) return null;
    return createVerdicts(
      place,
      { runs: page.runs, run: page.state.view.run },
      { onrun: (run) => page.state.set({ run }) },
    );
  },
  verdict: (page, place) => createVerdict(place, page.run, { several: page.runs.length > 1 }),
  alarms: (page, place) => {
    if (!page.run.alarms?.length) return null;
    place.append(element("h2", {}, "Alarms"));
    const body = element("div");
    place.append(body);
    return createAlarms(body, page.run, { onselect: (layer, step) => page.go(layer, step) });
  },
  values: (page, place) => {
    if (page.run.steps.length !== 1 || !page.run.names.length || !page.run.measures.length)
      return null;
    place.append(element("h2", {}, "Values of all layers"));
    const body = element("div");
    place.append(body);
    return createValues(body, page.run, {
      onlayer: (layer) => page.go(layer, page.state.view.step),
    });
  },
  comparison: (page, place) => {
    if (!page.tree.comparison) return null;
    const titles = new Map(page.runs.flatMap((r) => r.measures.map((m) => [m.name, m.title])));
    const onlayer = (layer, measure) => {
      if (!page.run.places.has(layer)) return;
      page.state.set({
        layer,
        measure: page.run.measure(measure) ? measure : page.state.view.measure,
      });
      page.places.layer.scrollIntoView({ behavior: "smooth" });
    };
    return createComparison(place, { comparison: page.tree.comparison, titles }, { onlayer });
  },
  map: (page, place) => {
    if (!page.run.measures.length || !page.run.names.length || page.run.steps.length < 2)
      return null;
    return createRankMap(place, page.mapData(), {
      onselect: (layer, step) => page.state.set({ layer, step }),
      onmeasure: (measure) => page.state.set({ measure }),
      onscale: (scale) => page.state.set({ scale }),
    });
  },
  layer: (page, place) => {
    if (!page.run.names.length) return null;
    return createLayerView(place, page.layerData(), {
      onstep: (step) => page.state.set({ step }),
      onlayer: (layer) => page.state.set({ layer }),
    });
  },
  pairs: (page, place) => {
    if (!page.run.pairs?.length) return null;
    const { view } = page.state;
    return createPairs(
      place,
      { run: page.run, pair: view.pair, step: view.step },
      { onpair: (pair) => page.state.set({ pair }) },
    );
  },
  descrambled: (page, place) => {
    const entries = page.run.descrambled ?? [];
    if (!entries.length) return null;
    const grid = element("div", { class: "cards" });
    place.append(element("h2", {}, "Descrambled weights"), grid);
    const views = entries.map((entry) => createDescrambled(grid, { entry }));
    return {
      resize: () => views.forEach((v) => v.resize()),
      destroy: () => views.forEach((v) => v.destroy()),
    };
  },
  cost: (page, place) => {
    if (!page.run.run_measures?.some((m) => m.steps.length > 1)) return null;
    place.append(element("h2", {}, "What the recording cost"));
    const body = element("div");
    place.append(body);
    return createRunMeasures(body, page.run);
  },
  about: (page, place) => {
    place.append(element("h2", {}, "About this run"));
    const body = element("div", { class: "abouts" });
    place.append(body);
    const view = createAbout(body, page.run);
    return view.empty ? null : view;
  },
};
