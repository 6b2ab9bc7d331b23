// Whatever is under way: drains, a rolling restart, a rebalance, the replacing of workers. A card each.

import { Mark, PartList, StackedBar, attribute, el, text } from "./dom.js";
import { clean, counted, duration, number, percent, rate, roughly } from "./format.js";
import { adminState } from "./nodes.js";

const OUTCOMES = ["moved", "refused", "silent", "failed"];
const RUNG_WORDS = {
  migrate: "taken over by the proxy, unnoticed",
  cxfr: "asked to transfer",
  cut: "cut, to resume elsewhere",
  "see-other-host": "sent to another address",
  reset: "told to reconnect",
};

/** How far a drain is, 0 to 1. */
export const doneShare = (row) => (row.total > 0 ? Math.min(1, Math.max(0, 1 - row.left / row.total)) : 1);

/** A row of a drain in one sentence, for eyes and ears. `perSecond`: how fast clients leave; null: not known yet. */
export const drainSentence = (row, perSecond, age = 0) => {
  if (row.settling_seconds !== null) return `Empty. It settles: safe to stop in ${duration(Math.max(0, row.settling_seconds - age))}.`;
  if (row.left === 0) return row.finished ? "Empty and safe to stop." : "Empty; other proxies have not said so yet.";
  const left = `${number(row.left)} of ${counted(row.total, "session")} left`;
  if (row.finished) return `${left}. Nothing more is tried.`;
  if (row.waiting_reason !== null) return `${left}. Waiting: ${clean(row.waiting_reason)}.`;
  if (perSecond === null || perSecond <= 0) return `${left}.`;
  const paced = row.paced_by === null ? "" : ` (${clean(row.paced_by)})`;
  return `${left}, ${rate(perSecond)}${paced}, about ${roughly(row.left / perSecond)} to go.`;
};

const outcomes = (row) => OUTCOMES.filter((name) => row[name]).map((name) => `${number(row[name])} ${name}`).join(", ");

const progressBar = (label) => el("div", { class: "progress", role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100 }, el("span"));

const setProgress = (bar, share) => {
  attribute(bar, "aria-valuenow", Math.floor(share * 100));
  const width = `${(share * 100).toFixed(1)}%`;
  if (bar.firstElementChild.style.width !== width) bar.firstElementChild.style.width = width;
};

class RungLine {
  #words = el("span", { class: "counts" });
  #bar = new StackedBar(OUTCOMES);

  constructor(rung) {
    const why = RUNG_WORDS[rung];
    const name = el("span", { class: "rung" }, el("b", {}, clean(rung)), why ? el("span", { class: "under" }, why) : "");
    this.element = el("li", {}, name, this.#bar.element, this.#words);
  }

  update({ row, most }) {
    this.#bar.update(OUTCOMES.map((name) => row[name]), most);
    text(this.#words, outcomes(row) || "tried");
  }
}

class DrainCard {
  #app;
  #node;
  #mark = new Mark();
  #sentence = el("p", { class: "lead" });
  #bar;
  #share = el("span", { class: "figure" });
  #list = el("ul", { class: "rungs" });
  #rungs;
  #orders = el("div", { class: "orders" });
  #who;
  #offered = "";

  constructor(app, node) {
    this.#app = app;
    this.#node = node;
    this.#bar = progressBar(`Drain of ${clean(node)}`);
    this.#rungs = new PartList(this.#list, ({ row }) => row.rung, ({ row }) => new RungLine(row.rung));
    this.#who = new WhoIsLeft(app, node);
    this.element = el(
      "article",
      { class: "card" },
      el("header", {}, el("h3", {}, clean(node)), this.#mark.element, this.#orders),
      el("div", { class: "meter" }, this.#bar, this.#share),
      this.#sentence,
      this.#list,
      this.#who.element,
    );
  }

  update({ row, node, perSecond, age }) {
    const [tone, words] = node === undefined ? ["busy", "draining"] : adminState(node);
    this.#mark.update(tone, words);
    const share = doneShare(row);
    setProgress(this.#bar, share);
    text(this.#share, percent(Math.floor(share * 100) / 100));
    text(this.#sentence, drainSentence(row, perSecond, age));
    const most = Math.max(0, ...row.rungs.map((each) => OUTCOMES.reduce((sum, name) => sum + each[name], 0)));
    this.#rungs.update(row.rungs.map((each) => ({ row: each, most })));
    this.#who.update(row.left);
    this.#offer(row);
  }

  #offer(row) {
    const aborted = row.finished && row.left > 0;
    const orders = !this.#app.mayOperate ? "" : aborted ? "drain,undrain" : row.finished ? "undrain" : "abort";
    if (orders === this.#offered) return;
    this.#offered = orders;
    const words = { abort: "Abort…", drain: "Go on…", undrain: "Undrain…" };
    const had = this.#orders.contains(document.activeElement);
    this.#orders.replaceChildren(
      ...orders.split(",").filter(Boolean).map((order) =>
        el("button", { type: "button", class: order === "abort" ? "danger" : null, onclick: () => this.#app.ask(order, this.#node) }, words[order]),
      ),
    );
    if (had) this.#orders.querySelector("button")?.focus();
  }
}

const SHOWN_CLIENTS = 20;
const LOOK_MS = 3000;

/** The clients that are still on a node, looked up while somebody wants to see them. */
class WhoIsLeft {
  #app;
  #node;
  #words = el("summary", {}, "Who is left");
  #body = el("tbody");
  #note = el("p", { class: "under" });
  #lines;
  #timer = null;

  constructor(app, node) {
    this.#app = app;
    this.#node = node;
    const heads = ["Client", "State", "Idle"].map((title) => el("th", { scope: "col", class: title === "Idle" ? "number" : null }, title));
    this.element = el(
      "details",
      { class: "who", ontoggle: () => this.#toggle() },
      this.#words,
      el("table", {}, el("thead", {}, el("tr", {}, ...heads)), this.#body),
      this.#note,
    );
    this.#lines = new PartList(this.#body, (row) => row.id, () => new ClientLine());
  }

  update(left) {
    attribute(this.element, "hidden", left === 0);
    if (left === 0 && this.element.open) this.element.open = false;
    text(this.#words, `Who is left (${number(left)})`);
  }

  #toggle() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.element.open) this.#look();
  }

  async #look() {
    try {
      const { result, notes } = await this.#app.api.show("sessions", { node: this.#node, limit: SHOWN_CLIENTS });
      this.#lines.update(result);
      text(this.#note, notes.map(clean).join(" "));
    } catch (error) {
      text(this.#note, clean(error.message));
    }
    if (this.element.open && this.element.isConnected && this.#timer === null) {
      this.#timer = setTimeout(() => {
        this.#timer = null;
        if (this.element.open && this.element.isConnected) this.#look();
      }, LOOK_MS);
    }
  }
}

class ClientLine {
  #who = el("td", { class: "jid" });
  #state = el("td");
  #idle = el("td", { class: "number" });

  constructor() {
    this.element = el("tr", {}, this.#who, this.#state, this.#idle);
  }

  update(row) {
    text(this.#who, row.jid === null ? `(not bound, from ${clean(row.client_address)})` : clean(row.jid));
    const doing = row.transfer === null ? "" : `, ${clean(row.transfer)} is tried`;
    text(this.#state, `${clean(row.state)}${row.inactive ? ", inactive" : ""}${doing}`);
    text(this.#idle, duration(row.idle_seconds));
  }
}

const STEP_WORDS = {
  waits: ["idle", "waits for its turn"],
  drain: ["busy", "is being drained"],
  restart: ["busy", "can be restarted"],
  return: ["busy", "checks have to find it up"],
  settle: ["busy", "is up, and has to stay so"],
  done: ["good", "done"],
};

class RollLine {
  #name = el("th", { scope: "row" });
  #mark = new Mark();
  #why = el("span", { class: "under" });
  #sessions = el("td", { class: "number", "data-title": "Sessions" });
  #moved = el("td", { class: "number", "data-title": "Moved" });

  constructor() {
    this.element = el("tr", {}, this.#name, el("td", { "data-title": "Step" }, this.#mark.element, this.#why), this.#sessions, this.#moved);
  }

  update(row) {
    const [tone, words] = STEP_WORDS[row.step] ?? ["idle", clean(row.step)];
    text(this.#name, clean(row.node));
    this.#mark.update(row.stopped ? "bad" : tone, row.stopped ? "stopped here" : words);
    text(this.#why, row.reason === null ? "" : clean(row.reason));
    text(this.#sessions, number(row.sessions));
    text(this.#moved, number(row.moved));
  }
}

/** How far a roll is, in a sentence. */
export const rollSentence = (rows) => {
  const done = rows.filter((row) => row.step === "done").length;
  const stopped = rows.find((row) => row.stopped);
  const at = rows.find((row) => row.step !== "done" && row.step !== "waits");
  const far = `${done} of ${counted(rows.length, "node")} restarted`;
  if (stopped) return `${far}. It has stopped at ${clean(stopped.node)}.`;
  return at ? `${far}. It is the turn of ${clean(at.node)}.` : `${far}.`;
};

class RollCard {
  #app;
  #sentence = el("p", { class: "lead" });
  #bar = progressBar("Rolling restart");
  #body = el("tbody");
  #orders = el("div", { class: "orders" });
  #lines;
  #offered = "";

  constructor(app) {
    this.#app = app;
    this.#lines = new PartList(this.#body, (row) => row.node, () => new RollLine());
    const heads = ["Node", "Step", "Sessions", "Moved"].map((title, at) => el("th", { scope: "col", class: at > 1 ? "number" : null }, title));
    this.element = el(
      "article",
      { class: "card" },
      el("header", {}, el("h3", {}, "Rolling restart"), this.#orders),
      el("div", { class: "meter" }, this.#bar),
      this.#sentence,
      el("table", { class: "cards pairs" }, el("thead", {}, el("tr", {}, ...heads)), this.#body),
    );
  }

  update({ rows }) {
    const done = rows.filter((row) => row.step === "done").length;
    setProgress(this.#bar, done / rows.length);
    text(this.#sentence, rollSentence(rows));
    this.#lines.update(rows);
    const stopped = rows.some((row) => row.stopped);
    const orders = !this.#app.mayOperate ? "" : stopped ? "continue,give-up" : "give-up";
    if (orders === this.#offered) return;
    this.#offered = orders;
    const words = { continue: "Go on…", "give-up": "Give it up…" };
    this.#orders.replaceChildren(
      ...orders.split(",").filter(Boolean).map((order) =>
        el("button", { type: "button", class: order === "give-up" ? "danger" : null, onclick: () => this.#app.ask(`roll-${order}`, null) }, words[order]),
      ),
    );
  }
}

class ProgressCard {
  #sentence = el("p", { class: "lead" });
  #bar;
  #orders = el("div", { class: "orders" });
  #offers = false;
  #app;
  #order;

  constructor(app, title, order = null) {
    this.#app = app;
    this.#order = order;
    this.#bar = progressBar(title);
    this.element = el("article", { class: "card" }, el("header", {}, el("h3", {}, title), this.#orders), el("div", { class: "meter" }, this.#bar), this.#sentence);
  }

  update({ row, sentence }) {
    setProgress(this.#bar, doneShare(row));
    text(this.#sentence, sentence);
    const offers = this.#app.mayOperate && this.#order !== null;
    if (offers === this.#offers) return;
    this.#offers = offers;
    this.#orders.replaceChildren(...(offers ? [el("button", { type: "button", onclick: () => this.#app.ask(this.#order, null) }, "Stop…")] : []));
  }
}

const rebalanceSentence = (row) => {
  const why = row.waiting_reason === null ? "" : ` Waiting: ${clean(row.waiting_reason)}.`;
  return `${number(row.left)} of ${counted(row.total, "session")} left to move; ${outcomes(row) || "none asked yet"}.${why}`;
};

const restartSentence = (row) => {
  const why = row.failure === null ? "" : ` ${clean(row.failure)}.`;
  return `${number(row.replaced)} of ${counted(row.total, "worker")} replaced; ${counted(row.sessions, "session")} still with those that leave.${why}`;
};

/** An upgrade that goes on: how many sessions the process before has left. */
export const upgradeSentence = ({ left }, perSecond) => `${counted(left, "session is", "sessions are")} still with the process before this one, which moves them at ${rate(perSecond)} at most.`;

/** All cards. */
export class Running {
  #cards;
  #handed = 0; // the most sessions that the process before was seen to have

  constructor(container, app) {
    const make = ({ kind, row }) => {
      if (kind === "drain") return new DrainCard(app, row.node);
      if (kind === "roll") return new RollCard(app);
      if (kind === "upgrade") return new ProgressCard(app, "Upgrade");
      return kind === "rebalance" ? new ProgressCard(app, "Rebalance", "rebalance-stop") : new ProgressCard(app, "Workers are being replaced");
    };
    this.#cards = new PartList(container, ({ kind, row }) => (kind === "drain" ? `drain ${row.node}` : kind), make);
  }

  /** `drains`: rows, each with the node's row, the rate at which clients leave, and the row's age in seconds. Returns
   * whether anything is under way. */
  update({ summary = [], drains, roll, rebalance, restart }) {
    const cards = [];
    for (const { predecessor_sessions: left, rate: perSecond } of summary) {
      this.#handed = left && Math.max(this.#handed, left);
      const row = { left, total: this.#handed };
      if (left) cards.push({ kind: "upgrade", row, sentence: upgradeSentence(row, perSecond) });
    }
    if (roll.some((row) => row.step !== "done")) cards.push({ kind: "roll", rows: roll });
    for (const row of rebalance) cards.push({ kind: "rebalance", row, sentence: rebalanceSentence(row) });
    for (const row of restart) if (!row.finished) cards.push({ kind: "restart", row, sentence: restartSentence(row) });
    for (const each of drains) cards.push({ kind: "drain", ...each });
    this.#cards.update(cards);
    return cards.length > 0;
  }
}
