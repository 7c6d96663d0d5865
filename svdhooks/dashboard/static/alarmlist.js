// The alarms of a run, a line each: a click on a line tells more, on a layer goes there.

import { element, fill, recomputed } from "./dom.js";
import { number, shortened, step, visible } from "./format.js";
import { named } from "./tables.js";
import { LEVELS } from "./verdict.js";

const FEW = 4;

/** data: a run; options: { onselect(layer, step) } */
export function createAlarmList(container, data, options = {}) {
  let all = false;
  let shown = data;

  function update(run) {
    shown = run;
    const alarms = [...(run.alarms ?? [])].sort((a, b) => rank(a) - rank(b) || a.step - b.step);
    const open = new Set([...container.querySelectorAll("details[open]")].map((d) => d.dataset.key));
    const more = alarms.length - FEW;
    fill(
      container,
      element("div", { class: "alarms" }, alarms.slice(0, all ? undefined : FEW).map(line)),
      more > 0 && !all
        ? element("button", { type: "button", class: "quiet more", onclick: everything }, `Show ${more} more`)
        : null,
    );
    for (const d of container.querySelectorAll("details")) d.open = open.has(d.dataset.key);
  }

  function everything() {
    all = true;
    update(shown);
  }

  function line(event) {
    const message = visible(event.message ?? "").slice(0, 1500);
    const details = element(
      "details",
      { class: "alarmline" },
      element(
        "summary",
        {},
        sign(event.severity),
        element("span", { class: "when" }, `step ${step(event.step)}`),
        target(event),
        element("b", {}, named(String(event.alarm).replaceAll("_", " "), 40, "span")),
        element("span", { class: "said", dir: "auto" }, message),
      ),
      element(
        "div",
        { class: "alarmtold" },
        element("p", { dir: "auto" }, message),
        evidence(event),
        element("p", { class: "note" }, event.source === "live" ? "Raised while it trained." : "Raised by the same rules, read afterwards."),
        recomputed(shown.alarms_call),
      ),
    );
    details.dataset.key = `${event.alarm} ${event.layer} ${event.step}`;
    return details;
  }

  function target(event) {
    if (!shown.places.has(event.layer)) return named(event.layer || "the run", 44);
    const go = (click) => {
      click.preventDefault();
      options.onselect?.(event.layer, event.step);
    };
    const title = `Show ${visible(event.layer).slice(0, 400)} at step ${step(event.step)}`;
    return element("button", { type: "button", class: "link", title, onclick: go }, named(event.layer, 44));
  }

  update(data);
  return { update, resize() {}, destroy: () => fill(container) };
}

function rank(event) {
  return event.severity === "alarm" ? 0 : 1;
}

function sign(severity) {
  const known = Object.hasOwn(LEVELS, severity) ? severity : "unknown";
  const [mark, word] = LEVELS[known];
  return element("span", { class: `badge ${known}`, title: word, "aria-label": word }, mark);
}

function evidence(event) {
  const keys = Object.keys(event.evidence ?? {});
  if (!keys.length) return null;
  const pair = (key) =>
    element(
      "div",
      {},
      element("dt", {}, shortened(key, 60)),
      element("dd", {}, number(event.evidence[key], 4)),
    );
  return element("dl", { class: "evidence" }, keys.map(pair));
}
