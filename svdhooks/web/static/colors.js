// Colour maps and the colours of lines. All can be told apart by the colour-blind: viridis
// for amounts; RdBu on paper and its dark sibling (berlin) for differences.

const VIRIDIS =
  "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d2f6b8e2c728e297a8e" +
  "26828e23898e21918c1f988b1fa08822a78528ae8032b67a3fbc734ec36b5ec96270cf5784d44b98d83e" +
  "addc30c2df23d8e219ece51bfde725";
const RED_BLUE =
  "67001f7f0823960f27ae172abb2a34c6413ed25849dc6e57e58368ef9979f5ac8bf8bda1fbceb7fdddcb" +
  "fbe6daf9efe9f6f7f7eaf1f5deebf2d2e6f0c0dcebacd2e598c8e081bad868abd04f9bc73e8cbf337eb8" +
  "2870b11e61a515508d0d3f76053061";
const BERLIN =
  "9eb0ff8caef679abed65a7e2519fd34194c13685ad2e76992868862259731d4b61183d4f14303e11242e" +
  "111a20121214190c09220c022b0e013510004112014d16025b1d086c27117d341e8e422e9e513fae6051" +
  "be6f63ce7f76df8f89f09f9cffadad";

function table(hex, reverse) {
  const knots = hex.length / 6;
  const lut = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = ((reverse ? 255 - i : i) / 255) * (knots - 1);
    const low = Math.min(Math.floor(at), knots - 2);
    for (let c = 0; c < 3; c++) {
      const a = parseInt(hex.substr(low * 6 + c * 2, 2), 16);
      const b = parseInt(hex.substr(low * 6 + 6 + c * 2, 2), 16);
      lut[i * 3 + c] = a + (b - a) * (at - low);
    }
  }
  return lut;
}

const SEQUENTIAL = table(VIRIDIS, false);
const DIVERGING = { light: table(RED_BLUE, false), dark: table(BERLIN, true) };

/** 256 colours (r, g, b in turn) from little to much. */
export function sequential() {
  return SEQUENTIAL;
}

/** 256 colours from loss (red) by none to gain (blue), to suit the theme. */
export function diverging(dark) {
  return dark ? DIVERGING.dark : DIVERGING.light;
}

/** The CSS colour of a share between 0 and 1. */
export function css(lut, share) {
  const i = 3 * Math.max(0, Math.min(255, Math.round(share * 255)));
  return `rgb(${lut[i]},${lut[i + 1]},${lut[i + 2]})`;
}

/** A CSS gradient over the whole map, for its key. */
export function gradient(lut, direction = "to right") {
  const stops = [];
  for (let i = 0; i <= 16; i++) stops.push(css(lut, i / 16));
  return `linear-gradient(${direction}, ${stops.join(", ")})`;
}

// Okabe and Ito's, darkened on paper and lightened on dark until they reach a contrast of 3.
const LINES = {
  light: ["#0b63b5", "#c2560a", "#00795a", "#8f3f97", "#a07400", "#3a8fb7", "#5f6b76"],
  dark: ["#5cabf5", "#f5964a", "#3ec79b", "#d58be0", "#e6c04c", "#8fd3ef", "#a5b0bb"],
};

/** The colour of the i-th of several lines. */
export function line(i, dark) {
  const colours = dark ? LINES.dark : LINES.light;
  return colours[i % colours.length];
}

/** The same colour, let through. */
export function faint(hex, alpha) {
  const part = (i) => parseInt(hex.substr(1 + 2 * i, 2), 16);
  return `rgba(${part(0)},${part(1)},${part(2)},${alpha})`;
}
