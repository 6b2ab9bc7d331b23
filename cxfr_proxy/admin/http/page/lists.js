// Recent events, workers, and transfers by the clients' software.

import { Mark, PartList, StackedBar, attribute, el, text } from "./dom.js";
import { NOTHING, bytes, clean, duration, number, percent, time } from "./format.js";
import { OUTCOMES } from "./plot.js";

const FIRST_EVENTS = 30;
const LEVELS = { INFO: ["idle", "info"], WARNING: ["warn", "warning"], ERROR: ["bad", "error"], CRITICAL: ["bad", "critical"] };

class EventLine {
  constructor(row) {
    const level = new Mark();
    level.update(...(LEVELS[row.level] ?? ["idle", clean(row.level)]));
    const when = new Date(row.time);
    this.element = el(
      "li",
      {},
      el("time", { datetime: row.time, title: row.time }, time(when)),
      level.element,
      el("b", {}, clean(row.event)),
      el("span", { class: "details" }, clean(row.details)),
      el("span", { class: "under" }, clean(row.process)),
    );
  }

  update() {} // what has happened does not change
}

/** The key of an event: nothing else has it. */
export const eventKey = (row) => `${row.process} ${row.event} ${row.count} ${row.time}`;

/** Two lists of events as one, by time: the same event may be in both. */
export const merged = (some, others) => {
  const all = new Map([...some, ...others].map((row) => [eventKey(row), row]));
  return [...all.values()].sort((one, other) => (one.time < other.time ? -1 : one.time > other.time ? 1 : 0));
};

export class EventList {
  #list = el("ol", { class: "events", reversed: true });
  #warnings;
  #said = el("p", { class: "empty" });
  #more = el("button", { type: "button", hidden: true });
  #all = false;
  #lines;

  constructor(section, app) {
    this.#warnings = el("input", { type: "checkbox", onchange: () => app.render() });
    this.#more.addEventListener("click", () => {
      this.#all = true;
      app.render();
    });
    section.append(el("div", { class: "tools" }, el("label", { class: "choice" }, this.#warnings, el("span", {}, "Warnings and errors only"))), this.#list, this.#said, this.#more);
    this.#lines = new PartList(this.#list, eventKey, (row) => new EventLine(row));
  }

  update(rows) {
    const found = rows.filter((row) => !this.#warnings.checked || row.level !== "INFO").reverse();
    const shown = this.#all ? found : found.slice(0, FIRST_EVENTS);
    this.#lines.update(shown);
    text(this.#said, found.length ? "" : "Nothing.");
    attribute(this.#more, "hidden", found.length <= shown.length);
    text(this.#more, `Show ${number(found.length - shown.length)} more`);
  }
}

const WORKER_STATES = { up: "good", starting: "busy", leaving: "busy", waiting: "bad", stopping: "warn" };

class WorkerLine {
  #name = el("th", { scope: "row" });
  #mark = new Mark();
  #why = el("span", { class: "under" });
  #sessions = el("td", { class: "number", "data-title": "Sessions" });
  #cpu = el("td", { class: "number", "data-title": "CPU" });
  #memory = el("td", { class: "number", "data-title": "Memory" });
  #deaths = el("td", { class: "number", "data-title": "Deaths" });

  constructor() {
    this.element = el("tr", {}, this.#name, el("td", { "data-title": "State" }, this.#mark.element, this.#why), this.#sessions, this.#cpu, this.#memory, this.#deaths);
  }

  update({ row, share, age }) {
    text(this.#name, row.pid === null ? `${row.number}` : `${row.number} (pid ${row.pid})`);
    const silent = row.silent_seconds !== null;
    this.#mark.update(silent ? "bad" : (WORKER_STATES[row.state] ?? "idle"), silent ? "does not answer" : clean(row.state));
    text(this.#why, silent ? `for ${duration(row.silent_seconds + age)}` : "");
    text(this.#sessions, number(row.sessions));
    text(this.#cpu, share === null ? NOTHING : percent(Math.max(0, share)));
    text(this.#memory, row.resident_bytes === null ? NOTHING : bytes(row.resident_bytes));
    text(this.#deaths, row.hung ? `${number(row.deaths)} (${number(row.hung)} hung)` : number(row.deaths));
  }
}

export const workerKey = (row) => `${row.number} ${row.pid}`;

const table = (section, titles, body) => {
  const heads = titles.map(([title, className]) => el("th", { scope: "col", class: className }, title));
  section.append(el("table", { class: "cards pairs" }, el("thead", {}, el("tr", {}, ...heads)), body));
};

export class WorkerTable {
  #lines;

  constructor(section) {
    const body = el("tbody");
    table(section, [["Worker"], ["State"], ["Sessions", "number"], ["CPU", "number"], ["Memory", "number"], ["Deaths", "number"]], body);
    this.#lines = new PartList(body, ({ row }) => workerKey(row), () => new WorkerLine());
  }

  /** `rates`: the CPU seconds that each slot takes per second. */
  update(rows, rates, age, now) {
    this.#lines.update(rows.map((row) => ({ row, share: rates.perSecond(row.number, now), age })));
  }
}

class SoftwareLine {
  #name = el("th", { scope: "row" });
  #bar = new StackedBar(OUTCOMES);
  #cells = ["transfers", ...OUTCOMES, "returned"].map((name) => [name, el("td", { class: "number", "data-title": name })]);

  constructor() {
    const cells = this.#cells.map(([, cell]) => cell);
    this.element = el("tr", {}, this.#name, el("td", { class: "share" }, this.#bar.element), ...cells);
  }

  update(row) {
    text(this.#name, clean(row.software));
    this.#bar.update(OUTCOMES.map((name) => row[name]), row.transfers);
    for (const [name, cell] of this.#cells) text(cell, row[name] ? number(row[name]) : NOTHING);
  }
}

export class SoftwareTable {
  #said = el("p", { class: "empty" });
  #lines;
  #table;

  constructor(section) {
    const body = el("tbody");
    const numbers = ["Transfers", "Moved", "Refused", "Silent", "Failed", "Returned"].map((title) => [title, "number"]);
    table(section, [["Software"], ["How they ended"], ...numbers], body);
    this.#table = section.lastElementChild;
    section.append(this.#said);
    this.#lines = new PartList(body, (row) => row.software, () => new SoftwareLine());
  }

  update(rows) {
    attribute(this.#table, "hidden", rows.length === 0);
    text(this.#said, rows.length ? "" : "No client was asked to move since the proxy began.");
    this.#lines.update(rows);
  }
}
