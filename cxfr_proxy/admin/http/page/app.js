// The page: what comes by the stream is kept by topic, and drawn a few times a second at most.

import { Api, BASE, Token } from "./api.js";
import { changesInWords } from "./changes.js";
import { attribute, text } from "./dom.js";
import { clean, counted, duration, number, rate, time } from "./format.js";
import { EventList, merged, SoftwareTable, WorkerTable } from "./lists.js";
import { NodeTable } from "./nodes.js";
import { ask, askForToken } from "./orders.js";
import { Plot } from "./plot.js";
import { NodeRates, RateOf, Rates } from "./rates.js";
import { Running } from "./running.js";
import { Connection } from "./stream.js";

const DRAWN_MS = 250; // at least between two times that the page is drawn
const DRAWN_SHARE = 0.2; // of the time at most that drawing takes: with a thousand nodes in sight it takes long
const TICK_MS = 1000; // ages and rates go on by themselves
const SAID_MS = 3000; // at least between two things that are said aloud
const HIDDEN_MS = 10 * 60_000; // a page that nobody looks at gives its stream back, of which there are few
const EVENTS_MS = 30_000; // between two looks at the events of all processes: the stream has the main one's
const NOTHING_YET = { rows: [], at: 0 };

const by = (id) => document.getElementById(id);
const now = () => performance.now() / 1000;

const newRates = () => ({
  nodes: new NodeRates(),
  workers: new Rates(),
  left: new Rates(),
  logins: new RateOf(),
  moved: new RateOf(),
});

const STATES = {
  connecting: ["busy", "connecting"],
  live: ["good", "live"],
  reconnecting: ["warn", "reconnecting"],
  refused: ["bad", "not connected"],
  paused: ["idle", "paused"],
};

/** The page as a whole. */
export class App {
  #topics = new Map();
  #rates = newRates();
  #token = new Token();
  #connection;
  #views;
  #nextDraw = -Infinity;
  #due = false;
  #allEvents = [];
  #toSay = [];
  #saidAt = -Infinity;
  #hidden = null;
  #isLive = false;
  #role = null;
  #version = null;
  #life = null; // of the process that answers
  #why = null; // why the proxy shows nothing; null: it does, or will at once

  constructor() {
    this.api = new Api(this.#token);
    this.#connection = new Connection(this.api, `${BASE}/events`, {
      onEvent: (topic, data) => this.#take(topic, data),
      onState: (state, detail) => this.#show(state, detail),
    });
    this.#views = {
      running: new Running(by("cards"), this),
      plot: new Plot(by("hour")),
      nodes: new NodeTable(by("nodes"), this),
      software: new SoftwareTable(by("software")),
      workers: new WorkerTable(by("workers")),
      events: new EventList(by("events"), this),
    };
    text(by("host"), location.host);
    by("token").addEventListener("click", () => (this.#token.value === null ? this.#askForToken("") : this.#forget()));
    by("dismiss").addEventListener("click", () => this.#notice(""));
    globalThis.addEventListener("online", () => this.#connection.hurry());
    document.addEventListener("visibilitychange", () => this.#watchVisibility());
    setInterval(() => this.render(), TICK_MS);
  }

  /** Connect. Without a token the proxy says whether it takes one. */
  begin() {
    this.#connection.open();
    setInterval(() => this.#lookAtEvents(), EVENTS_MS);
  }

  /** Whether the token's role allows orders. */
  get mayOperate() {
    return this.#role === "operate" || this.#role === "admin";
  }

  rows(topic) {
    return (this.#topics.get(topic) ?? NOTHING_YET).rows;
  }

  ask(order, node) {
    ask(this, order, node);
  }

  /** Carry out an order, and show the answer. Throws Refused. */
  async carryOut(command, body) {
    const { result, notes } = await this.api.order(command, body);
    const said = result.kind === "message" ? result.message : `${command} goes on`;
    this.#notice([said, ...notes].map(clean).join(" "));
  }

  /** Have the page drawn soon. */
  render() {
    if (this.#due) return;
    this.#due = true;
    const pause = Math.max(0, this.#nextDraw - performance.now());
    setTimeout(() => requestAnimationFrame(() => this.#draw()), pause);
  }

  // --- the stream

  #take(topic, data) {
    if (topic === "hello") {
      this.#role = data.role;
      if (this.#version !== null && this.#version !== data.version) this.#notice("The proxy has another version now: load this page again.");
      else if (this.#life !== null && this.#life !== data.life) this.#notice("Another process of the proxy answers now: it was upgraded, or started again.");
      this.#version = data.version;
      this.#life = data.life;
      this.#rates = newRates(); // counts begin anew where the proxy has
      text(by("version"), data.version);
      text(by("who"), `${clean(data.name)} (${clean(data.role)})`);
      return;
    }
    if (!Array.isArray(data.rows)) return;
    const at = now();
    if (topic === "nodes") this.#toSay.push(...changesInWords(this.rows("nodes"), data.rows));
    this.#topics.set(topic, { rows: data.rows, at });
    this.#note(topic, data.rows, at);
    this.render();
  }

  #note(topic, rows, at) {
    if (topic === "nodes") this.#rates.nodes.note(rows, at);
    if (topic === "drains") this.#rates.left.note(rows.map((row) => [row.node, row.left]), at);
    if (topic === "workers") this.#rates.workers.note(rows.map((row) => [row.number, row.cpu_seconds]), at);
    if (topic === "summary" && rows.length) {
      this.#rates.logins.note(rows[0].logins, at);
      this.#rates.moved.note(rows[0].moved, at);
    }
  }

  #show(state, detail) {
    const wasLive = this.#isLive;
    this.#isLive = state === "live";
    if (this.#isLive && !wasLive) this.#lookAtEvents();
    let [tone, words] = STATES[state];
    if (state === "refused") {
      this.#role = null;
      const lacksToken = detail === null || detail.status === 401;
      words = lacksToken ? "token needed" : "not connected";
      this.#why = lacksToken ? "Nothing is shown without a token." : clean(detail.message);
      if (detail?.status === 401) this.#refused(detail);
    } else this.#why = detail === null ? null : clean(detail.message);
    const mark = by("connection");
    attribute(mark, "data-tone", tone);
    text(mark, words);
    text(by("token"), this.#token.value === null ? "Enter token…" : "Forget token");
    attribute(by("who"), "hidden", this.#token.value === null);
    this.render();
  }

  #refused(refusal) {
    const had = this.#token.value !== null;
    this.#token.set(null);
    this.#askForToken(had ? refusal.message : "");
  }

  #askForToken(why) {
    askForToken(why, (token) => {
      this.#token.set(token);
      this.#notice("");
      this.#connection.reopen();
    });
  }

  #forget() {
    this.#token.set(null);
    this.#topics.clear();
    this.#allEvents = [];
    this.#role = null;
    this.#connection.pause();
    this.#show("refused", null);
  }

  #watchVisibility() {
    clearTimeout(this.#hidden);
    if (document.hidden) this.#hidden = setTimeout(() => this.#connection.pause(), HIDDEN_MS);
    else if (this.#token.value !== null) this.#connection.open();
  }

  /** Look at the events of workers, too. */
  async #lookAtEvents() {
    if (!this.#isLive || document.hidden) return;
    try {
      this.#allEvents = (await this.api.show("events")).result;
      this.render();
    } catch {
      // the next look may work; what the stream says is there all the same
    }
  }

  // --- the page

  #notice(words) {
    text(by("notice-text"), words);
    attribute(by("notice"), "hidden", words === "");
  }

  #draw() {
    this.#due = false;
    const at = now();
    this.#nextDraw = at * 1000 + DRAWN_MS;
    setTimeout(() => {
      const took = performance.now() - at * 1000; // with the layout, which the browser does behind this frame
      this.#nextDraw = Math.max(this.#nextDraw, at * 1000 + took / DRAWN_SHARE);
    });
    const age = (topic) => at - (this.#topics.get(topic)?.at ?? at);
    const nodes = this.rows("nodes");
    const named = new Map(nodes.map((row) => [row.name, row]));
    const leaving = (node) => {
      const perSecond = this.#rates.left.perSecond(node, at);
      return perSecond === null ? null : -perSecond;
    };
    const drains = this.rows("drains").map((row) => ({ row, node: named.get(row.node), perSecond: leaving(row.node), age: age("drains") }));
    const [summary, roll, rebalance, restart] = ["summary", "roll", "rebalance", "restart"].map((topic) => this.rows(topic));
    attribute(by("running"), "hidden", !this.#views.running.update({ summary, drains, roll, rebalance, restart }));
    this.#views.plot.update(this.rows("history"));
    this.#views.nodes.update(nodes, this.#rates.nodes, age("nodes"), at);
    this.#views.software.update(this.rows("software"));
    this.#views.workers.update(this.rows("workers"), this.#rates.workers, age("workers"), at);
    this.#views.events.update(merged(this.#allEvents, this.rows("recent")));
    this.#drawSummary(at);
    this.#drawWarnings(age("source"));
    this.#sayAloud();
  }

  #drawSummary(at) {
    const [row] = this.rows("summary");
    attribute(by("main"), "hidden", row === undefined);
    if (row === undefined) return;
    const down = this.rows("nodes").filter((node) => node.health !== "up").length;
    text(by("sessions"), number(row.sessions));
    text(by("connections"), counted(row.connections, "connection"));
    text(by("logins"), rate(this.#rates.logins.perSecond(at)));
    text(by("logins-failed"), `${number(row.logins_failed)} failed so far`);
    text(by("moves"), rate(this.#rates.moved.perSecond(at)));
    text(by("moves-most"), `at most ${rate(row.rate)}`);
    text(by("nodes-usable"), `${number(row.nodes_usable)} of ${number(row.nodes)}`);
    text(by("nodes-down"), down ? `${number(down)} down` : "none down");
    attribute(by("nodes-usable").parentElement, "data-tone", row.nodes_usable === 0 ? "bad" : down ? "warn" : null);
    text(by("workers-up"), number(row.workers));
    text(by("state"), clean(row.state));
    const wrong = down ? `${down} down – ` : "";
    document.title = `${wrong}${counted(row.sessions, "session")} – cxfr-proxy`;
  }

  #drawWarnings(age) {
    const said = [];
    const [row] = this.rows("summary");
    if (this.#why !== null) said.push(this.#why);
    if (row?.state === "stopping") said.push("The proxy is stopping: it moves its clients away.");
    if (row !== undefined && row.nodes_usable === 0) said.push("No node is ready and up: every login is refused.");
    for (const source of this.rows("source")) {
      if (source.state === "well") continue;
      const since = source.lost_seconds === null ? "" : ` for ${duration(source.lost_seconds + age)}`;
      said.push(`The source of nodes (${clean(source.source)}) is ${clean(source.state)}${since}: ${clean(source.reason ?? "no reason is known")}. Nodes stay as they were.`);
    }
    if (!this.#isLive && row !== undefined) {
      const latest = Math.max(...[...this.#topics.values()].map((topic) => topic.at));
      said.push(`Not connected: this is how it was at ${time(new Date(Date.now() - (now() - latest) * 1000))}.`);
    }
    text(by("warnings"), said.join(" "));
    attribute(by("warnings"), "hidden", said.length === 0);
  }

  #sayAloud() {
    if (!this.#toSay.length || performance.now() < this.#saidAt + SAID_MS) return;
    this.#saidAt = performance.now();
    text(by("said"), this.#toSay.slice(0, 4).join(" "));
    this.#toSay = [];
  }
}
