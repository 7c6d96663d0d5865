// What TensorBoard calls when the tab is opened.

import { Tab } from "./tab.js";

const SHEETS = ["uPlot.min.css", "style.css", "tab.css"];

/** A style sheet, once it is there; charts are laid out by it. */
function styled(name) {
  return new Promise((done) => {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = `static/${name}`;
    link.onload = link.onerror = done;
    document.head.append(link);
  });
}

/** Show the tab. */
export async function render() {
  document.documentElement.lang = "en";
  document.title = "svdhooks";
  const root = document.createElement("main");
  root.className = "svdhooks tab";
  root.id = "svdhooks";
  const tab = new Tab(root);
  const asked = tab.ask();
  await Promise.all(SHEETS.map(styled));
  document.body.append(root);
  await asked;
  tab.show();
}
