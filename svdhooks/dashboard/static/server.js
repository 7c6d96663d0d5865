// What the server is asked, and how its answers are read.

import { arraysOf, joined } from "./packed.js";

/** An answer that is none: what is wrong and what to do about it. */
export class Refusal extends Error {
  constructor(what, remedy, status) {
    super(what);
    this.remedy = remedy;
    this.status = status;
  }
}

function addressed(route, query) {
  const given = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== undefined && one !== null) given.append(key, one);
  }
  const text = given.toString();
  return text ? `${route}?${text}` : route;
}

async function answered(route, query) {
  let answer;
  try {
    answer = await fetch(addressed(route, query));
  } catch {
    throw new Refusal(
      "TensorBoard does not answer.",
      "If it was stopped, start it again; this page goes on by itself.",
      0,
    );
  }
  if (answer.ok) return answer;
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // not from our plugin: a proxy, or TensorBoard without it
  }
  throw new Refusal(
    told.error ?? `The server answered ${answer.status}.`,
    told.remedy ?? "Reload the page. TensorBoard's terminal has the details.",
    answer.status,
  );
}

/** JSON. */
export async function plain(route, query = {}) {
  return (await answered(route, query)).json();
}

/** A tree whose arrays are typed arrays. */
export async function bundle(route, query = {}) {
  const answer = await answered(route, query);
  if (answer.headers.get("Content-Type")?.startsWith("application/json")) return answer.json();
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  return joined(head.tree, arraysOf(bytes.subarray(4 + length), head.manifest));
}
