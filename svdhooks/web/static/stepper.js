// The step slider, with buttons and play.

import { element } from "./dom.js";
import { step } from "./format.js";
import { at } from "./run.js";

const PAUSE = 140;

/** data: { steps, step }; options: { onpick(step) } */
export function createStepper(container, data, options = {}) {
  let shown = data;
  let timer = 0;
  const slider = element("input", {
    type: "range",
    min: 0,
    step: 1,
    "aria-label": "Step",
    oninput: () => go(Number(slider.value)),
  });
  const back = element(
    "button",
    {
      type: "button",
      title: "Earlier record (←)",
      "aria-label": "Earlier record",
      onclick: () => go(place() - 1),
    },
    "‹",
  );
  const on = element(
    "button",
    {
      type: "button",
      title: "Later record (→)",
      "aria-label": "Later record",
      onclick: () => go(place() + 1),
    },
    "›",
  );
  const play = element(
    "button",
    { type: "button", class: "play", title: "Play (space)", "aria-label": "Play", onclick: toggle },
    "▶",
  );
  const label = element("output", { class: "stepnow" });
  const root = element("div", { class: "stepper" }, play, back, slider, on, label);
  container.append(root);

  const place = () => at(shown.steps, shown.step ?? Infinity);

  function go(i) {
    const bounded = Math.max(0, Math.min(shown.steps.length - 1, i));
    options.onpick?.(shown.steps[bounded]);
  }

  function toggle() {
    if (timer) return stop();
    if (place() >= shown.steps.length - 1) go(0);
    const stride = Math.max(1, Math.round(shown.steps.length / 120));
    timer = setInterval(() => {
      const next = place() + stride;
      go(next);
      if (next >= shown.steps.length - 1) stop();
    }, PAUSE);
    play.textContent = "❚❚";
    return play.setAttribute("aria-label", "Pause");
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶";
    play.setAttribute("aria-label", "Play");
  }

  function update(next) {
    shown = next;
    slider.max = String(Math.max(0, shown.steps.length - 1));
    slider.value = String(place());
    slider.setAttribute("aria-valuetext", `step ${step(shown.steps[place()])}`);
    label.textContent = `step ${step(shown.steps[place()])}`;
    label.style.minWidth = `${5 + step(shown.steps[shown.steps.length - 1]).length}ch`;
    root.hidden = shown.steps.length < 2;
  }

  update(data);
  return {
    update,
    toggle,
    move: (by) => go(place() + by),
    mark(value) {
      update({ ...shown, step: value });
    },
    resize() {},
    destroy() {
      stop();
      root.remove();
    },
  };
}
