// The verdict, the facts of a run, and its alarms.

import { element, fill, recomputed } from "./dom.js";
import { number, shortened, step, visible } from "./format.js";
import { facts, named, table } from "./tables.js";

export const LEVELS = {
  healthy: ["✓", "Healthy"],
  information: ["i", "For information"],
  info: ["i", "Information"],
  attention: ["!", "Needs attention"],
  alarm: ["▲", "Alarm"],
  unknown: ["?", "No verdict"],
};

const SENTENCE = 500;

/** A level as a sign and a word, never as a colour alone. */
export function badge(level) {
  const known = Object.hasOwn(LEVELS, level) ? level : "unknown";
  const [sign, word] = LEVELS[known];
  return element(
    "span",
    { class: `badge ${known}` },
    element("span", { "aria-hidden": "true" }, sign),
    ` ${word}`,
  );
}

/** The verdict of a run in plain words, and its facts. data: a run; options: { several: name the run } */
export function createVerdict(container, data, options = {}) {
  function update(run) {
    const told = run.verdict ?? {};
    const known = Object.hasOwn(LEVELS, told.level) ? told.level : "unknown";
    const sentences = (told.sentences ?? []).map((s) =>
      element("li", { dir: "auto" }, shortened(s, SENTENCE)),
    );
    fill(
      container,
      element(
        "div",
        { class: `verdict ${known}` },
        badge(told.level),
        options.several ? element("span", { class: "of" }, " · ", named(run.name, 60)) : null,
        element("h2", { dir: "auto" }, shortened(told.headline ?? "No verdict", 300)),
        sentences.length ? element("ul", {}, sentences) : null,
      ),
      run.facts?.length ? facts(run.facts) : null,
    );
  }
  update(data);
  return { update, resize() {}, destroy: () => container.replaceChildren() };
}

const ORDER = ["alarm", "attention", "information", "info", "unknown", "healthy"];

/** How grave a run's verdict is: the smaller the graver. */
export function gravity(run) {
  const place = ORDER.indexOf(run.verdict?.level);
  return place < 0 ? ORDER.length : place;
}

/** The verdicts of several runs, one line each. data: { runs, run }; options: { onrun(index) } */
export function createVerdicts(container, data, options = {}) {
  const pick = (run) =>
    element(
      "button",
      {
        type: "button",
        class: "link",
        title: visible(run.path ?? run.name).slice(0, 500),
        "aria-current": run === data.runs[data.run] ? "true" : null,
        onclick: () => options.onrun?.(data.runs.indexOf(run)),
      },
      named(run.name, 40),
    );
  fill(
    container,
    table(
      [
        { label: "Verdict", cell: (run) => badge(run.verdict?.level) },
        { label: "Run", cell: pick },
        {
          label: "In short",
          long: true,
          cell: (run) =>
            element("span", { dir: "auto" }, shortened(run.verdict?.headline ?? "", 240)),
        },
      ],
      data.runs,
      { caption: "Verdicts of all runs", limit: 10, stack: true },
    ),
  );
  return { update() {}, resize() {}, destroy: () => container.replaceChildren() };
}

/** The alarms of a run; a click goes to layer and step. options: onselect(layer, step) */
export function createAlarms(container, data, options = {}) {
  function update(run) {
    const alarms = [...(run.alarms ?? [])].sort((a, b) => rank(a) - rank(b) || a.step - b.step);
    if (!alarms.length) {
      fill(container, element("p", { class: "note" }, "No alarm was raised."));
      return;
    }
    fill(
      container,
      table(columns(run), alarms, { limit: 8, caption: "Alarms", stack: true }),
      ...[recomputed(run.alarms_call)].filter(Boolean),
    );
  }
  const go = (run, event) => {
    if (!run.places.has(event.layer)) return named(event.layer || "the run", 44);
    return element(
      "button",
      {
        type: "button",
        class: "link",
        title: `Show ${visible(event.layer).slice(0, 400)} at step ${step(event.step)}`,
        onclick: () => options.onselect?.(event.layer, event.step),
      },
      named(event.layer, 44),
    );
  };
  const columns = (run) => [
    { label: "Level", cell: (e) => badge(e.severity) },
    { label: "Step", numeric: true, cell: (e) => step(e.step) },
    { label: "Layer", cell: (e) => go(run, e) },
    {
      label: "What",
      long: true,
      cell: (e) => element("div", { class: "what" }, told(e), evidence(e)),
    },
    {
      label: "Raised",
      title: "Live: while it trained. Read afterwards: the same rules on the log",
      cell: (e) => named(e.source ?? "", 20, "span"),
    },
  ];
  update(data);
  return { update, resize() {}, destroy: () => container.replaceChildren() };
}

function rank(event) {
  return event.severity === "alarm" ? 0 : 1;
}

function told(event) {
  const since =
    Number.isFinite(event.since) && event.since !== event.step
      ? ` Since step ${step(event.since)}.`
      : "";
  return element(
    "span",
    { dir: "auto" },
    element("b", {}, named(String(event.alarm).replaceAll("_", " "), 40)),
    " ",
    visible(event.message ?? "").slice(0, 1500),
    since.length && !String(event.message).includes("ince step") ? since : "",
  );
}

function evidence(event) {
  const pairs = Object.keys(event.evidence ?? {});
  if (!pairs.length) return null;
  return element(
    "details",
    {},
    element("summary", {}, "Evidence"),
    element(
      "dl",
      { class: "evidence" },
      pairs.map((key) =>
        element(
          "div",
          {},
          element("dt", {}, named(key, 60, "span")),
          element("dd", {}, number(event.evidence[key], 4)),
        ),
      ),
    ),
  );
}
