// The frame of the tab: runs on the left, the run's name and verdict on top, a place below.

import { element, fill, switcher } from "./dom.js";
import { shortened, step, visible } from "./format.js";
import { named } from "./tables.js";
import { badge } from "./verdict.js";

export const VIEWS = [
  ["training", "Training", "Rank map and one layer"],
  ["between", "Between layers", "The spectral graph, and descrambled weights"],
  ["compare", "Compare", "Several runs against each other"],
  ["about", "About", "Facts, costs, what was skipped, settings"],
];

/** options: { onview(name) } */
export function createShell(root, options = {}) {
  const runs = element("aside", { class: "sidebar", "aria-label": "Runs" });
  const title = element("div", { class: "tabtitle" });
  const views = switcher("Views", VIEWS, "training", (v) => options.onview?.(v));
  const told = element("div", { class: "told" });
  const notice = element("div", { class: "notice", role: "alert" });
  const place = element("div", { class: "place" });
  const busy = element("div", { class: "busy", role: "progressbar", "aria-label": "Reading" });
  const main = element(
    "div",
    { class: "tabmain" },
    element("header", { class: "tabhead" }, title, views),
    notice,
    told,
    place,
  );
  notice.hidden = busy.hidden = true;
  fill(root, busy, runs, main);
  let said = "";

  return {
    runs,
    place,
    several(yes) {
      runs.hidden = !yes;
      root.classList.toggle("single", !yes);
    },
    press: (view) => views.press(view),
    busy(yes) {
      busy.hidden = !yes;
    },
    /** Name, state and verdict of a run. */
    tell(run, row) {
      views.hidden = false;
      fill(title, element("h1", { dir: "auto" }, named(row?.title ?? run.name, 70)), element("p", { class: "note" }, state(run, row)));
      const verdict = JSON.stringify([run.name, run.verdict]);
      if (verdict === said) return;
      said = verdict;
      fill(told, ...verdictOf(run));
      told.hidden = false;
    },
    /** A problem with what to do about it, or nothing. */
    notice(problem) {
      notice.hidden = !problem;
      if (problem)
        fill(
          notice,
          element("strong", {}, shortened(problem.message, 400)),
          " ",
          element("span", {}, shortened(problem.remedy ?? "", 400)),
        );
    },
    /** A page of words instead of a run. */
    empty(...children) {
      said = "";
      views.hidden = told.hidden = true;
      fill(title, element("h1", {}, "svdhooks"));
      fill(place, element("div", { class: "plain" }, ...children));
    },
  };
}

function state(run, row) {
  const { steps } = run;
  const parts = [counted(run.names.length, "layer")];
  if (steps?.length) {
    const records = row?.records ?? steps.length;
    parts.push(counted(records, "record"), `step ${step(steps[steps.length - 1])}`);
  } else parts.push("no record yet");
  const written = row?.written ? ago(Date.now() / 1000 - row.written) : null;
  if (written) parts.push(`written ${written}`);
  return parts.join(" · ");
}

/** "1 layer", "2,000 records". */
export function counted(count, word) {
  return `${step(count)} ${word}${count === 1 ? "" : "s"}`;
}

function ago(seconds) {
  if (seconds < 90) return "just now";
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} days ago`;
}

function verdictOf(run) {
  const found = run.verdict;
  if (!found) return [];
  const headline = element(
    "p",
    { class: "headline", dir: "auto" },
    badge(found.level),
    element("strong", {}, shortened(found.headline ?? "", 300)),
  );
  if (!found.sentences?.length) return [headline];
  const why = element(
    "details",
    {},
    element("summary", {}, "Why"),
    element("ul", {}, found.sentences.map((s) => element("li", { dir: "auto" }, visible(s).slice(0, 500)))),
  );
  return [headline, why];
}
