// TensorBoard around this frame: its colours, its address, whether the tab is seen.

const NAME = "svdhooks";
const PREFIX = `p.${NAME}.`;

/** TensorBoard's own window; null where it cannot be reached. */
function outer() {
  try {
    return window.parent !== window && window.parent.document ? window.parent : null;
  } catch {
    return null;
  }
}

/** Call `listener(dark)` now and whenever TensorBoard is switched to dark or back. */
export function followTheme(listener) {
  const host = outer();
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (host ? host.document.body.classList.contains("dark-mode") : system.matches);
  let last = dark();
  const look = () => {
    if (dark() === last) return;
    last = dark();
    listener(last);
  };
  listener(last);
  if (!host) return system.addEventListener("change", look);
  const watcher = new MutationObserver(look);
  return watcher.observe(host.document.body, { attributes: true, attributeFilter: ["class"] });
}

/** Whether anybody can see the tab. TensorBoard keeps hidden tabs alive, without height. */
export function seen() {
  return window.innerHeight > 0 && !document.hidden;
}

/** Call `listener` whenever the tab comes into sight again. */
export function onSeen(listener) {
  let before = seen();
  const look = () => {
    const now = seen();
    if (now && !before) listener();
    before = now;
  };
  window.addEventListener("resize", look);
  document.addEventListener("visibilitychange", look);
  new IntersectionObserver(look).observe(document.documentElement);
}

/** The view that TensorBoard's address names: key -> text. */
export function addressed() {
  const text = (outer() ?? window).location.hash.replace(/^#/, "");
  const found = {};
  for (const [key, value] of new URLSearchParams(text))
    if (key.startsWith(PREFIX)) found[key.slice(PREFIX.length)] = value;
  return found;
}

/** Put a view into TensorBoard's address, so that a link restores it. */
export function address(view) {
  const host = outer() ?? window;
  const tab = host.location.hash.replace(/^#/, "").split("&")[0];
  // another tab is open: its address is not ours
  if (host !== window && tab && tab !== NAME) return;
  const given = new URLSearchParams();
  for (const [key, value] of Object.entries(view))
    if (value !== undefined && value !== null && value !== "") given.set(PREFIX + key, value);
  const hash = `#${NAME}${given.size ? `&${given}` : ""}`;
  if (hash === host.location.hash) return;
  try {
    host.history.replaceState(host.history.state, "", hash);
  } catch {
    // where the address cannot be changed, the tab works without
  }
}

/** Call `listener` when somebody follows a link to another view. */
export function onAddress(listener) {
  (outer() ?? window).addEventListener("hashchange", listener);
}

/** Call `listener` when TensorBoard has read its logs again: by itself or by its button. */
export function onReload(listener) {
  if (!outer()) return;
  const channel = new MessageChannel();
  channel.port1.onmessage = ({ data }) => {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return;
    }
    if (message.isReply) return;
    if (message.type === "experimental.DataReloaded") listener();
    const reply = { type: message.type, id: message.id, payload: null, error: null, isReply: true };
    channel.port1.postMessage(JSON.stringify(reply));
  };
  window.parent.postMessage("experimental.bootstrap", "*", [channel.port2]);
}
