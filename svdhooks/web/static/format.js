// Numbers, steps and names as people read them.

const MINUS = "\u2212";
const POWERS = {
  "-": "⁻",
  0: "⁰",
  1: "¹",
  2: "²",
  3: "³",
  4: "⁴",
  5: "⁵",
  6: "⁶",
  7: "⁷",
  8: "⁸",
  9: "⁹",
};

const NONE = "\u2013";

/** A number in at most `digits` significant digits; powers of ten beyond 10⁻³ … 10⁶. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  if (value === 0) return "0";
  const size = Math.abs(value);
  const sign = value < 0 ? MINUS : "";
  if (size >= 1e6 || size < 1e-3) {
    const [mantissa, exponent] = size.toExponential(digits - 1).split("e");
    const shown = trimmed(mantissa);
    return sign + (shown === "1" ? "" : `${shown}·`) + power(Number(exponent));
  }
  if (size >= 100) return sign + grouped(size.toFixed(Math.max(0, digits - 3)));
  return sign + trimmed(size.toPrecision(digits));
}

/** 10ⁿ with raised digits. */
export function power(exponent) {
  return (
    "10" +
    String(exponent)
      .split("")
      .map((c) => POWERS[c])
      .join("")
  );
}

function trimmed(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function grouped(text) {
  const [whole, part] = text.split(".");
  const spaced = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return part && Number(part) ? `${spaced}.${part}` : spaced;
}

/** A step, in full: 12,400. */
export function step(value) {
  return value === null || value === undefined ? NONE : grouped(String(Math.round(value)));
}

/** A tick of an axis, short: 0.5, 250, 12.4k, 2M, 10⁻⁵. */
export function tick(value) {
  const size = Math.abs(value);
  const sign = value < 0 ? MINUS : "";
  if (size >= 1e9 || (size > 0 && size < 1e-3)) return number(value, 2);
  if (size >= 1e6) return sign + trimmed((size / 1e6).toPrecision(4)) + "M";
  if (size >= 1e4) return sign + trimmed((size / 1e3).toPrecision(4)) + "k";
  if (size >= 1e3) return sign + grouped(String(Number(size.toPrecision(6))));
  return sign + trimmed(size.toPrecision(4));
}

/** A decade of a logarithmic axis; nothing at values between decades. */
export function decade(value) {
  const exponent = Math.log10(value);
  const near = Math.round(exponent);
  if (Math.abs(exponent - near) > 1e-6) return "";
  return near >= -2 && near <= 4 ? tick(value) : power(near);
}

/** A share of one as per cent. */
export function percent(value, digits = 2) {
  return Number.isFinite(value) ? `${number(100 * value, digits)} %` : NONE;
}

/** Text of at most `room` characters: its middle gives way, for the ends tell names apart. */
export function shortened(text, room) {
  const characters = Array.from(visible(text));
  if (characters.length <= room) return characters.join("");
  const end = Math.ceil((room - 1) * 0.6);
  const start = room - 1 - end;
  return `${characters.slice(0, start).join("")}…${characters.slice(characters.length - end).join("")}`;
}

/** With a capital first letter. */
export function capital(text) {
  const shown = visible(text);
  return shown ? shown[0].toUpperCase() + shown.slice(1) : shown;
}

/** Text whose control and direction-changing characters can be seen. */
export function visible(text) {
  // eslint-disable-next-line no-control-regex
  return String(text).replace(/[\u0000-\u001f\u007f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "␣");
}

/** Text that fits into `width` pixels as `context` would draw it. */
export function fitted(context, text, width) {
  const short = shortened(text, 80);
  if (context.measureText(short).width <= width) return short;
  let low = 1;
  let high = Array.from(short).length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(shortened(text, middle)).width <= width) low = middle;
    else high = middle - 1;
  }
  return shortened(text, low);
}
