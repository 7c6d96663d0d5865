// What is being looked at, in the address: a link restores it.

const KEYS = ["run", "layer", "step", "measure", "scale", "pair", "theme"];

/** The view that an address names; keys that it does not name are absent. */
export function parsed(hash) {
  const found = {};
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  for (const key of KEYS) if (given.has(key)) found[key] = given.get(key);
  return found;
}

/** The address of a view. */
export function written(view) {
  const made = new URLSearchParams();
  for (const key of KEYS) {
    if (view[key] !== undefined && view[key] !== null && view[key] !== "") made.set(key, view[key]);
  }
  return `#${made}`;
}

/**
 * What is being looked at, and who wants to know of changes.
 *
 * `view` holds run, layer, step, measure, scale, pair, theme; `set(change)` merges a change,
 * writes the address and calls the listeners with what changed.
 */
export function createState(defaults, write = writeAddress) {
  const listeners = new Set();
  const view = { ...defaults };
  let pending = 0;
  function set(change, silent = false) {
    const changed = Object.keys(change).filter((key) => view[key] !== change[key]);
    if (!changed.length) return;
    Object.assign(view, change);
    for (const listener of listeners) listener(new Set(changed), view);
    if (silent) return;
    // browsers refuse more than a hundred changes of the address in a while
    clearTimeout(pending);
    pending = setTimeout(() => write(written(view)), 250);
  }
  return { view, set, listen: (listener) => listeners.add(listener) };
}

function writeAddress(hash) {
  try {
    history.replaceState(null, "", hash);
  } catch {
    // where the address cannot be changed, the page works without
  }
}
