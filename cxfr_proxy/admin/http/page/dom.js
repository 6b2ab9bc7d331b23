// Elements. Text gets into the page as text alone (textContent, and attributes that no script reads): names of nodes,
// JIDs and reasons were written by strangers.

const SVG = "http://www.w3.org/2000/svg";

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else attribute(element, name, value);
  }
  element.append(...children);
  return element;
};

/** Make an element. Attributes that begin with "on" are listeners, and null, undefined or false leaves one out. */
export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

/** Make an element of SVG. */
export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

/** Set an attribute, if that is any news. */
export const attribute = (element, name, value) => {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
};

/** Set the text of an element, if that is any news: a thousand rows are looked at, and few change. */
export const text = (element, value) => {
  const wanted = String(value);
  if (element.textContent !== wanted) element.textContent = wanted;
};

/**
 * A list of parts that are kept as long as their rows are there, so that focus, selection and open details stay.
 * `make(row)` returns a part, which has an `element` and `update(row)`.
 */
export class PartList {
  #parent;
  #key;
  #make;
  #parts = new Map();

  constructor(parent, key, make) {
    this.#parent = parent;
    this.#key = key;
    this.#make = make;
  }

  /** The parts by their keys. */
  get parts() {
    return this.#parts;
  }

  update(rows) {
    const wanted = new Map(rows.map((row) => [this.#key(row), row]));
    for (const [key, part] of this.#parts) {
      if (wanted.has(key)) continue;
      part.element.remove();
      this.#parts.delete(key);
    }
    let at = this.#parent.firstElementChild;
    for (const [key, row] of wanted) {
      let part = this.#parts.get(key);
      if (part === undefined) this.#parts.set(key, (part = this.#make(row)));
      part.update(row);
      if (part.element === at) at = at.nextElementSibling;
      else this.#parent.insertBefore(part.element, at);
    }
  }
}

/** A bar of several parts, each a share of the whole. What it shows stands in words beside it. */
export class StackedBar {
  #parts;

  constructor(names, className = "bar") {
    this.#parts = names.map((name) => el("span", { class: `part ${name}` }));
    this.element = el("div", { class: className, "aria-hidden": "true" }, ...this.#parts);
  }

  /** `whole`: what fills the bar. */
  update(counts, whole) {
    counts.forEach((count, index) => {
      const share = whole > 0 ? Math.max(0, Math.min(1, count / whole)) : 0;
      const width = `${(share * 100).toFixed(2)}%`;
      if (this.#parts[index].style.width !== width) this.#parts[index].style.width = width;
    });
  }
}

/** A mark whose shape, and not its colour alone, says how something is; the word stands behind it. */
export class Mark {
  #word = el("span");

  constructor() {
    this.element = el("span", { class: "mark" }, this.#word);
  }

  update(tone, word) {
    attribute(this.element, "data-tone", tone);
    text(this.#word, word);
  }
}
