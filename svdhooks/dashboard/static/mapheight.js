// How high a map is in the tab.

/** The map's height: the layer below it should be in sight too. */
export function lower(rows) {
  const most = Math.max(260, 0.46 * window.innerHeight);
  return Math.max(60, Math.min(20 * rows, Math.max(most, 13 * Math.min(rows, 32), Math.min(rows, 700))));
}
