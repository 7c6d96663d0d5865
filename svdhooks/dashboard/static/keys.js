// Keys, wherever the focus is, but where it has keys of its own.

const OWN = "input, select, textarea, summary, [role=application], [contenteditable]";

/** Arrows go through layers and steps; space plays; "/" goes to the runs. */
export function onkey(tab, event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
  const { target, key } = event;
  if (target.closest?.(OWN) || !tab.run) return;
  if (key === " " && target.closest?.("button")) return;
  const { run, state, view } = tab;
  const layer = (by) => {
    const next = run.names[(run.places.get(state.view.layer) ?? 0) + by];
    if (next !== undefined) tab.choose(next, null);
  };
  const keys = {
    "/": () => tab.runs?.focus(),
    ...(view?.move && {
      ArrowUp: () => layer(-1),
      ArrowDown: () => layer(1),
      ArrowLeft: () => view.move(-1),
      ArrowRight: () => view.move(1),
      " ": () => view.toggle(),
    }),
  };
  if (!keys[key]) return;
  event.preventDefault();
  keys[key]();
}
