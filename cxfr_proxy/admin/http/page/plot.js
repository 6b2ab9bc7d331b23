// The last hour: sessions as a line, and transfers by how they ended as bars below it, over one axis of time.

import { el, svg } from "./dom.js";
import { clock, counted, number, rate, time } from "./format.js";

export const OUTCOMES = ["moved", "refused", "silent", "failed"];
const HOUR_MS = 3600_000;
const LEFT = 52; // room for the numbers beside an axis, in pixels
const RIGHT = 8;
const TOP = 10;
const SESSIONS_HEIGHT = 120;
const GAP = 34;
const BARS_HEIGHT = 76;
const BOTTOM = 24;
const HEIGHT = TOP + SESSIONS_HEIGHT + GAP + BARS_HEIGHT + BOTTOM;
const BAR_WIDTH = 3; // at least

/** Round numbers from 0 to at least `most`, about so many. */
export const ticks = (most, about = 3) => {
  if (!(most > 0)) return [0, 1];
  const size = 10 ** Math.floor(Math.log10(most / about));
  const step = [1, 2, 5, 10].map((each) => each * size).find((each) => most / each <= about + 0.5);
  const found = [];
  for (let at = 0; ; at += 1) {
    found.push(Number((at * step).toPrecision(12)));
    if (found.at(-1) >= most) return found;
  }
};

/** Samples put together, so that there are no more than `most`: levels are the last one's, counts are added up. */
export const binned = (rows, most) => {
  const each = Math.max(1, Math.ceil(rows.length / Math.max(1, most)));
  const bins = [];
  for (let end = rows.length; end > 0; end -= each) {
    const some = rows.slice(Math.max(0, end - each), end);
    const sum = (name) => some.reduce((total, row) => total + row[name], 0);
    const bin = { time: some.at(-1).time, seconds: sum("seconds"), sessions: some.at(-1).sessions };
    for (const name of ["logins", "logins_failed", ...OUTCOMES]) bin[name] = sum(name);
    bins.unshift(bin);
  }
  return bins;
};

const short = (value) => (value >= 10_000 ? `${Number((value / 1000).toPrecision(3))}k` : number(value));

/** A bin in words. */
export const inWords = (bin) => {
  const ended = OUTCOMES.filter((name) => bin[name]).map((name) => `${number(bin[name])} ${name}`);
  const logins = `${counted(bin.logins, "login")} (${rate(bin.logins / bin.seconds)})`;
  const failed = bin.logins_failed ? `, ${number(bin.logins_failed)} failed` : "";
  return [`${counted(bin.sessions, "session")}`, `${logins}${failed}`, ended.length ? `transfers: ${ended.join(", ")}` : "no transfers"];
};

export class Plot {
  #picture = svg("svg", { class: "plot", role: "img", "aria-label": "Sessions and transfers of the last hour; the same numbers are in the table below" });
  #tip = el("div", { class: "tip", hidden: true });
  #frame;
  #table = el("tbody");
  #details;
  #empty = el("p", { class: "empty" }, "The first sample comes ten seconds after the proxy has begun.");
  #rows = [];
  #bins = [];
  #width = 0;
  #end = 0;
  #cross = null;

  constructor(section) {
    this.#frame = el("div", { class: "frame" }, this.#picture, this.#tip);
    const legend = OUTCOMES.map((name) => el("li", {}, el("span", { class: `key ${name}`, "aria-hidden": "true" }), name));
    const heads = ["Until", "Sessions", "Logins", "Failed logins", ...OUTCOMES].map((title, at) => el("th", { scope: "col", class: at ? "number" : null }, title));
    const rows = el("table", {}, el("thead", {}, el("tr", {}, ...heads)), this.#table);
    this.#details = el("details", { class: "figures", ontoggle: () => this.#fillTable() }, el("summary", {}, "The same in numbers"), el("div", { class: "scroll" }, rows));
    section.append(el("ul", { class: "legend" }, el("li", { class: "name" }, "Transfers:"), ...legend), this.#empty, this.#frame, this.#details);
    this.#picture.addEventListener("pointermove", (event) => this.#point(event));
    this.#picture.addEventListener("pointerleave", () => this.#leave());
    new ResizeObserver(() => this.#draw()).observe(this.#frame);
  }

  update(rows) {
    if (rows === this.#rows) return; // the same list: nothing has come
    this.#rows = rows;
    this.#width = 0;
    this.#draw();
    this.#fillTable();
  }

  #draw() {
    const width = Math.floor(this.#frame.clientWidth);
    this.#empty.hidden = this.#rows.length > 0;
    this.#frame.hidden = this.#details.hidden = this.#rows.length === 0;
    if (!width || width === this.#width || !this.#rows.length) return;
    this.#width = width;
    this.#bins = binned(this.#rows, Math.floor((width - LEFT - RIGHT) / (BAR_WIDTH + 1)));
    this.#end = Date.parse(this.#bins.at(-1).time);
    this.#picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#picture.setAttribute("height", HEIGHT);
    this.#cross = svg("line", { class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    this.#picture.replaceChildren(...this.#times(), ...this.#sessions(), ...this.#transfers(), this.#cross);
  }

  #x(when) {
    return LEFT + (this.#width - LEFT - RIGHT) * (1 - (this.#end - when) / HOUR_MS);
  }

  #times() {
    const step = (this.#width < 560 ? 20 : 10) * 60_000;
    const marks = [];
    for (let when = Math.ceil((this.#end - HOUR_MS) / step) * step; when <= this.#end; when += step) {
      const x = this.#x(when);
      marks.push(svg("line", { class: "grid", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
      if (x > LEFT + 10 && x < this.#width - 16) marks.push(svg("text", { class: "axis", x, y: HEIGHT - 7, "text-anchor": "middle" }, clock(new Date(when))));
    }
    return marks;
  }

  #axis(title, most, top, height) {
    const values = ticks(most);
    const y = (value) => top + height * (1 - value / values.at(-1));
    const marks = values.flatMap((value) => [
      svg("line", { class: value ? "grid" : "base", x1: LEFT, x2: this.#width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { class: "axis", x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    ]);
    marks.push(svg("text", { class: "title", x: LEFT + 6, y: top + 4 }, title));
    return { y, marks };
  }

  #sessions() {
    const { y, marks } = this.#axis("sessions", Math.max(...this.#bins.map((bin) => bin.sessions)), TOP, SESSIONS_HEIGHT);
    const points = this.#bins.map((bin) => `${this.#x(Date.parse(bin.time)).toFixed(1)},${y(bin.sessions).toFixed(1)}`);
    const [first, last] = [points[0].split(",")[0], points.at(-1).split(",")[0]];
    return [
      ...marks,
      svg("polygon", { class: "area", points: `${first},${y(0)} ${points.join(" ")} ${last},${y(0)}` }),
      svg("polyline", { class: "line", points: points.join(" ") }),
    ];
  }

  #transfers() {
    const top = TOP + SESSIONS_HEIGHT + GAP;
    const whole = (bin) => OUTCOMES.reduce((total, name) => total + bin[name], 0) / bin.seconds;
    const { y, marks } = this.#axis("transfers per second", Math.max(...this.#bins.map(whole)), top, BARS_HEIGHT);
    const bars = this.#bins.flatMap((bin) => {
      const right = this.#x(Date.parse(bin.time));
      const wide = Math.max(1, right - this.#x(Date.parse(bin.time) - bin.seconds * 1000) - 1);
      let below = 0;
      return OUTCOMES.filter((name) => bin[name]).map((name) => {
        const from = below;
        below += bin[name] / bin.seconds;
        return svg("rect", { class: `part ${name}`, x: (right - wide).toFixed(1), width: wide.toFixed(1), y: y(below).toFixed(1), height: (y(from) - y(below)).toFixed(1) });
      });
    });
    return [...marks, ...bars];
  }

  #point(event) {
    const box = this.#picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * this.#width;
    let best = null;
    for (const bin of this.#bins) {
      const away = Math.abs(this.#x(Date.parse(bin.time) - (bin.seconds * 1000) / 2) - at);
      if (best === null || away < best.away) best = { bin, away };
    }
    if (best === null || at < LEFT) return this.#leave();
    const x = this.#x(Date.parse(best.bin.time) - (best.bin.seconds * 1000) / 2);
    this.#cross.setAttribute("x1", x);
    this.#cross.setAttribute("x2", x);
    this.#cross.setAttribute("visibility", "visible");
    this.#tip.replaceChildren(el("b", {}, time(new Date(best.bin.time))), ...inWords(best.bin).map((line) => el("span", {}, line)));
    this.#tip.hidden = false;
    const most = this.#width - this.#tip.offsetWidth - 4;
    this.#tip.style.left = `${Math.max(0, Math.min(most, x + 12 > most ? x - this.#tip.offsetWidth - 12 : x + 12))}px`;
  }

  #leave() {
    this.#tip.hidden = true;
    this.#cross?.setAttribute("visibility", "hidden");
  }

  #fillTable() {
    if (!this.#details.open) return;
    const minutes = binned(this.#rows, 60).reverse();
    this.#table.replaceChildren(
      ...minutes.map((bin) => {
        const row = el("tr", {}, el("th", { scope: "row" }, time(new Date(bin.time))));
        for (const name of ["sessions", "logins", "logins_failed", ...OUTCOMES]) row.append(el("td", { class: "number" }, number(bin[name])));
        return row;
      }),
    );
  }
}
