// Where an axis is labelled.

/** Round values in [low, high], at most about `count`. */
export function linearTicks(low, high, count) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / Math.max(1, count);
  const base = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].find((m) => m * base >= rough * 0.999) * base;
  const found = [];
  for (let i = Math.ceil(low / unit - 1e-9); i * unit <= high + 1e-9 * span; i++)
    found.push(round(i * unit));
  return found;
}

/** 0 and decades, for an axis that is linear below 1 and logarithmic above. */
export function timeTicks(low, high, count) {
  const decades = [0];
  for (let d = 1; d <= high; d *= 10) decades.push(d);
  const stride = Math.ceil(decades.length / Math.max(2, count));
  return decades.filter((v, i) => v >= low && (i === 0 || (i - 1) % stride === 0));
}

/** Whether steps are so crowded at the start that a logarithmic axis shows them better. */
export function crowded(steps) {
  const last = steps[steps.length - 1];
  return steps.length > 8 && last > 50 && steps[Math.floor(steps.length / 2)] < last / 6;
}

/** Values in [low, high] for a logarithmic axis: decades, or their 2nd and 5th parts too. */
export function logTicks(low, high, count) {
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  const within = (values) => values.filter((v) => v >= low * 0.9999 && v <= high * 1.0001);
  const decades = [];
  for (let e = first; e <= last; e++) decades.push(round(10 ** e));
  const whole = within(decades);
  if (whole.length > count) {
    const stride = Math.ceil(whole.length / count);
    return whole.filter((v) => Math.round(Math.log10(v)) % stride === 0);
  }
  for (const parts of [
    [1, 2, 5],
    [1, 2, 3, 4, 5, 6, 7, 8, 9],
  ]) {
    if (whole.length >= 3) break;
    const finer = within(decades.flatMap((d) => parts.map((p) => round(p * d))));
    if (finer.length >= 3) return finer.length <= count + 2 ? finer : whole;
  }
  if (whole.length >= 2) return whole;
  return linearTicks(low, high, Math.min(count, 4));
}

/**
 * Of `count` places on `room` pixels, which to label so that labels are `apart` pixels apart.
 * With `fromOne` the places are counted from 1, and round ones are labelled.
 */
export function spaced(count, room, apart, fromOne = false) {
  const least = Math.max(1, Math.ceil((apart * count) / Math.max(1, room)));
  const unit = 10 ** Math.floor(Math.log10(least));
  const stride = [1, 2, 5, 10].find((m) => m * unit >= least) * unit;
  const found = [0];
  const shift = fromOne && stride > 1 ? 1 : 0;
  for (let i = stride - shift; i < count; i += stride) if (i > 0.6 * stride) found.push(i);
  return found;
}

function round(value) {
  return Number(value.toPrecision(12));
}
