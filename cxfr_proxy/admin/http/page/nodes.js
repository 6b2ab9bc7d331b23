// The nodes: how each is, what is on it, and what can be done with it.

import { Mark, PartList, attribute, el, text } from "./dom.js";
import { NOTHING, change, clean, counted, duration, number, percent, rate } from "./format.js";

const FIRST = 200; // rows at first: more are a press of a button away

const DRAINED = {
  grace: ["busy", "drain: grace"],
  awake: ["busy", "draining, active first"],
  all: ["busy", "draining"],
  rest: ["busy", "draining, past the deadline"],
  settling: ["busy", "settling"],
  done: ["idle", "drained"],
  aborted: ["warn", "drain stopped"],
};

/** What the operator has said of a node: `[tone, words]`. */
export const adminState = (row) => {
  if (row.admin_state === "removed") return ["warn", row.drain === null ? "removed" : `removed, ${wordsOf(row)[1]}`];
  if (row.admin_state === "ready") return ["good", "ready"];
  if (row.admin_state === "maint") return [wordsOf(row)[0], row.drain === null ? "maintenance" : `maintenance, ${wordsOf(row)[1]}`];
  return wordsOf(row);
};

const wordsOf = (row) => DRAINED[row.drain] ?? ["idle", clean(row.drain ?? row.admin_state)];

/** What checks see of a node: `[tone, words]`. */
export const health = (row) => {
  if (row.health !== "up") return ["bad", "down"];
  return row.warm_up < 1 ? ["warn", `up, warming up (${percent(row.warm_up)})`] : ["good", "up"];
};

export const isDrained = (row) => row.drain !== null || row.admin_state === "drain" || row.admin_state === "maint";
export const needsAttention = (row) =>
  row.health !== "up" || row.drain === "aborted" || row.admin_state === "removed" || row.forged > 0 || row.warm_up < 1;

const KINDS = { all: () => true, attention: needsAttention, drained: isDrained };

/** The rows of that kind whose name or address has the text in it. */
export const chosen = (rows, kind, search) => {
  const wanted = search.trim().toLowerCase();
  const fits = (row) => !wanted || row.name.toLowerCase().includes(wanted) || row.address.toLowerCase().includes(wanted);
  return rows.filter((row) => KINDS[kind](row) && fits(row));
};

/** The orders that fit a node: some of "drain", "abort", "undrain". */
export const ordersFor = (row) => {
  if (row.admin_state === "removed") return row.drain !== null && row.drain !== "aborted" && row.drain !== "done" ? ["abort"] : [];
  if (row.drain === null && row.admin_state === "ready") return ["drain"];
  if (row.drain === "aborted") return ["drain", "undrain"];
  return row.drain === null || row.drain === "done" ? ["undrain"] : ["abort", "undrain"];
};

/** What has gone wrong with a node so far. */
export const failures = (row) =>
  [
    [row.checks_failed, "check failed", "checks failed"],
    [row.connect_failures, "connection failed", "connections failed"],
    [row.forged, "forged transfer", "forged transfers"],
  ].flatMap(([count, one, many]) => (count ? [counted(count, one, many)] : []));

/** How many sessions come to a node and leave it; empty where none does. */
export const comeAndGo = (came, went) => {
  const [inward, outward] = [rate(came), rate(went)];
  return [inward, outward].every((each) => each === "0/s" || each === NOTHING) ? "" : `${inward} in, ${outward} out`;
};

const LABELS = { drain: "Drain…", abort: "Abort…", undrain: "Undrain…" };

const cell = (title, className, ...children) => el("td", { class: className, "data-title": title }, ...children);

class NodeLine {
  #app;
  #row = null;
  #name = el("span", { class: "name" });
  #address = el("span", { class: "under" });
  #admin = new Mark();
  #adminWhy = el("span", { class: "under" });
  #health = new Mark();
  #healthWhy = el("span", { class: "under" });
  #sessions = el("span", { class: "figure" });
  #waiting = el("span", { class: "under" });
  #fill = el("span");
  #change = el("span", { class: "figure" });
  #comeAndGo = el("span", { class: "under" });
  #moved = el("span", { class: "figure" });
  #returned = el("span", { class: "under" });
  #orders = cell("", "orders");
  #offered = "";

  constructor(app) {
    this.#app = app;
    this.element = el(
      "tr",
      {},
      el("th", { scope: "row" }, this.#name, this.#address),
      cell("State", "", this.#admin.element, this.#adminWhy),
      cell("Health", "", this.#health.element, this.#healthWhy),
      cell("Sessions", "number", this.#sessions, el("span", { class: "gauge", "aria-hidden": "true" }, this.#fill), this.#waiting),
      cell("Change", "number", this.#change, this.#comeAndGo),
      cell("Moved", "number", this.#moved, this.#returned),
      this.#orders,
    );
  }

  update({ row, perSecond, came, went, most, age }) {
    this.#row = row;
    text(this.#name, clean(row.name));
    const weight = row.weight === 1 ? "" : ` · weight ${row.weight}`;
    const priority = row.priority ? ` · priority ${row.priority}` : "";
    text(this.#address, `${clean(row.address)}${weight}${priority}`);
    this.#admin.update(...adminState(row));
    text(this.#adminWhy, row.drain_reason === null ? "" : clean(row.drain_reason));
    this.#health.update(...health(row));
    const since = row.health_seconds === null ? "" : `for ${duration(row.health_seconds + age)}`;
    const check = row.check === null ? "" : clean(row.check);
    text(this.#healthWhy, [since, check, ...failures(row)].filter(Boolean).join(" · "));
    text(this.#sessions, number(row.sessions));
    text(this.#waiting, row.waiting ? `${number(row.waiting)} waiting` : "");
    const width = `${most > 0 ? ((row.sessions / most) * 100).toFixed(1) : 0}%`;
    if (this.#fill.style.width !== width) this.#fill.style.width = width;
    text(this.#change, change(perSecond));
    text(this.#comeAndGo, comeAndGo(came, went));
    attribute(this.#change.parentElement, "class", this.#change.textContent === NOTHING ? "number nil" : "number");
    text(this.#moved, row.moved ? number(row.moved) : NOTHING);
    attribute(this.#moved.parentElement, "class", row.moved ? "number" : "number nil");
    text(this.#returned, row.moved ? `${number(row.returned)} back` : "");
    this.#offer();
  }

  #offer() {
    const orders = this.#app.mayOperate ? ordersFor(this.#row) : [];
    const offered = orders.join();
    if (offered === this.#offered) return;
    this.#offered = offered;
    const had = this.#orders.contains(document.activeElement);
    this.#orders.replaceChildren(
      ...orders.map((order) =>
        el(
          "button",
          {
            type: "button",
            class: "small",
            "aria-label": `${LABELS[order].replace("…", "")} ${clean(this.#row.name)}`,
            onclick: () => this.#app.ask(order, this.#row.name),
          },
          LABELS[order],
        ),
      ),
    );
    if (had) this.#orders.querySelector("button")?.focus(); // what was pressed has made way for another one
  }
}

/** The table of nodes, with what chooses among them. */
export class NodeTable {
  #search = el("input", { type: "search", placeholder: "Name or address", "aria-label": "Find nodes", autocomplete: "off", spellcheck: "false" });
  #kinds = new Map();
  #kind = "all";
  #all = false;
  #said = el("p", { class: "empty" });
  #more = el("button", { type: "button", hidden: true });
  #lines;

  constructor(section, app) {
    const choose = (kind, words) => {
      const radio = el("input", { type: "radio", name: "kind", value: kind, checked: kind === "all", onchange: () => this.#choose(kind, app) });
      const label = el("span", {}, words);
      this.#kinds.set(kind, { label, words });
      return el("label", { class: "choice" }, radio, label);
    };
    this.#search.addEventListener("input", () => app.render());
    this.#more.addEventListener("click", () => {
      this.#all = true;
      app.render();
    });
    const body = el("tbody");
    const heads = ["Node", "State", "Health", "Sessions", "Change", "Moved"].map((title, at) =>
      el("th", { scope: "col", class: at > 2 ? "number" : null }, title),
    );
    section.append(
      el(
        "div",
        { class: "tools" },
        el(
          "fieldset",
          { class: "choices" },
          el("legend", { class: "hidden" }, "Which nodes"),
          choose("all", "All"),
          choose("attention", "Need attention"),
          choose("drained", "Drained"),
        ),
        this.#search,
      ),
      el("table", { class: "nodes cards" }, el("thead", {}, el("tr", {}, ...heads, el("th", { scope: "col" }, el("span", { class: "hidden" }, "Orders")))), body),
      this.#said,
      this.#more,
    );
    this.#lines = new PartList(body, ({ row }) => row.name, () => new NodeLine(app));
  }

  #choose(kind, app) {
    this.#kind = kind;
    app.render();
  }

  update(rows, rates, age, now) {
    for (const [kind, { label, words }] of this.#kinds) text(label, `${words} ${number(rows.filter(KINDS[kind]).length)}`);
    const found = chosen(rows, this.#kind, this.#search.value);
    const shown = this.#all ? found : found.slice(0, FIRST);
    const most = Math.max(0, ...shown.map((row) => row.sessions));
    this.#lines.update(shown.map((row) => ({ row, ...rates.of(row.name, now), most, age })));
    const none = rows.length ? "No node is like that." : "There are no nodes.";
    text(this.#said, found.length ? "" : none);
    attribute(this.#more, "hidden", found.length <= shown.length);
    text(this.#more, `Show ${number(found.length - shown.length)} more`);
  }
}
