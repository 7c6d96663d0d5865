// What TensorBoard calls when the tab is opened: data and what draws it come side by side.

import { Looking } from "./looking.js";

const SHEETS = ["uPlot.min.css", "style.css", "tab.css"];

// all at once, instead of each when the one before has named it
const MODULES = [
  ..."tab dom exporting figures picture format host keys runlist shell state theme views".split(" "),
  ..."alarmlist about between compared layerview mapheight rankmap tables values verdict".split(" "),
  ..."colors chart marks ticks heatmap heatpaint mapscale curves spectra stepper".split(" "),
  ..."comparison descrambled edges pairs uPlot.esm".split(" "),
];

function linked(rel, href) {
  const link = document.createElement("link");
  Object.assign(link, { rel, href });
  return new Promise((done) => {
    link.onload = link.onerror = done;
    document.head.append(link);
  });
}

/** Show the tab. */
export async function render() {
  document.documentElement.lang = "en";
  document.title = "svdhooks";
  const looking = new Looking();
  const begun = looking.begin().catch((problem) => problem);
  for (const name of MODULES) linked("modulepreload", `static/${name}.js`);
  const sheets = SHEETS.map((name) => linked("stylesheet", `static/${name}`));
  const root = document.createElement("main");
  root.className = "svdhooks tab";
  root.id = "svdhooks";
  const { Tab } = await import("./tab.js");
  await Promise.all(sheets);
  document.body.append(root);
  const problem = await begun;
  new Tab(root, looking).show(problem);
}
