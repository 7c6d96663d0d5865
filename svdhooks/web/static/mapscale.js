// What the colours of the rank map say: amounts, shares of the start, of the maximum.

import { diverging, sequential } from "./colors.js";
import { number, percent, shortened } from "./format.js";
import { at } from "./run.js";

export const SCALES = [
  ["absolute", "Absolute", "The values as they were measured"],
  ["start", "Of the start", "Each layer's value over its first one"],
  ["maximum", "Of the maximum", "Each layer's value over the largest possible one"],
];

/** One more, where there is a run to hold against. */
export const AGAINST = ["other", "Against another run", "Each value against the other run's"];

/**
 * Shares in [0, 1] for the cells of a map, layers × records, and how to read them.
 *
 * Returns { shares, raw (layers × records), related (likewise), lut, low, high, middle,
 *   label(value), title, ticks: [[share, text]] }. `other` is the run of mode "other".
 */
export function scaled(run, measure, records, mode, dark, other = null) {
  if (mode === "other") return against(run, measure, records, dark, other);
  const [raw, related] = values(run, measure, records, mode);
  return mode === "start" ? aroundOne(raw, related, dark) : fromLow(raw, related, mode, measure);
}

function values(run, measure, records, mode) {
  const wide = run.names.length;
  const raw = new Float32Array(wide * records.length);
  const related = new Float32Array(raw.length);
  for (let l = 0; l < wide; l++) {
    let first = NaN;
    for (let j = 0; j < records.length; j++) {
      const value = measure.values[records[j] * wide + l];
      if (Number.isNaN(first)) first = value;
      const by = mode === "start" ? first : mode === "maximum" ? measure.maximum?.[l] : 1;
      raw[l * records.length + j] = value;
      related[l * records.length + j] = by ? value / by : NaN;
    }
  }
  return [raw, related];
}

/** Times the other run's value at that step; of shares the difference, for they may be 0. */
function against(run, measure, records, dark, other) {
  const [raw] = values(run, measure, records, "absolute");
  const wide = run.names.length;
  const there = other.measure(measure.name);
  const beside = new Float32Array(raw.length).fill(NaN);
  const last = other.steps[other.steps.length - 1];
  records.forEach((record, j) => {
    const now = run.steps[record];
    if (!there || !(now <= last) || now < other.steps[0]) return;
    const t = at(other.steps, now);
    for (let l = 0; l < wide; l++) {
      const place = other.places.get(run.names[l]);
      if (place === undefined) continue;
      beside[l * records.length + j] = valueBefore(there.values, other.names.length, t, place);
    }
  });
  const name = shortened(other.name, 32);
  if (measure.unit === "share") return aroundZero(raw, beside, dark, name);
  const related = raw.map((v, i) => (beside[i] ? v / beside[i] : NaN));
  const found = aroundOne(raw, related, dark);
  return {
    ...found,
    beside,
    reading: (v, b) => `${number(b, 4)} in ${name}: × ${number(v, 3)}`,
    title: `times the value of ${name}`,
  };
}

/** The last value that was measured up to record `t`, not more than some records before. */
function valueBefore(values, wide, t, place) {
  for (let i = t; i >= Math.max(0, t - 20); i--) {
    const value = values[i * wide + place];
    if (!Number.isNaN(value)) return value;
  }
  return NaN;
}

function aroundZero(raw, beside, dark, name) {
  const related = raw.map((v, i) => v - beside[i]);
  const reach = Math.max(1e-3, quantile(mapped(related, Math.abs), 0.995));
  const text = (v) => `${v > 0 ? "+" : ""}${number(v, 2)}`;
  return {
    raw,
    related,
    beside,
    shares: mapped(related, (v) => Math.max(0, Math.min(1, 0.5 + v / (2 * reach)))),
    lut: diverging(dark),
    reading: (v, b) => `${number(b, 3)} in ${name}: ${text(v)}`,
    title: `minus the value of ${name}`,
    ticks: [
      [0, text(-reach)],
      [0.5, "0"],
      [1, text(reach)],
    ],
  };
}

function aroundOne(raw, related, dark) {
  const sizes = mapped(related, (v) =>
    v > 0 && Number.isFinite(v) ? Math.abs(Math.log2(v)) : NaN,
  );
  const reach = Math.max(0.25, quantile(sizes, 0.995));
  const shares = mapped(related, (v) =>
    Number.isNaN(v)
      ? NaN
      : Math.max(0, Math.min(1, 0.5 + Math.log2(Math.max(v, 1e-30)) / (2 * reach))),
  );
  const text = (v) => `× ${number(v, 2)}`;
  return {
    raw,
    related,
    shares,
    lut: diverging(dark),
    reading: (v) => `${text(v)} of the start`,
    title: "times its first value",
    ticks: [
      [0, text(2 ** -reach)],
      [0.5, "× 1"],
      [1, text(2 ** reach)],
    ],
  };
}

function fromLow(raw, related, mode, measure) {
  const share = mode === "maximum" || measure.unit === "share";
  const top =
    share && mode === "maximum"
      ? Math.min(1, Math.max(0.02, quantile(related, 1)))
      : quantile(related, 0.998);
  const bottom = quantile(related, 0.002);
  const wide = !share && bottom > 0 && top / bottom > 30;
  const low = wide ? bottom : Math.min(0, bottom);
  const high = top > low ? top : low + 1;
  const along = wide
    ? (v) => Math.log(Math.max(v, low) / low) / Math.log(high / low)
    : (v) => (v - low) / (high - low);
  const shares = mapped(related, (v) =>
    Number.isNaN(v) ? NaN : Math.max(0, Math.min(1, along(v))),
  );
  const text = mode === "maximum" ? (v) => percent(v, 2) : (v) => number(v, 3);
  const middle = wide ? Math.sqrt(low * high) : (low + high) / 2;
  return {
    raw,
    related,
    shares,
    lut: sequential(),
    reading: mode === "maximum" ? (v) => `${percent(v)} of the maximum` : null,
    title:
      mode === "maximum"
        ? "of the largest possible value"
        : `${measure.unit || ""}${wide ? " (logarithmic)" : ""}`,
    ticks: [
      [0, text(low)],
      [0.5, text(middle)],
      [1, text(high)],
    ],
  };
}

const ENOUGH = 60_000;

/** As `map`; `Float32Array.from` with a function is ten times slower. */
function mapped(values, change) {
  const made = new Float32Array(values.length);
  for (let i = 0; i < values.length; i++) made[i] = change(values[i]);
  return made;
}

/** The q-quantile of the finite values (of a part, where they are very many); 1 if none. */
export function quantile(values, q) {
  if (q === 1) return largest(values);
  const stride = Math.max(1, Math.floor(values.length / ENOUGH));
  const finite = new Float32Array(Math.ceil(values.length / stride));
  let count = 0;
  for (let i = 0; i < values.length; i += stride)
    if (Number.isFinite(values[i])) finite[count++] = values[i];
  if (!count) return 1;
  return finite.subarray(0, count).sort()[Math.round(q * (count - 1))];
}

function largest(values) {
  let most = -Infinity;
  for (let i = 0; i < values.length; i++)
    if (values[i] > most && values[i] < Infinity) most = values[i];
  return Number.isFinite(most) ? most : 1;
}
