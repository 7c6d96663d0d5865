// Weights as trained, and with their outputs mixed so that they are as smooth as can be.

import { diverging } from "./colors.js";
import { card } from "./dom.js";
import { number, shortened } from "./format.js";
import { createHeatmap } from "./heatmap.js";
import { isDark } from "./theme.js";

const NOTES = {
  raw: "Rows: outputs; columns: inputs. Red is below 0, blue above.",
  descrambled: "Outputs mixed by an orthogonal matrix that makes them as smooth as can be.",
};

/** data: { entry: { layer, raw, descrambled, call } } */
export function createDescrambled(container, data) {
  const views = [
    ["raw", "As trained"],
    ["descrambled", "Descrambled"],
  ]
    .filter(([k]) => data.entry[k])
    .map(([k, words]) => {
      const frame = card(`${shortened(data.entry.layer, 40)}: ${words.toLowerCase()}`, {
        call: data.entry.call,
        note: NOTES[k],
      });
      container.append(frame.root);
      const map = createHeatmap(frame.body, cells(data.entry[k]), {
        label: words,
        height: () => 260,
        square: true,
        numeric: true,
        margin: 0.12,
        every: 44,
      });
      return { update: () => map.update(cells(data.entry[k])), root: frame.root };
    });
  return {
    update() {},
    resize: () => views.forEach((v) => v.update()),
    destroy: () => views.forEach((v) => v.root.remove()),
  };
}

function cells(matrix) {
  const [rows, columns] = matrix.shape;
  const top = matrix.reduce((a, b) => Math.max(a, Math.abs(b)), 0) || 1;
  return {
    rows,
    columns,
    lut: diverging(isDark()),
    shares: matrix.map((v) => 0.5 + v / (2 * top)),
    hatched: null,
    groups: null,
    rowLabel: (i) => String(i + 1),
    columnLabel: (j) => String(j + 1),
    columnTitle: "inputs",
    row: -1,
    column: -1,
    value: (i, j) => matrix[i * columns + j],
    describe: (i, j) => `row ${i + 1} · column ${j + 1} · ${number(matrix[i * columns + j], 3)}`,
  };
}
