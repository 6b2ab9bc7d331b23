// Server-sent events by fetch, since an EventSource can send no token.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

import { Refused } from "./api.js";

const MAX_LINE = 64 * 2 ** 20; // characters: far more than a topic of ten thousand nodes

/** Reads an event stream, in pieces that may end anywhere. */
export class EventParser {
  #onEvent;
  #rest = "";
  #event = "";
  #data = [];
  #afterReturn = false;

  /** The id of the last event that had one; null: none had. */
  lastId = null;
  /** How long to wait before the next connection, in milliseconds, if the stream has said that; else null. */
  retry = null;

  constructor(onEvent) {
    this.#onEvent = onEvent;
  }

  feed(piece) {
    let given = this.#rest + piece;
    if (this.#afterReturn && given.startsWith("\n")) given = given.slice(1);
    this.#afterReturn = false;
    let from = 0;
    for (const found of given.matchAll(/\r\n|\r|\n/g)) {
      this.#line(given.slice(from, found.index));
      from = found.index + found[0].length;
      this.#afterReturn = found[0] === "\r" && from === given.length;
    }
    this.#rest = given.slice(from);
    if (this.#rest.length > MAX_LINE) throw new Error("a line without end");
  }

  /** Begin again with another stream; the last id counts on. */
  restart() {
    this.#rest = this.#event = "";
    this.#data = [];
    this.#afterReturn = false;
  }

  #line(line) {
    if (line === "") {
      if (this.#data.length) this.#onEvent(this.#event || "message", this.#data.join("\n"));
      this.#event = "";
      this.#data = [];
      return;
    }
    const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line);
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.lastId = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
  }
}

const SILENT_MS = 40_000; // the proxy says something every 15 seconds
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;
const FINAL = new Set([401, 403, 404, 421]); // asking again changes nothing

/**
 * Keeps a stream open. `listener` has `onEvent(topic, data)` and `onState(state, detail)`; states are `connecting`,
 * `live`, `reconnecting` (with the Refused as its detail if there was one, else null), `refused` (with it) and `paused`.
 */
export class Connection {
  #api;
  #path;
  #listener;
  #parser;
  #life = null;
  #failures = 0;
  #wake = () => {};

  constructor(api, path, listener) {
    this.#api = api;
    this.#path = path;
    this.#listener = listener;
    this.#parser = new EventParser((topic, data) => this.#listener.onEvent(topic, JSON.parse(data)));
  }

  /** Connect, and connect again whenever that ends, until it is refused or paused. Does nothing where it does so. */
  open() {
    if (this.#life !== null) return;
    this.#life = new AbortController();
    this.#failures = 0;
    this.#run(this.#life);
  }

  pause() {
    this.#end();
    this.#listener.onState("paused", null);
  }

  /** Connect at once with another token, and take nothing for known. */
  reopen() {
    this.#end();
    this.#parser.lastId = null;
    this.open();
  }

  /** Don't wait any longer for the next try: the network is back, for one. */
  hurry() {
    this.#wake();
  }

  #end() {
    this.#life?.abort();
    this.#life = null;
  }

  async #run(life) {
    this.#listener.onState("connecting", null);
    while (!life.signal.aborted) {
      let why = null;
      try {
        await this.#read(life);
      } catch (error) {
        if (life.signal.aborted) return;
        why = error instanceof Refused ? error : null;
        if (FINAL.has(why?.status)) {
          this.#life = null;
          this.#listener.onState("refused", why);
          return;
        }
      }
      if (life.signal.aborted) return;
      this.#listener.onState("reconnecting", why);
      await this.#sleep(this.#pause(), life.signal);
    }
  }

  async #read(life) {
    const attempt = new AbortController();
    const end = () => attempt.abort();
    life.signal.addEventListener("abort", end);
    let watch = setTimeout(end, SILENT_MS);
    try {
      const headers = { Accept: "text/event-stream" };
      if (this.#parser.lastId !== null) headers["Last-Event-ID"] = this.#parser.lastId;
      const response = await this.#api.request(this.#path, { headers, signal: attempt.signal });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      this.#parser.restart();
      let live = false;
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(watch);
        watch = setTimeout(end, SILENT_MS);
        this.#parser.feed(value);
        this.#failures = 0;
        if (!live) this.#listener.onState("live", null);
        live = true;
      }
    } finally {
      clearTimeout(watch);
      end(); // of whatever is still open
      life.signal.removeEventListener("abort", end);
    }
  }

  #pause() {
    const first = this.#parser.retry ?? FIRST_PAUSE_MS;
    const pause = Math.min(LONGEST_PAUSE_MS, first * 2 ** this.#failures);
    this.#failures = Math.min(this.#failures + 1, 10);
    return pause * (0.75 + Math.random() / 2); // not all pages at once, after a restart
  }

  #sleep(milliseconds, signal) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
      signal.addEventListener("abort", this.#wake, { once: true });
    });
  }
}
