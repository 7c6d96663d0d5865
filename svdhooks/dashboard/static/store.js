// The runs that are looked at, as far as the server has told of them.

import { Run } from "./run.js";
import { bundle, plain } from "./server.js";

const MOST_RUNS = 8;
const MOST_LAYERS = 24;
const RECORDS = 200;

/** What is known of runs and layers; asks for the rest. */
export class Store {
  constructor() {
    this.listed = { runs: [] };
    this.kept = new Map();
    this.parts = new Map();
    this.waiting = new Map();
  }

  /** Names of the runs, and what to do if there are none. */
  async list() {
    this.listed = await plain("runs");
    return this.listed;
  }

  run(name) {
    return this.kept.get(name)?.run ?? null;
  }

  /** Ask for what is new in a run; whether something was. */
  async renew(name) {
    const kept = this.kept.get(name);
    const answer = await bundle("overview", { run: name, known: kept?.token });
    if (answer.unchanged && kept) return false;
    const tree = Object.assign(Object.create(null), kept?.tree, answer.run ?? answer);
    // of a token, the last two counts are of alarms and of what others log
    const records = answer.token?.split("-").slice(0, -2).join("-");
    this.keep(name, { token: answer.token, records, tree, run: made(name, tree) });
    // older than the run now, but better than nothing until it is asked for again
    for (const part of this.parts.values()) if (part.name === name) attach(this.run(name), part);
    return true;
  }

  keep(name, entry) {
    this.kept.delete(name);
    this.kept.set(name, entry);
    for (const old of this.kept.keys()) {
      if (this.kept.size <= MOST_RUNS) break;
      this.kept.delete(old);
    }
  }

  /** Whether a layer's own part is there, as new as its run. */
  has(name, layer) {
    const part = this.parts.get(keyed(name, layer));
    return part !== undefined && part.tree.token === this.kept.get(name)?.records;
  }

  /** Whether a layer's own part is there, if older than its run. */
  near(name, layer) {
    return this.parts.has(keyed(name, layer));
  }

  /** Ask for what belongs to one layer, unless it is there. */
  async layer(name, layer) {
    if (!this.run(name)?.places.has(layer) || this.has(name, layer)) return;
    const key = keyed(name, layer);
    if (!this.waiting.has(key)) {
      const asked = this.fetched(name, layer).finally(() => this.waiting.delete(key));
      this.waiting.set(key, asked);
    }
    await this.waiting.get(key);
  }

  async fetched(name, layer) {
    const key = keyed(name, layer);
    const known = this.parts.get(key)?.tree.token;
    const tree = await bundle("layer", { run: name, layer, records: RECORDS, known });
    if (tree.unchanged) return;
    const part = { name, layer, tree };
    this.parts.delete(key);
    this.parts.set(key, part);
    if (this.run(name)) attach(this.run(name), part);
    for (const [old, { name: of, layer: its }] of this.parts) {
      if (this.parts.size <= MOST_LAYERS) break;
      this.parts.delete(old);
      const run = this.run(of);
      if (run) detach(run, its);
    }
  }
}

function keyed(name, layer) {
  return JSON.stringify([name, layer]);
}

function made(name, tree) {
  const run = new Run(tree);
  run.name = name;
  run.spectra = Object.create(null);
  run.local_rank = Object.create(null);
  run.ledger = Object.create(null);
  run.fine = new Map();
  return run;
}

/** Put a layer's part where views look for it. */
function attach(run, { layer, tree }) {
  run.spectra[layer] = tree.spectra ?? {};
  run.local_rank[layer] = tree.local_rank ?? {};
  if (tree.ledger) run.ledger[layer] = tree.ledger;
  const fine = Object.create(null);
  for (const m of tree.measures ?? []) fine[m.name] = { x: m.steps, y: m.values };
  run.fine.set(layer, fine);
}

function detach(run, layer) {
  delete run.spectra[layer];
  delete run.local_rank[layer];
  delete run.ledger[layer];
  run.fine.delete(layer);
}
