// Elements are made here and nowhere else. Text enters by textContent, never as markup.

const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "hidden", "tabIndex"]);

/** An element with attributes, listeners (`onclick: f`) and children (elements or text). */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style")
      for (const [k, v] of Object.entries(value)) made.style.setProperty(k, v);
    else if (PROPERTIES.has(name)) made[name] = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  fill(made, ...children);
  return made;
}

/** Replace what an element holds. */
export function fill(parent, ...children) {
  parent.replaceChildren(
    ...children.flat().filter((c) => c !== null && c !== undefined && c !== false),
  );
  return parent;
}

/** A drop-down list; `choices` are [value, label, full name, group], the last two if wanted. */
export function chooser(label, choices, chosen, onchoice) {
  const select = element("select", { "aria-label": label, onchange: () => onchoice(select.value) });
  const groups = new Map();
  for (const [value, text, title, group] of choices) {
    if (group && !groups.has(group)) {
      groups.set(group, element("optgroup", { label: group }));
      select.append(groups.get(group));
    }
    (groups.get(group) ?? select).append(element("option", { value, title }, text));
  }
  select.value = String(chosen);
  return element("label", { class: "field" }, element("span", {}, label), select);
}

/** A row of buttons of which one is pressed; `choices` are [value, label, title]. */
export function switcher(label, choices, chosen, onchoice) {
  const group = element("div", { class: "switch", role: "group", "aria-label": label });
  const press = (value) => {
    for (const b of group.children)
      b.setAttribute("aria-pressed", String(b.dataset.value === String(value)));
  };
  for (const [value, text, title] of choices) {
    const button = element(
      "button",
      {
        type: "button",
        title,
        onclick: () => {
          press(value);
          onchoice(value);
        },
      },
      text,
    );
    button.dataset.value = String(value);
    group.append(button);
  }
  press(chosen);
  group.press = press;
  return group;
}

/** The calls that recompute a figure: shown on request, copied by a click. */
export function recomputed(calls) {
  const call = [calls].flat().filter(Boolean).join("\n");
  if (!call) return null;
  const copy = element("button", { type: "button", class: "quiet", title: "Copy" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(call);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Select it by hand";
    }
  });
  return element(
    "details",
    { class: "call" },
    element("summary", {}, "Recompute"),
    element("p", {}, element("code", {}, call), copy),
  );
}

let furnish = null;

/** Have `f(root)` add to every card that is made from now on. */
export function onCard(f) {
  furnish = f;
}

/** A framed figure: a heading, its controls, what it shows, and one line below. */
export function card(
  title,
  { controls = null, note = null, call = null, wide = false, level = "h3" } = {},
) {
  const body = element("div", { class: "figure" });
  const heading = element(level, {}, title);
  const caption = element("p", { class: "note" }, note ?? "");
  caption.hidden = !note;
  const root = element(
    "section",
    { class: wide ? "card wide" : "card" },
    element("header", {}, heading, controls),
    body,
    caption,
    recomputed(call),
  );
  furnish?.(root);
  return { root, body, heading, caption };
}
