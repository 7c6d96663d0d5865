// Arrays as they come in a page: one deflated blob, its bytes sorted by significance.

const KINDS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

/** Bytes of base64 text. */
export function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** What deflate (zlib) made smaller. */
export async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * Typed arrays, each with its `shape`. All first bytes of the items of an array come first,
 * then all second bytes …, for so they are packed tighter.
 *
 * manifest: [{ dtype, shape }] in the order of the bytes.
 */
export function arraysOf(bytes, manifest) {
  let at = 0;
  return manifest.map(({ dtype, shape }) => {
    const count = shape.reduce((a, b) => a * b, 1);
    const array = new KINDS[dtype](count);
    const size = array.BYTES_PER_ELEMENT;
    const target = new Uint8Array(array.buffer);
    for (let b = 0; b < size; b++) {
      for (let i = 0, p = b; i < count; i++, p += size) target[p] = bytes[at++];
    }
    array.shape = shape;
    return array;
  });
}

/**
 * The tree in which {"$array": i} is replaced by the array. Its objects have no prototype,
 * so that a layer called "constructor" or "__proto__" is but a name.
 */
export function joined(tree, arrays) {
  if (tree === null || typeof tree !== "object") return tree;
  if (Array.isArray(tree)) return tree.map((item) => joined(item, arrays));
  if (Object.hasOwn(tree, "$array")) return arrays[tree.$array];
  const made = Object.create(null);
  for (const key of Object.keys(tree)) made[key] = joined(tree[key], arrays);
  return made;
}
