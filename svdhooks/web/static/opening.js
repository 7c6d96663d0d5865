// What a page opens with: the data that it carries, and what is looked at first.

import { arraysOf, bytesOf, inflated, joined } from "./packed.js";
import { parsed } from "./state.js";
import { gravity } from "./verdict.js";

/** Read the data that the page carries. */
export async function carried() {
  const text = (id) => document.getElementById(id).textContent;
  const { tree, manifest } = JSON.parse(text("svdhooks-tree"));
  const bytes = await inflated(bytesOf(text("svdhooks-arrays").trim()));
  return joined(tree, arraysOf(bytes, manifest));
}

/** The layer that is looked at first: that of the first alarm, else the one in the middle. */
export function firstLayer(run) {
  const alarmed = (run.alarms ?? []).find((a) => a.severity === "alarm" && run.places.has(a.layer));
  if (alarmed) return alarmed.layer;
  const told = Object.keys(run.spectra ?? {}).filter((name) => run.places.has(name));
  return told[Math.floor(told.length / 2)] ?? run.names[0];
}

/** What is looked at first: what the address says, else the gravest run and its alarm. */
export function opening(runs) {
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

/** The last recorded step. */
export function lastStep(run) {
  return run.steps?.length ? run.steps[run.steps.length - 1] : 0;
}
