// The proxy's API: a request with the token, and what came of it.

/** The way from the page to the API: relative, so that both may stand behind another server, below any path. */
export const BASE = "../api/v1";

const STORED = "cxfr-proxy token";

/** The token, which is kept for this tab at most, and never part of an address. */
export class Token {
  #value;
  #storage;

  constructor(storage = sessionStorage) {
    this.#storage = storage;
    this.#value = storage.getItem(STORED);
  }

  get value() {
    return this.#value;
  }

  set(value) {
    this.#value = value;
    if (value === null) this.#storage.removeItem(STORED);
    else this.#storage.setItem(STORED, value);
  }
}

/** An answer that is no success; `status` is 0 where there was none. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const PLAIN = {
  401: "The token is not known to this proxy.",
  403: "The token's role does not allow this.",
  404: "This proxy has no such thing; without a file of tokens (--http-tokens) there is no API at all.",
  421: "The proxy does not answer to this host name; see the setting http-host.",
  503: "Too many are connected, or asking.",
};

const detailOf = async (response) => {
  let detail = null;
  try {
    if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) detail = (await response.json()).detail;
  } catch {
    // the status has to do
  }
  return typeof detail === "string" && detail ? detail : (PLAIN[response.status] ?? `The proxy has answered ${response.status}.`);
};

export class Api {
  #token;
  #fetch;

  constructor(token, fetch = globalThis.fetch.bind(globalThis)) {
    this.#token = token;
    this.#fetch = fetch;
  }

  /** Return the response to a request; throws Refused for anything but a success. */
  async request(path, { method = "GET", body = undefined, headers = {}, signal = undefined } = {}) {
    const sent = { ...headers };
    if (this.#token.value !== null) sent.Authorization = `Bearer ${this.#token.value}`;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const options = { method, headers: sent, signal, credentials: "omit", cache: "no-store", redirect: "error" };
    let response;
    try {
      response = await this.#fetch(path, { ...options, body: body === undefined ? undefined : JSON.stringify(body) });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Refused(0, "The proxy can't be reached.");
    }
    if (!response.ok) throw new Refused(response.status, await detailOf(response));
    return response;
  }

  /** Return `{result, notes}` of a view. */
  async show(view, query = {}) {
    const search = new URLSearchParams(query).toString();
    return (await this.request(`${BASE}/show/${view}${search ? `?${search}` : ""}`)).json();
  }

  /** Give an order; return `{result, notes}`. */
  async order(command, body) {
    return (await this.request(`${BASE}/${command}`, { method: "POST", body })).json();
  }
}
