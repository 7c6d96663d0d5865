// One run: its layers, measures and curves, found by name.

/** What views ask of a run (a branch of the page's tree, or what a server sent). */
export class Run {
  constructor(tree) {
    Object.assign(this, tree);
    this.names = (tree.layers ?? []).map((layer) => layer.name);
    this.places = new Map(this.names.map((name, i) => [name, i]));
    this.measures = (tree.measures ?? []).map((m) => ({ ...m, of: this }));
    this.scalars = tree.scalars ?? [];
    this.loss = this.scalars.find((s) => s.is_loss && s.values.length) ?? null;
  }

  measure(name) {
    return this.measures.find((m) => m.name === name) ?? null;
  }

  layer(name) {
    return this.layers[this.places.get(name)] ?? null;
  }

  /** The curve of a layer: { x: steps, y: values } where it was measured. */
  curve(measure, layer) {
    const place = this.places.get(layer);
    // where a server sent the layer's own records, they are finer than the map's
    const fine = this.fine?.get(layer)?.[measure?.name];
    if (fine) return fine;
    const x = [];
    const y = [];
    if (!measure || place === undefined) return { x, y };
    const wide = this.names.length;
    for (let t = 0; t < this.steps.length; t++) {
      const value = measure.values[t * wide + place];
      if (Number.isNaN(value)) continue;
      x.push(this.steps[t]);
      y.push(value);
    }
    return { x, y };
  }

  /** Whether some value of a layer's curve is marked as limited by the samples. */
  limited(measure, layer) {
    const place = this.places.get(layer);
    if (!measure?.limited || place === undefined) return false;
    const wide = this.names.length;
    for (let t = 0; t < this.steps.length; t++) if (measure.limited[t * wide + place]) return true;
    return false;
  }

  /** Indices of the records to show of a measure: all, unless it is measured more rarely. */
  recorded(measure) {
    const wide = this.names.length;
    const found = [];
    for (let t = 0; t < this.steps.length; t++) {
      for (let l = 0; l < wide; l++) {
        if (!Number.isNaN(measure.values[t * wide + l])) {
          found.push(t);
          break;
        }
      }
    }
    // on a schedule of its own; else what is missing before or after is worth seeing
    const sparse = found.length < 0.9 * (found[found.length - 1] - found[0] + 1);
    return sparse ? found : Array.from(this.steps, (_, t) => t);
  }

  /** Measures that some record of this layer has. */
  measuresOf(layer) {
    return this.measures.filter((m) => this.curve(m, layer).x.length);
  }
}

/** The index of the last step that is not after `step` (the first, if all are). */
export function at(steps, step) {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle - 1;
  }
  return low;
}
