// The cell of a notebook: what the page around a frame says, and what outlives a redraw.

/** The document around the frame; null where a notebook keeps its frames apart. */
function around() {
  try {
    return window.frameElement ? window.parent.document : null;
  } catch {
    return null;
  }
}

/** "light" or "dark" as the notebook around is; null where that cannot be told. */
export function hostTheme() {
  const host = around();
  if (!host?.body) return null;
  const { jpThemeLight } = host.body.dataset; // JupyterLab
  if (jpThemeLight) return jpThemeLight === "true" ? "light" : "dark";
  const told = host.documentElement.getAttribute("theme"); // Colab
  if (told === "dark" || told === "light") return told;
  return ground(window.frameElement);
}

/** Whether what lies behind an element is light or dark. */
function ground(start) {
  const { getComputedStyle } = window.parent;
  for (let e = start; e; e = e.parentElement) {
    const parts = getComputedStyle(e).backgroundColor.match(/[\d.]+/g)?.map(Number);
    if (!parts || parts.length < 3 || parts[3] < 0.5) continue;
    const [red, green, blue] = parts;
    return 0.299 * red + 0.587 * green + 0.114 * blue < 128 ? "dark" : "light";
  }
  return null;
}

/** Call `listener` when the notebook may have another theme. */
export function onHostTheme(listener) {
  const host = around();
  if (!host?.body) return;
  const observer = new MutationObserver(listener);
  for (const e of [host.documentElement, host.body]) observer.observe(e, { attributes: true });
}

/**
 * What is remembered under a key while the tab is open: a redraw replaces the frame, and
 * with it all that it knew.
 */
export function memory(key) {
  const name = `svdhooks ${key}`;
  return {
    read() {
      try {
        return JSON.parse(sessionStorage.getItem(name)) ?? {};
      } catch {
        return {}; // a frame of an origin of its own has no storage
      }
    },
    write(value) {
      try {
        sessionStorage.setItem(name, JSON.stringify(value));
      } catch {
        // then a redraw begins anew
      }
    },
  };
}
