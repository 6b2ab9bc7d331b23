// As much of a document as the status page needs. What it has no room for is the point: nothing can be set as HTML.

let writes = 0;

/** How often something that can be seen was changed so far. */
export const written = () => writes;

class FakeNode {
  parent = null;

  get parentElement() {
    return this.parent;
  }

  get isConnected() {
    return this === document.body || (this.parent?.isConnected ?? false);
  }

  remove() {
    if (this.parent === null) return;
    writes += 1;
    this.parent.childNodes.splice(this.parent.childNodes.indexOf(this), 1);
    this.parent = null;
  }
}

class FakeText extends FakeNode {
  constructor(data) {
    super();
    this.data = data;
  }

  get textContent() {
    return this.data;
  }
}

class FakeElement extends FakeNode {
  childNodes = [];
  attributes = new Map();
  listeners = new Map();
  value = "";
  open = false;
  clientWidth = 600;
  style = new Proxy({}, { set: (style, name, value) => ((writes += 1), (style[name] = value), true) });

  constructor(name) {
    super();
    this.localName = name;
  }

  set innerHTML(value) {
    throw new Error("text of strangers as HTML");
  }

  set outerHTML(value) {
    throw new Error("text of strangers as HTML");
  }

  get children() {
    return this.childNodes.filter((node) => node instanceof FakeElement);
  }

  get firstElementChild() {
    return this.children[0] ?? null;
  }

  get lastElementChild() {
    return this.children.at(-1) ?? null;
  }

  get nextElementSibling() {
    const all = this.parent.children;
    return all[all.indexOf(this) + 1] ?? null;
  }

  get textContent() {
    return this.childNodes.map((node) => node.textContent).join("");
  }

  set textContent(value) {
    this.replaceChildren(...(value === "" ? [] : [value]));
  }

  append(...nodes) {
    for (const node of nodes) this.insertBefore(typeof node === "string" ? new FakeText(node) : node, null);
  }

  insertBefore(node, before) {
    writes += 1;
    if (node.parent !== null) node.parent.childNodes.splice(node.parent.childNodes.indexOf(node), 1);
    this.childNodes.splice(before === null ? this.childNodes.length : this.childNodes.indexOf(before), 0, node);
    node.parent = this;
  }

  replaceChildren(...nodes) {
    writes += 1;
    for (const node of this.childNodes) node.parent = null;
    this.childNodes = [];
    this.append(...nodes);
  }

  contains(node) {
    return node === this || this.children.some((child) => child.contains(node));
  }

  /** All elements below, by a function or a name. */
  all(fits) {
    const wanted = typeof fits === "string" ? (node) => node.localName === fits : fits;
    return this.children.flatMap((child) => [...(wanted(child) ? [child] : []), ...child.all(wanted)]);
  }

  querySelector(name) {
    return this.all(name)[0] ?? null;
  }

  getAttribute(name) {
    return this.attributes.get(name) ?? null;
  }

  hasAttribute(name) {
    return this.attributes.has(name);
  }

  setAttribute(name, value) {
    writes += 1;
    this.attributes.set(name, String(value));
    if (name === "checked") this.checked = true;
  }

  removeAttribute(name) {
    writes += 1;
    this.attributes.delete(name);
  }

  get hidden() {
    return this.hasAttribute("hidden");
  }

  set hidden(isHidden) {
    if (isHidden) this.setAttribute("hidden", "");
    else this.removeAttribute("hidden");
  }

  get disabled() {
    return this.hasAttribute("disabled");
  }

  addEventListener(name, listener) {
    this.listeners.set(name, [...(this.listeners.get(name) ?? []), listener]);
  }

  /** Call the listeners, and wait for what they do. */
  async fire(name) {
    await Promise.all((this.listeners.get(name) ?? []).map((listener) => listener({ preventDefault() {} })));
  }

  focus() {
    document.activeElement = this;
  }

  showModal() {
    this.open = true;
  }

  close() {
    this.open = false;
    this.fire("close");
  }
}

/** Begin with an empty document, which has an element for each of these ids. */
export const newDocument = (ids = []) => {
  const body = new FakeElement("body");
  const named = new Map(ids.map((id) => [id, new FakeElement("div")]));
  globalThis.document = {
    body,
    activeElement: body,
    hidden: false,
    title: "",
    createElement: (name) => new FakeElement(name),
    createElementNS: (space, name) => new FakeElement(name),
    getElementById: (id) => named.get(id),
    addEventListener() {},
  };
  body.append(...named.values());
  globalThis.ResizeObserver = class {
    observe() {}
  };
  globalThis.location = { host: "127.0.0.1:9222" };
  const stored = new Map();
  globalThis.sessionStorage = {
    getItem: (key) => stored.get(key) ?? null,
    setItem: (key, value) => stored.set(key, value),
    removeItem: (key) => stored.delete(key),
  };
  globalThis.addEventListener = () => {};
  return body;
};

/** Wait until that holds: as many turns of the loop as it takes. */
export const until = async (holds) => {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve));
};
