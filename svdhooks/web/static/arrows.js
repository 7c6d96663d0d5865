// The arrow keys of a page: through layers and steps.

/** Arrow keys anywhere in the layer view; charts and maps have their own. */
export function onkey(page, event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
  const { target } = event;
  if (target.closest("input, select, textarea, button, summary, [role=application]")) return;
  if (!page.places.layer.contains(target)) return;
  const places = page.run.places;
  const move = (by) => {
    const next = page.run.names[places.get(page.state.view.layer) + by];
    if (next !== undefined) page.state.set({ layer: next });
  };
  const keys = {
    ArrowUp: () => move(-1),
    ArrowDown: () => move(1),
    ArrowLeft: () => page.views.layer.move(-1),
    ArrowRight: () => page.views.layer.move(1),
    " ": () => page.views.layer.toggle(),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}
