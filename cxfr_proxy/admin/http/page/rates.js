// Rates: how fast a number changes, from what it was some seconds ago. Times are in seconds, of any clock that only grows.

export const WINDOW_SECONDS = 10;

/** How fast one number has changed over the last seconds. */
export class RateOf {
  #seen = []; // [when, value], the oldest first; the first may be older than the window: it held until the second

  note(value, now) {
    const last = this.#seen.at(-1);
    if (last === undefined || last[1] !== value) this.#seen.push([now, value]);
    while (this.#seen.length > 1 && this.#seen[1][0] <= now - WINDOW_SECONDS) this.#seen.shift();
  }

  /** The change per second; null as long as too little was seen to tell. */
  perSecond(now) {
    if (this.#seen.length === 0) return null;
    while (this.#seen.length > 1 && this.#seen[1][0] <= now - WINDOW_SECONDS) this.#seen.shift();
    const [first, then] = this.#seen[0];
    const span = now - Math.max(first, now - WINDOW_SECONDS);
    return span < 1 ? null : (this.#seen.at(-1)[1] - then) / span;
  }
}

/** Rates by name; names that are no longer noted are forgotten. */
export class Rates {
  #rates = new Map();

  note(values, now) {
    const before = this.#rates;
    this.#rates = new Map();
    for (const [name, value] of values) {
      const known = before.get(name) ?? new RateOf();
      known.note(value, now);
      this.#rates.set(name, known);
    }
  }

  perSecond(name, now) {
    return this.#rates.get(name)?.perSecond(now) ?? null;
  }
}

/** How fast sessions come to each node and leave it, and what that comes to. */
export class NodeRates {
  #sessions = new Rates();
  #came = new Rates();
  #went = new Rates();

  note(rows, now) {
    this.#sessions.note(rows.map((row) => [row.name, row.sessions]), now);
    this.#came.note(rows.map((row) => [row.name, row.entered]), now);
    this.#went.note(rows.map((row) => [row.name, row.entered - row.sessions]), now);
  }

  of(name, now) {
    const [perSecond, came, went] = [this.#sessions, this.#came, this.#went].map((each) => each.perSecond(name, now));
    return { perSecond, came, went };
  }
}
