/**
 * XEP-0051 for JavaScript clients: take the request, answer it, go where it says. No dependencies.
 *
 *     import { forStrophe, forXmppJs, forStanza } from "./cxfr.js";
 *
 *     forXmppJs(client, { onRequest: () => saveDrafts() });   // before client.start()
 *     forStrophe(connection);                                 // before connection.connect()
 *     forStanza(client);                                      // before client.connect()
 *
 * What is followed and what is refused is explained in cxfr_proxy/plugins/rules.py, whose twin `judge` is; where a
 * client goes from there, in docs/connection-transfer.md. In short: a request counts only from the client's own domain;
 * it is answered at once; then the application may delay, the stream is closed, and the client connects to the server
 * named. The server named is good for one attempt: if that fails, and later on, the library reconnects as it always did.
 *
 * What the application sends from the moment on that the client begins to leave waits, in order, and goes out on the next
 * stream: behind a closing tag nobody reads. So a promise that `send` returns is settled then.
 *
 * Servers learn that requests are understood from service discovery and from the client's capabilities (XEP-0115), whose
 * node ends in `CAPS_MARK`. The adapter for xmpp.js says both, that for stanza.js sees to it that the library does; with
 * strophe.js it is left to whatever answers disco#info there.
 *
 * Certificates. Over TCP the server named has to show one for the *domain*. In a browser nobody can say so: there the
 * name in the URL is what is checked, and `url` below is where an application can keep to the hosts that it knows.
 *
 * From top to bottom: the grammar of <server/>, the rules, the course of a move, and one adapter for each library.
 */

export const CXFR = "urn:xmpp:cxfr";
export const MAX_MOVES = 5;
/** At the end of a capabilities node: this client understands requests. See connection_transfer.py. */
export const CAPS_MARK = "+xep-0051";

const CAPS = "http://jabber.org/protocol/caps";
const FORMS = "jabber:x:data";
const LOGIN = ["urn:ietf:params:xml:ns:xmpp-bind", "urn:ietf:params:xml:ns:xmpp-session"];
const DISCO_INFO = "http://jabber.org/protocol/disco#info";
const STANZAS = "urn:ietf:params:xml:ns:xmpp-stanzas";
const CLIENT = "jabber:client";

/**
 * Options of all three adapters.
 *
 * @typedef {object} Options
 * @property {(move: Move) => unknown} [onRequest] The client will leave; it waits for a promise returned.
 * @property {(move: Move) => void} [onMoved] A new session has started.
 * @property {(move: Move, error: Error) => void} [onFailed] The server named was not reached; on the way home.
 * @property {(server: Server, current: string) => string} [url] The WebSocket URL for a server; `current` is the one in
 *     use. By default the same with another host, and another port if one is named. May throw: then it is a failure.
 * @property {string[]} [domains] Domains it may be sent to beside its own. The password goes there.
 * @property {number} [maxMoves] Moves in a row, 5.
 * @property {number} [settledSeconds] A session that lasts this long ends a row, 60.
 * @property {number} [patienceSeconds] How long `onRequest` may delay, 8. The proxy waits ten seconds by default.
 * @property {number} [connectSeconds] How long a login at the server named may take, 15.
 */

/** @typedef {{host: string, port: number | null}} Server  An IPv6 host has no brackets here. */
/** @typedef {{id: string, domain: string, server: Server | null}} Move  `server` null: simply reconnect. */
/** @typedef {{condition: string, type: string, text: string}} Refusal */

// -- the grammar of <server/>, as in cxfr_proxy/xmpp/connection_transfer.py ------------------------------------------

const WIDE =
  "\\u00b7\\u00c0-\\u00d6\\u00d8-\\u00f6\\u00f8-\\u037d\\u037f-\\u061b\\u061d-\\u167f\\u1681-\\u180d\\u180f-\\u1fff" +
  "\\u200c-\\u200d\\u2c00-\\u2dff\\u3005-\\ud7ff\\uf900-\\ufaff\\u{10000}-\\u{1cfff}\\u{1e000}-\\u{1edff}" +
  "\\u{20000}-\\u{3ffff}";
const LABEL = new RegExp(`^(?!-)[A-Za-z0-9_${WIDE}-]+(?<!-)$`, "u");
const LETTER_FIRST = new RegExp(`^[A-Za-z${WIDE}]`, "u");
const BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
const IPV4 = new RegExp(`^${BYTE}(?:\\.${BYTE}){3}$`);
const ADDRESS = /^(?:\[([^\]]*)\]|([^:[]*))(?::([1-9][0-9]{0,4}))?$/;

/**
 * Read `host[:port]`.
 *
 * @param {string} text
 * @returns {Server | null} null for what is none
 */
export function parseServer(text) {
  const found = ADDRESS.exec(stripped(text));
  if (!found) return null;
  const [, ipv6, name, digits] = found;
  const port = digits === undefined ? null : Number(digits);
  if (port !== null && port > 65535) return null;
  if (ipv6 !== undefined) return isIpv6(ipv6) ? { host: ipv6.toLowerCase(), port } : null;
  return IPV4.test(name) || isName(name) ? { host: name, port } : null;
}

/** Without the white space of XML around it. */
const stripped = (text) => text.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, "");

/** How a server is written, with brackets where they belong. */
export function formatServer({ host, port }) {
  const bracketed = host.includes(":") ? `[${host}]` : host;
  return port === null ? bracketed : `${bracketed}:${port}`;
}

function isName(text) {
  const labels = text.split(".");
  const last = labels[labels.length - 1];
  const good = (label) => LABEL.test(label) && [...label].length <= 63;
  return [...text].length <= 253 && labels.every(good) && LETTER_FIRST.test(last);
}

/** RFC 4291 section 2.2: eight groups, "::" for at least one of them, the last two perhaps as IPv4. */
function isIpv6(text) {
  const halves = text.split("::");
  if (halves.length > 2) return false;
  const groups = halves.flatMap((half) => (half === "" ? [] : half.split(":")));
  const last = groups[groups.length - 1];
  let count = groups.length;
  if (last !== undefined && last.includes(".")) {
    if (text.endsWith("::") || !IPV4.test(last)) return false;
    groups.pop();
    count += 1;
  }
  return groups.every((group) => /^[0-9A-Fa-f]{1,4}$/.test(group)) && (halves.length === 2 ? count < 8 : count === 8);
}

// -- the rules, as in cxfr_proxy/plugins/rules.py --------------------------------------------------------------------

/**
 * Must a client follow this request?
 *
 * @param {{id?: string | null, from?: string | null, domain?: string | null, server?: string | null}} request
 *     attributes and texts of the IQ; null or undefined where there is none
 * @param {{jid: string, tls: boolean, moves?: number, maxMoves?: number, domains?: string[]}} situation
 * @returns {Move | Refusal}
 */
export function judge(request, { jid, tls, moves = 0, maxMoves = MAX_MOVES, domains = [] }) {
  const own = domainOf(jid);
  if (request.from != null && !same(request.from, own)) {
    return refusal("not-allowed", "cancel", "only the server may move its client");
  }
  const server = parseServer(request.server ?? "");
  const domain = stripped(request.domain ?? "");
  if (server === null || parseServer(domain)?.port !== null) {
    return refusal("bad-request", "modify", "expected a domain and a server");
  }
  if (![own, ...domains].some((each) => same(each, domain))) {
    return refusal("not-acceptable", "modify", "this client does not log in to that domain");
  }
  const plain = same(formatServer(server), domain);
  if (!tls && !(plain && same(domain, own))) {
    return refusal("not-acceptable", "modify", "without TLS a client can't be sent elsewhere");
  }
  if (moves >= maxMoves) {
    return refusal("resource-constraint", "wait", `moved ${moves} times in a row`);
  }
  return { id: request.id ?? "", domain, server: plain ? null : server };
}

const refusal = (condition, type, text) => ({ condition, type, text });
const same = (one, other) => one.toLowerCase() === other.toLowerCase();

function domainOf(jid) {
  const bare = jid.split("/", 1)[0];
  return bare.slice(bare.indexOf("@") + 1);
}

/** The JID, at another domain. */
function atDomain(jid, domain) {
  const start = jid.split("/", 1)[0].indexOf("@") + 1;
  return jid.slice(0, start) + domain + jid.slice(start + domainOf(jid).length);
}

/** The URL of a server's WebSocket (or BOSH) service: the one in use, with another host. */
export function urlFor({ host, port }, current) {
  const url = new URL(current);
  url.hostname = host.includes(":") ? `[${host}]` : host;
  if (port !== null) url.port = String(port);
  return url.href;
}

// -- the course of a move --------------------------------------------------------------------------------------------

/** A promise and what settles it. */
function settleable() {
  let resolve, reject;
  const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
}

/** The promise, or an error once it takes too long. */
function within(seconds, promise, what) {
  const { promise: late, reject } = settleable();
  const timer = setTimeout(() => reject(new Error(`${what}: not within ${seconds} s`)), seconds * 1000);
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Let everything else have its turn. */
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

/** Settled by whichever of these events comes first: those named good fulfil, those named bad reject. */
function firstOf(emitter, good, bad) {
  const { promise, resolve, reject } = settleable();
  const named = new Map([
    ...good.map((name) => [name, resolve]),
    ...bad.map((name) => [name, (error) => reject(error instanceof Error ? error : new Error(`${name} came first`))]),
  ]);
  named.forEach((listener, name) => emitter.on(name, listener));
  const quiet = () => named.forEach((listener, name) => emitter.removeListener(name, listener));
  promise.then(quiet, quiet);
  return promise;
}

/**
 * One client's moves. An adapter gives it a library: `state()` -> {jid, tls}; `answer(request)` and
 * `refuse(request, refusal)`; `leave()`, settled when the stream is closed; `arrive(move)`, when a session has started
 * at the server named; `goHome()`. And it tells when a session has started and when it is lost.
 */
class Mover {
  /** @param {Options} options */
  constructor(library, options) {
    this.library = library;
    this.options = { settledSeconds: 60, patienceSeconds: 8, connectSeconds: 15, url: urlFor, ...options };
    this.moves = 0;
    this.startedAt = 0;
    this.underway = null;
    this.held = null; // what the application sends between two streams, each as a function; null while it need not wait
  }

  sessionStarted() {
    this.startedAt = Date.now();
    const held = this.held ?? [];
    this.held = null;
    held.forEach((send) => send());
  }

  /** Send something of the application's, now or once there is a session again: what `action` returns, or its promise. */
  send(action) {
    if (this.held === null) return action();
    const { promise, resolve, reject } = settleable();
    this.held.push(() => {
      try {
        resolve(action());
      } catch (error) {
        reject(error);
      }
    });
    return promise;
  }

  /** Lost before the client has left by itself: the library reconnects as it always does, and that is all. */
  sessionLost() {
    if (this.underway && !this.underway.leaving) this.underway = null;
  }

  receive(request) {
    if (Date.now() - this.startedAt >= this.options.settledSeconds * 1000) this.moves = 0;
    const { maxMoves, domains } = this.options;
    let verdict = judge(request, { ...this.library.state(), moves: this.moves, maxMoves, domains });
    if (!verdict.condition && this.underway) {
      verdict = refusal("unexpected-request", "wait", "on the way already");
    }
    if (verdict.condition) {
      this.library.refuse(request, verdict);
      return;
    }
    if (verdict.id) this.library.answer(request);
    this.moves += 1;
    this.underway = { leaving: false };
    this.follow(verdict, this.underway);
  }

  async follow(move, underway) {
    const { options, library } = this;
    try {
      const prepared = Promise.resolve(move).then((it) => options.onRequest?.(it));
      await within(options.patienceSeconds, prepared, "the application's preparations");
    } catch (error) {
      console.error(error); // the application's own; it does not keep the client here
    }
    await turn(); // the answer has to be on its way before the stream is closed
    if (this.underway !== underway) return;
    underway.leaving = true;
    this.held = [];
    try {
      await library.leave();
      await library.arrive(move);
    } catch (error) {
      this.underway = null;
      options.onFailed?.(move, error);
      await library.goHome();
      return;
    }
    this.underway = null;
    options.onMoved?.(move);
  }

  /** For adapters: the session that is to start, with the time it may take. */
  arriving(started) {
    return within(this.options.connectSeconds, started, "a session at the server named");
  }
}

// -- xmpp.js ---------------------------------------------------------------------------------------------------------

/**
 * For `client()` of @xmpp/client, over TCP in Node or over WebSocket. Call it before `start()`.
 *
 * @param {Options} [options]
 */
export function forXmppJs(client, options = {}) {
  const { iqCallee, reconnect } = client;
  const tcp = (service) => !/^wss?:/.test(service ?? "");

  /** TLS from the first byte or STARTTLS: the request does not say which, so first as at home, then the other. */
  const services = ({ server }) => {
    const { service } = client.options;
    if (server === null) return [service];
    if (!tcp(service)) return [mover.options.url(server, service)];
    const schemes = /^xmpps:/.test(service ?? "") ? ["xmpps", "xmpp"] : ["xmpp", "xmpps"];
    return schemes.map((scheme) => `${scheme}://${formatServer({ ...server, port: server.port ?? 5222 })}`);
  };

  const connect = (service, domain) => {
    const online = firstOf(client, ["online"], ["disconnect", "error"]);
    const begun = client.connect(service).then(() => client.open({ domain, lang: client.options.lang }));
    return mover.arriving(Promise.all([begun, online]));
  };

  const { send } = client;
  let careful = false; // at a server that was named: no login without TLS

  client.send = async (element, ...rest) => {
    const login = element.name === "auth" || element.name === "authenticate";
    if (login && careful && !client.isSecure()) throw new Error("the server named offers no TLS");
    const pass = () => send.call(client, element, ...rest);
    const ofTheLogin = element.getChildElements().some((child) => LOGIN.includes(child.getNS()));
    if (ofTheLogin || !isStanza(element.name)) return pass();
    if (introduces(element)) await announce(element);
    return mover.send(pass);
  };

  /** What is different at a server that was named; the function returned ends it. */
  const beCareful = (domain) => {
    const { socketParameters } = client;
    // Node checks the certificate against `servername`; the library would have it checked against the address.
    client.socketParameters = (service) => {
      const parameters = socketParameters.call(client, service);
      return tcp(service) ? { ...parameters, servername: domain } : parameters;
    };
    careful = true;
    return () => {
      careful = false;
      Object.assign(client, { socketParameters });
    };
  };

  const library = {
    state: () => ({ jid: String(client.jid), tls: client.isSecure() }),
    answer: ({ decide }) => decide(true),
    refuse: ({ decide }, refused) => decide(refused),

    async leave() {
      reconnect.stop();
      await client.stop(); // not `disconnect()`: a session whose stream was closed is not to be resumed
    },

    async arrive(move) {
      const { jid } = client;
      const home = client.options.domain;
      client.options.domain = move.domain;
      client._jid(atDomain(String(jid), move.domain)); // the stream's `from`
      const careless = move.server === null ? null : beCareful(move.domain);
      try {
        await inTurn(services(move), async (service) => {
          try {
            await connect(service, move.domain);
          } catch (error) {
            await client.disconnect().catch(() => {});
            throw error;
          }
        });
        reconnect.start();
      } catch (error) {
        client.options.domain = home;
        client._jid(String(jid));
        throw error;
      } finally {
        careless?.();
      }
    },

    async goHome() {
      reconnect.start();
      await reconnect.reconnect().catch(() => reconnect.scheduleReconnect());
    },
  };
  const mover = new Mover(library, options);
  client.on("online", () => mover.sessionStarted());
  client.on("disconnect", () => mover.sessionLost());

  iqCallee.set(CXFR, "query", ({ stanza, element }) => {
    const { promise, resolve } = settleable();
    mover.receive({ ...requestOf(stanza, element.getChildElements(), (each) => each.getText()), decide: resolve });
    return promise.then((decision) => (decision === true ? true : errorElement(stanza.constructor, decision)));
  });

  // Where the application answers disco#info too, the feature is added to what it says.
  const theirs = [];
  const { get } = iqCallee;
  const describe = async ({ stanza, element }, next) => {
    const Element = stanza.constructor;
    const said = await next();
    if (said instanceof Element && said.is("error")) return said;
    const query = said instanceof Element ? said : new Element("query", { xmlns: DISCO_INFO, ...nodeOf(element) });
    if (query.getChild("identity") === undefined) {
      query.append(new Element("identity", { category: "client", type: tcp(client.options.service) ? "bot" : "web" }));
    }
    query.append(new Element("feature", { var: CXFR }));
    return query;
  };
  get.call(iqCallee, DISCO_INFO, "query", describe);
  iqCallee.get = (namespace, name, handler) => {
    if (namespace === DISCO_INFO && name === "query") theirs.push(handler);
    get.call(iqCallee, namespace, name, handler);
  };

  /** The presence in which a client says what it is (XEP-0115 section 2.1), unless the application has said it. */
  const introduces = (element) =>
    element.is("presence") && !element.attrs.to && !element.attrs.type && element.getChild("c", CAPS) === undefined;

  const announce = async (presence) => {
    const Element = presence.constructor;
    const element = new Element("query", { xmlns: DISCO_INFO });
    const stanza = new Element("iq", { type: "get", id: "capabilities", to: String(client.jid) }, element);
    const context = { stanza, element, entity: client, type: "get", name: "iq", id: "capabilities" };
    const ask = (number) => (theirs[number] ? theirs[number](context, () => ask(number + 1)) : undefined);
    const ver = await capabilitiesHash(await describe(context, async () => ask(0)));
    if (ver === null) return;
    presence.append(new Element("c", { xmlns: CAPS, hash: "sha-1", node: XMPP_JS + CAPS_MARK, ver }));
  };
  return mover;
}

const XMPP_JS = "https://github.com/xmppjs/xmpp.js";

const isStanza = (name) => ["iq", "message", "presence"].includes(name);

/** XEP-0115 section 5.1; null where it can't be told: an error, an answer with forms, a page of no secure origin. */
async function capabilitiesHash(query) {
  const subtle = globalThis.crypto?.subtle;
  if (!query?.is("query") || query.getChild("x", FORMS) !== undefined || !subtle) return null;
  const parts = ({ attrs }) => [attrs.category, attrs.type, attrs["xml:lang"], attrs.name];
  const identities = query.getChildren("identity").map((each) => parts(each).map((part) => part ?? "").join("/"));
  const features = query.getChildren("feature").map(({ attrs }) => attrs.var);
  const text = [...identities.sort(), ...features.sort()].map((each) => `${each}<`).join("");
  const hash = new Uint8Array(await subtle.digest("SHA-1", new TextEncoder().encode(text)));
  return btoa(String.fromCharCode(...hash));
}

const nodeOf = ({ attrs }) => (attrs.node === undefined ? {} : { node: attrs.node });

function errorElement(Element, { condition, type, text }) {
  const error = new Element("error", { type });
  error.append(new Element(condition, { xmlns: STANZAS }));
  const words = new Element("text", { xmlns: STANZAS });
  words.append(text);
  error.append(words);
  return error;
}

async function inTurn(things, attempt) {
  let failure;
  for (const thing of things) {
    try {
      return await attempt(thing);
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

/** What `judge` reads: exactly a domain and a server in the query. */
function requestOf({ attrs }, children, textOf) {
  const texts = Object.fromEntries(children.map((child) => [child.name, textOf(child)]));
  const whole = children.length === 2 && children[0].name === "domain" && children[1].name === "server";
  return { id: attrs.id, from: attrs.from, ...(whole ? texts : {}) };
}

// -- strophe.js ------------------------------------------------------------------------------------------------------

const Status = { CONNFAIL: 2, AUTHFAIL: 4, CONNECTED: 5, DISCONNECTED: 6, DISCONNECTING: 7, CONNTIMEOUT: 10 };
const ENDS = [Status.CONNFAIL, Status.AUTHFAIL, Status.DISCONNECTED, Status.CONNTIMEOUT];

/**
 * For a `Strophe.Connection`. Call it before `connect()`.
 *
 * While the client moves, the connection's callback hears nothing of the old session's end, so that an application which
 * reconnects by itself does not get in the way; it hears of the new session like of any other. Strophe does not answer
 * disco#info by itself, so announcing `CXFR` is left to whatever does.
 *
 * @param {Options} [options]
 */
export function forStrophe(connection, options = {}) {
  const connect = connection.connect;
  let login = []; // the arguments behind the JID and the password
  let waiting = null;

  const library = {
    state: () => ({ jid: connection.jid, tls: /^(wss|https):/.test(connection.service) }),
    answer: ({ iq }) => connection.send(reply(iq, "result")),
    refuse: ({ iq }, refused) => connection.send(reply(iq, "error", refused)),

    async leave() {
      waiting = settleable();
      const left = waiting.promise.catch(() => {});
      connection.disconnect("connection transfer");
      await left;
      waiting = null;
      await turn(); // strophe tells before it has finished
      connection.reset();
    },

    async arrive({ domain, server }) {
      const { jid, service } = connection;
      waiting = settleable();
      if (server !== null) connection.service = mover.options.url(server, service);
      connection.connect(atDomain(jid, domain), connection.pass, ...login);
      // Node's "ws" throws what nobody listens to, and strophe stops listening before it closes a socket.
      connection._proto?.socket?.addEventListener?.("error", () => {});
      try {
        await mover.arriving(waiting.promise);
      } catch (error) {
        connection.jid = jid;
        throw error;
      } finally {
        waiting = null;
        connection.service = service; // a WebSocket reads it only when it connects
      }
    },

    async goHome() {
      await library.leave(); // what is left of the attempt
      connection.connect(connection.jid, connection.pass, ...login);
    },
  };
  const mover = new Mover(library, options);

  const { send } = connection;
  connection.send = (stanza) => {
    const element = stanza?.tree?.() ?? stanza; // it may be a builder
    const own = element?.tagName !== undefined && elements(element).some((each) => LOGIN.includes(namespaceOf(each)));
    const ofTheStream = element?.tagName !== undefined && !isStanza(element.tagName);
    return own || ofTheStream ? send.call(connection, stanza) : mover.send(() => send.call(connection, stanza));
  };

  connection.connect = (jid, pass, callback, ...rest) => {
    login = [callback, ...rest];
    const onStatus = (status, ...facts) => {
      if (status === Status.CONNECTED) {
        mover.sessionStarted();
        connection.addHandler(onRequest, CXFR, "iq", "set");
        waiting?.resolve();
      }
      if (ENDS.includes(status)) {
        mover.sessionLost();
        const unheard = waiting;
        unheard?.reject(new Error(`status ${status}`));
        if (unheard) return;
      }
      if (waiting && status === Status.DISCONNECTING) return;
      callback?.(status, ...facts);
    };
    return connect.call(connection, jid, pass, onStatus, ...rest);
  };

  function onRequest(iq) {
    const query = elements(iq).find((each) => each.namespaceURI === CXFR);
    const children = query === undefined ? [] : elements(query).map((each) => ({ name: each.localName, each }));
    const attrs = { id: iq.getAttribute("id"), from: iq.getAttribute("from") };
    mover.receive({ ...requestOf({ attrs }, children, ({ each }) => each.textContent), iq });
    return true; // keep the handler
  }
  return mover;
}

/** As its builder makes them, elements know their namespace by an attribute alone. */
const namespaceOf = (element) => element.getAttribute("xmlns") ?? element.namespaceURI;

const elements = (node) => Array.from(node.childNodes).filter((each) => each.nodeType === 1);

/** An answer as strophe's own builder would make it: its serializer writes attributes, and no namespaces but those. */
function reply(iq, type, refused = null) {
  const make = (parent, name, attributes) => {
    const element = iq.ownerDocument.createElement(name);
    Object.entries(attributes).forEach(([key, value]) => value !== null && element.setAttribute(key, value));
    return parent?.appendChild(element) ?? element;
  };
  const addresses = { type, id: iq.getAttribute("id"), to: iq.getAttribute("from") };
  const answer = make(null, "iq", { xmlns: CLIENT, ...addresses });
  if (refused !== null) {
    const error = make(answer, "error", { type: refused.type });
    make(error, refused.condition, { xmlns: STANZAS });
    make(error, "text", { xmlns: STANZAS }).textContent = refused.text;
  }
  return answer;
}

// -- stanza.js -------------------------------------------------------------------------------------------------------

/**
 * For `createClient()` of stanza. Call it before `connect()`.
 *
 * @param {Options} [options]
 */
export function forStanza(client, options = {}) {
  const text = (name) => ({ importer: (xml) => xml.getChild(name, CXFR)?.getText(), exporter() {} });
  client.stanzas.define({
    element: "query",
    namespace: CXFR,
    path: "iq.connectionTransfer",
    fields: { domain: text("domain"), server: text("server") },
  });
  client.disco.addFeature(CXFR);
  client.config.capsNode = `${client.config.capsNode ?? "https://stanzajs.org"}${CAPS_MARK}`;
  const { send } = client;
  client.send = async (kind, stanza, ...rest) => {
    const pass = () => send.call(client, kind, stanza, ...rest);
    return isStanza(kind) && !stanza.bind && !stanza.legacySession ? mover.send(pass) : pass();
  };
  const url = () => client.transport?.config?.url ?? "";

  const library = {
    state: () => ({ jid: client.jid, tls: /^(wss|https):/.test(url()) }),
    answer: ({ iq }) => client.sendIQResult(iq, {}),
    refuse: ({ iq }, { condition, type, text }) => client.sendIQError(iq, { error: { condition, type, text } }),

    async leave() {
      library.current = url();
      const left = firstOf(client, ["disconnected"], []);
      client.disconnect();
      await left;
    },

    async arrive({ domain, server }) {
      const { transports, ...home } = client.config;
      if (server !== null) {
        const there = mover.options.url(server, library.current);
        const kind = /^ws/.test(there) ? "websocket" : "bosh";
        client.config.transports = { websocket: false, bosh: false, [kind]: there };
      }
      Object.assign(client.config, { server: domain, jid: atDomain(client.config.jid, domain) });
      const started = firstOf(client, ["session:started"], ["disconnected", "auth:failed"]);
      try {
        await mover.arriving(Promise.all([client.connect(), started]));
      } catch (error) {
        Object.assign(client.config, { server: home.server, jid: home.jid });
        throw error;
      } finally {
        client.config.transports = transports;
      }
    },

    async goHome() {
      await library.leave(); // what is left of the attempt, and the library's own plan to repeat it
      await client.connect();
    },
  };
  const mover = new Mover(library, options);
  client.on("session:started", () => mover.sessionStarted());
  client.on("disconnected", () => mover.sessionLost());
  client.on("iq:set:connectionTransfer", (iq) => mover.receive({ ...iq.connectionTransfer, id: iq.id, from: iq.from, iq }));
  return mover;
}
