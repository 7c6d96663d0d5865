// The views of the tab: what each is made of, and what of it changes when.

import { createAlarmList } from "./alarmlist.js";
import { createAbout, createRunMeasures } from "./about.js";
import { createBetween } from "./between.js";
import { createCompare } from "./compared.js";
import { element } from "./dom.js";
import { createLayerView } from "./layerview.js";
import { lower } from "./mapheight.js";
import { createRankMap } from "./rankmap.js";
import { facts } from "./tables.js";
import { createValues } from "./values.js";

/** Some places, one below the other, each with a heading if it has one. */
function places(container, names) {
  const made = {};
  for (const [name, heading] of names) {
    const body = element("div");
    made[name] = { body, root: element("div", { class: "section" }, heading ? element("h2", {}, heading) : null, body) };
    container.append(made[name].root);
  }
  return made;
}

/** Alarms, the rank map (of one record: a table), and one layer. */
function training(tab, container) {
  const { alarms, map, layer } = places(container, [["alarms", null], ["map", null], ["layer", null]]);
  const views = {};
  const mapped = () => {
    const { measure, scale, layer: name, step } = tab.state.view;
    return { run: tab.run, measure, scale, layer: name, step, other: tab.others[0] ?? null };
  };
  const layered = () => {
    const { measure, layer: name, step } = tab.state.view;
    return { run: tab.run, layer: name, step, measure, others: tab.others, besides: tab.others.length > 0 };
  };
  let told = "";

  function warn() {
    const found = JSON.stringify([tab.run.name, tab.run.alarms]);
    alarms.root.hidden = !tab.run.alarms?.length;
    if (found === told) return;
    told = found;
    views.alarms ??= createAlarmList(alarms.body, tab.run, { onselect: (l, s) => tab.go(l, s) });
    views.alarms.update(tab.run);
  }

  function chart() {
    const single = tab.run.steps.length < 2;
    map.root.hidden = !tab.run.names.length || !tab.run.measures.length;
    if (map.root.hidden) return;
    if (views.map && single === views.single) return views.map.update(single ? tab.run : mapped());
    views.map?.destroy();
    views.single = single;
    views.map = single
      ? createValues(map.body, tab.run, { onlayer: (l) => tab.go(l, tab.state.view.step) })
      : createRankMap(map.body, mapped(), {
          onselect: (l, s) => tab.choose(l, s),
          onmeasure: (measure) => tab.state.set({ measure }),
          onscale: (scale) => tab.state.set({ scale }),
          height: lower,
        });
  }

  function look() {
    layer.root.hidden = !tab.run.places.has(tab.state.view.layer);
    if (layer.root.hidden) return;
    if (!tab.store.near(tab.run.name, tab.state.view.layer)) return; // it is on its way
    if (views.layer) views.layer.update(layered());
    else
      views.layer = createLayerView(layer.body, layered(), {
        onstep: (s) => tab.choose(null, s),
        onlayer: (l) => tab.choose(l, null),
      });
  }

  warn();
  chart();
  look();
  return {
    layerPlace: layer.root,
    changed(keys) {
      const { view } = tab.state;
      if (keys.has("measure") || keys.has("scale")) chart();
      else if (keys.has("layer") || keys.has("step")) views.map?.mark?.(view.layer, view.step);
      if (keys.has("measure")) look();
      else if (keys.has("step") && !keys.has("layer")) views.layer?.mark(view.step);
    },
    layerCame: look,
    grown() {
      warn();
      chart();
      look();
    },
    toggle: () => views.layer?.toggle(),
    move: (by) => views.layer?.move(by),
    resize: () => [views.map, views.layer].forEach((v) => v?.resize()),
    destroy: () => [views.map, views.layer, views.alarms].forEach((v) => v?.destroy()),
  };
}

/** Facts, costs, and what the recording says of itself. */
function about(tab, container) {
  const { told, cost, rest } = places(container, [["told", "Facts"], ["cost", "What the recording cost"], ["rest", "About this run"]]);
  let views = [];
  function draw() {
    const { run } = tab;
    for (const view of views) view.destroy();
    told.root.hidden = !run.facts?.length;
    told.body.replaceChildren(...(run.facts?.length ? [facts(run.facts)] : []));
    cost.root.hidden = !run.run_measures?.some((m) => m.steps.length > 1);
    const costs = cost.root.hidden ? null : createRunMeasures(cost.body, run);
    const words = createAbout(rest.body, run);
    rest.root.hidden = words.empty;
    rest.body.className = "abouts";
    views = [costs, words].filter(Boolean);
  }
  draw();
  return {
    changed() {},
    grown: draw,
    resize: () => views.forEach((v) => v.resize()),
    destroy: () => views.forEach((v) => v.destroy()),
  };
}

/** View -> (tab, container) -> { changed(keys), grown(), resize(), destroy() }. */
export const MAKERS = { training, between: createBetween, compare: createCompare, about };
