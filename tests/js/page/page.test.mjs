// The logic of the status page, without a browser. Run by tests/admin/test_admin_http_status_page.py.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { newDocument, until, written } from "./dom.mjs";
import { HOSTILE, drain, event, node, plan, sample } from "./rows.mjs";

const PAGE = process.env.CXFR_STATUS_PAGE; // the URL of the page's folder, with a slash at its end
const load = (name) => import(new URL(name, PAGE));

newDocument();
const { Api, Refused, Token } = await load("api.js");
const { changesInWords } = await load("changes.js");
const { PartList, el } = await load("dom.js");
const format = await load("format.js");
const { EventList, merged } = await load("lists.js");
const { NodeTable, adminState, chosen, comeAndGo, failures, health, ordersFor } = await load("nodes.js");
const { ask, planInWords } = await load("orders.js");
const { Plot, binned, ticks } = await load("plot.js");
const { NodeRates, RateOf, Rates } = await load("rates.js");
const { Running, doneShare, drainSentence, rollSentence } = await load("running.js");
const { Connection, EventParser } = await load("stream.js");

const operator = (more = {}) => ({ mayOperate: true, asked: [], render() {}, rows: () => [], ask: function (...given) { this.asked.push(given); }, ...more });

// --- how values are written

test("values are written as on the command line", () => {
  const durations = [0, 0.44, 9.99, 10, 59.9, 60, 190, 3599, 3600, 18120, 86400, 183600].map(format.duration);
  assert.deepEqual(durations, ["0.0s", "0.4s", "10.0s", "10s", "59s", "1m00s", "3m10s", "59m59s", "1h00m", "5h02m", "1d00h", "2d03h"]);
  assert.equal(format.duration(null), "–");
  assert.deepEqual([0, 0.004, 0.25, 3.14159, 41.7, 12345].map(format.rate), ["0/s", "0/s", "0.25/s", "3.1/s", "42/s", "12,345/s"]);
  assert.deepEqual([null, 0, 2, -41.7, -0.001].map(format.change), ["–", "–", "+2.0/s", "−42/s", "–"]);
  assert.deepEqual([1, 180_000_000, 3 * 2 ** 30].map(format.bytes), ["1 KiB", "172 MiB", "3.0 GiB"]);
});

test("text of strangers cannot turn around what stands beside it", () => {
  assert.equal(format.clean("a\u202eb\n\u0000\u{e0001}é\ud800"), "a\\u202eb\\u000a\\u0000\\U000e0001é\\ud800");
});

// --- the stream

const STREAM = ': hello\r\nretry: 1500\n\nid: 7-1\nevent: nodes\r\ndata: {"a":\rdata: 1}\r\n\r\ndata:  x\ndata\n\nevent: nothing\n\nid: 7-2\ndata: ü\n\ndata: cut';

test("a stream is read the same wherever its pieces end", () => {
  const read = (...pieces) => {
    const events = [];
    const parser = new EventParser((name, data) => events.push([name, data]));
    pieces.forEach((piece) => parser.feed(piece));
    return { events, lastId: parser.lastId, retry: parser.retry };
  };
  const whole = read(STREAM);
  assert.deepEqual(whole.events, [["nodes", '{"a":\n1}'], ["message", " x\n"], ["message", "ü"]]);
  assert.deepEqual([whole.lastId, whole.retry], ["7-2", 1500]);
  for (let at = 0; at <= STREAM.length; at += 1) assert.deepEqual(read(STREAM.slice(0, at), STREAM.slice(at)), whole, `at ${at}`);
  assert.deepEqual(read(...STREAM), whole);
});

const streamOf = (text) => ({ body: new Response(text).body });

test("a stream that ends is opened again, from the last event on, until it is refused", async () => {
  const asked = [];
  const answers = [
    () => streamOf('retry: 1\n\nid: 7-1\nevent: nodes\ndata: {"rows": []}\n\n'),
    () => {
      throw new Refused(503, "12 streams are open already");
    },
    () => streamOf('event: nodes\ndata: no JSON\n\n'),
    () => {
      throw new Refused(401, "this token is not known here");
    },
  ];
  const api = {
    async request(path, { headers }) {
      asked.push([path, headers["Last-Event-ID"]]);
      return answers[asked.length - 1]();
    },
  };
  const seen = [];
  const connection = new Connection(api, "/stream", {
    onEvent: (topic, data) => seen.push([topic, data]),
    onState: (state, detail) => seen.push(detail ? [state, detail.message] : state),
  });
  connection.open();
  connection.open(); // it is
  await until(() => seen.some((each) => each[0] === "refused"));
  assert.deepEqual(asked, [["/stream", undefined], ["/stream", "7-1"], ["/stream", "7-1"], ["/stream", "7-1"]]);
  assert.deepEqual(seen, ["connecting", ["nodes", { rows: [] }], "live", "reconnecting", ["reconnecting", "12 streams are open already"], "reconnecting", ["refused", "this token is not known here"]]);
});

test("a stream that is paused says nothing more", async () => {
  const seen = [];
  let aborted = false;
  const api = {
    request: (path, { signal }) =>
      new Promise((resolve, reject) =>
        signal.addEventListener("abort", () => {
          aborted = true;
          reject(signal.reason);
        }),
      ),
  };
  const connection = new Connection(api, "/stream", { onEvent() {}, onState: (state) => seen.push(state) });
  connection.open();
  connection.pause();
  await until(() => aborted);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(seen, ["connecting", "paused"]);
});

// --- requests

test("the token is in a header, never in an address, and is kept for the tab", async () => {
  newDocument();
  const token = new Token();
  token.set("s3cret");
  assert.equal(new Token().value, "s3cret");
  const sent = [];
  const api = new Api(token, async (path, options) => {
    sent.push([path, options.headers.Authorization, options.method, options.body, options.credentials]);
    return new Response('{"result": [], "notes": []}', { headers: { "Content-Type": "application/json" } });
  });
  await api.show("sessions", { node: "a&b=c", limit: 20 });
  await api.order("drain", { node: "node1" });
  assert.deepEqual(sent, [
    ["../api/v1/show/sessions?node=a%26b%3Dc&limit=20", "Bearer s3cret", "GET", undefined, "omit"],
    ["../api/v1/drain", "Bearer s3cret", "POST", '{"node":"node1"}', "omit"],
  ]);
  token.set(null);
  assert.equal(new Token().value, null);
});

test("a refusal says the proxy's own sentence, or one that fits", async () => {
  const answered = (status, body, type) => new Api({ value: null }, async () => new Response(body, { status, headers: { "Content-Type": type } }));
  const problem = answered(409, '{"detail": "nothing is done: ..."}', "application/problem+json");
  await assert.rejects(problem.order("drain", {}), { status: 409, message: "nothing is done: ..." });
  await assert.rejects(answered(403, "{", "application/problem+json").show("nodes"), { status: 403, message: /role/ });
  await assert.rejects(answered(500, "<html>", "text/html").show("nodes"), { status: 500, message: /500/ });
  const gone = new Api({ value: null }, () => Promise.reject(new TypeError("fetch failed")));
  await assert.rejects(gone.show("nodes"), { status: 0, message: /can't be reached/ });
});

// --- what is drawn

test("parts stay the same as long as their rows are there", () => {
  const parent = el("ul");
  const made = [];
  const list = new PartList(parent, (row) => row.id, (row) => {
    made.push(row.id);
    const part = { element: el("li"), update: (now) => (part.element.textContent = now.text) };
    return part;
  });
  const show = (...ids) => {
    list.update(ids.map((id) => ({ id, text: `${id}!` })));
    return parent.children.map((child) => child.textContent).join(" ");
  };
  assert.equal(show("a", "b", "c"), "a! b! c!");
  const [a] = parent.children;
  assert.equal(show("c", "a", "d"), "c! a! d!");
  assert.equal(parent.children[1], a);
  assert.equal(show(), "");
  assert.equal(show("b"), "b!");
  assert.deepEqual(made, ["a", "b", "c", "d", "b"]);
});

test("each state of a node has a word and a tone", () => {
  assert.deepEqual(adminState(node("a")), ["good", "ready"]);
  assert.deepEqual(adminState(node("a", { admin_state: "drain", drain: "awake" })), ["busy", "draining, active first"]);
  assert.deepEqual(adminState(node("a", { admin_state: "maint", drain: "done" })), ["idle", "maintenance, drained"]);
  assert.deepEqual(adminState(node("a", { admin_state: "removed", drain: "all" })), ["warn", "removed, draining"]);
  assert.deepEqual(adminState(node("a", { admin_state: "drain", drain: "of a later version" })), ["idle", "of a later version"]);
  assert.deepEqual(health(node("a", { health: "down" })), ["bad", "down"]);
  assert.deepEqual(health(node("a", { warm_up: 0.25 })), ["warn", "up, warming up (25%)"]);
});

test("what has failed is counted", () => {
  assert.deepEqual(failures(node("a")), []);
  const found = failures(node("a", { checks_failed: 1, connect_failures: 1200, forged: 2 }));
  assert.deepEqual(found, ["1 check failed", "1,200 connections failed", "2 forged transfers"]);
});

test("orders are offered where they fit", () => {
  const offered = (admin_state, stage) => ordersFor(node("a", { admin_state, drain: stage }));
  assert.deepEqual(offered("ready", null), ["drain"]);
  assert.deepEqual(offered("drain", "all"), ["abort", "undrain"]);
  assert.deepEqual(offered("drain", "settling"), ["abort", "undrain"]);
  assert.deepEqual(offered("drain", "aborted"), ["drain", "undrain"]);
  assert.deepEqual(offered("drain", "done"), ["undrain"]);
  assert.deepEqual(offered("maint", null), ["undrain"]);
  assert.deepEqual(offered("removed", "all"), ["abort"]);
  assert.deepEqual(offered("removed", "done"), []);
});

test("nodes are chosen by kind, name and address", () => {
  const rows = [node("alpha"), node("beta", { health: "down" }), node("gamma", { admin_state: "drain", drain: "all", address: "[2001:db8::7]:5222" })];
  const names = (...given) => chosen(rows, ...given).map((row) => row.name).join();
  assert.equal(names("all", " ALPHA "), "alpha");
  assert.equal(names("attention", ""), "beta");
  assert.equal(names("drained", ""), "gamma");
  assert.equal(names("all", "db8::7"), "gamma");
});

test("a thousand nodes: some rows are drawn, and what has not changed is not drawn again", () => {
  const section = newDocument();
  const app = operator();
  const table = new NodeTable(section, app);
  const rows = Array.from({ length: 1000 }, (_, at) => node(`node${at}`));
  const draw = () => table.update(rows, new NodeRates(), 0, 0);
  draw();
  const lines = () => section.all("tr").length - 1;
  assert.equal(lines(), 200);
  const before = written();
  draw();
  assert.equal(written() - before, 0);
  rows[3] = node("node3", { sessions: 5 });
  draw();
  const few = written() - before;
  assert.ok(few > 0 && few < 10, `${few} writes`);
  const more = section.all((each) => each.localName === "button" && each.textContent === "Show 800 more")[0];
  more.fire("click");
  draw();
  assert.equal(lines(), 1000);
});

test("names of strangers are text, wherever they stand", () => {
  const section = newDocument();
  const app = operator();
  const evil = { name: HOSTILE, address: HOSTILE, check: HOSTILE, drain: "all", admin_state: "drain", drain_reason: HOSTILE };
  new NodeTable(section, app).update([node("a", evil)], new NodeRates(), 0, 0);
  const rungs = [{ rung: HOSTILE, moved: 1, refused: 0, silent: 0, failed: 0 }];
  const roll = [{ kind: "roll", node: HOSTILE, step: HOSTILE, sessions: 1, moved: 0, reason: HOSTILE, stopped: true }];
  const drains = [{ row: drain({ node: HOSTILE, waiting_reason: HOSTILE, rungs }), node: node("a", evil), perSecond: null, age: 0 }];
  new Running(section, app).update({ drains, roll, rebalance: [], restart: [] });
  new EventList(section, app).update([event(1, { event: HOSTILE, details: HOSTILE, process: HOSTILE, level: HOSTILE })]);
  assert.equal(section.all("img").length, 0);
  const shown = section.textContent;
  assert.ok(shown.includes('<img src=x onerror="alert(1)">\\u202e\\u0007\\u000a"\'&'));
  assert.ok(!/[\u202e\u0007]/.test(shown));
  assert.ok(![...section.all(() => true)].some((each) => /[\u202e\u0007]/.test([...each.attributes.values()].join())));
});

test("a button of a node asks for that node", () => {
  const section = newDocument();
  const app = operator();
  const table = new NodeTable(section, app);
  table.update([node("node7")], new NodeRates(), 0, 0);
  const [button] = section.all((each) => each.getAttribute("aria-label") === "Drain node7");
  button.fire("click");
  assert.deepEqual(app.asked, [["drain", "node7"]]);
  button.focus();
  table.update([node("node7", { admin_state: "drain", drain: "all" })], new NodeRates(), 0, 0);
  assert.equal(document.activeElement.textContent, "Abort…", "the focus stays in the row");
  app.mayOperate = false;
  table.update([node("node7")], new NodeRates(), 0, 0);
  assert.equal(section.all((each) => each.getAttribute("aria-label")?.endsWith("node7")).length, 0, "those who may only see");
});

test("the progress of a drain in words", () => {
  assert.equal(drainSentence(drain(), 5), "50 of 100 sessions left, 5.0/s, about 10s to go.");
  assert.equal(drainSentence(drain(), null), "50 of 100 sessions left.");
  assert.equal(drainSentence(drain({ paced_by: "2 at a time" }), 5), "50 of 100 sessions left, 5.0/s (2 at a time), about 10s to go.");
  assert.equal(drainSentence(drain({ waiting_reason: "no other node can take them" }), 5), "50 of 100 sessions left. Waiting: no other node can take them.");
  assert.equal(drainSentence(drain({ left: 0, settling_seconds: 2.5 }), null, 1), "Empty. It settles: safe to stop in 1.5s.");
  assert.equal(drainSentence(drain({ left: 0, finished: true }), null), "Empty and safe to stop.");
  assert.equal(drainSentence(drain({ finished: true, waiting_reason: "the drain was aborted" }), null), "50 of 100 sessions left. Nothing more is tried.");
  assert.deepEqual([drain(), drain({ total: 0, left: 0 }), drain({ left: 300 })].map(doneShare), [0.5, 1, 0]);
});

test("a roll in words, and a card only while it is not over", () => {
  const row = (name, step, more = {}) => ({ kind: "roll", node: name, step, sessions: 1, moved: 2, reason: null, stopped: false, ...more });
  assert.equal(rollSentence([row("a", "done"), row("b", "drain"), row("c", "waits")]), "1 of 3 nodes restarted. It is the turn of b.");
  assert.equal(rollSentence([row("a", "restart", { stopped: true })]), "0 of 1 node restarted. It has stopped at a.");
  const section = newDocument();
  const running = new Running(section, operator());
  const cards = (roll) => running.update({ drains: [], roll, rebalance: [], restart: [] });
  assert.equal(cards([row("a", "drain")]), true);
  assert.match(section.textContent, /Rolling restart.*Give it up….*is being drained/);
  assert.equal(cards([row("a", "done")]), false);
  assert.equal(section.textContent, "");
});

test("an upgrade is under way as long as the process before has sessions", () => {
  const section = newDocument();
  const running = new Running(section, operator());
  const shown = (left) => running.update({ summary: [{ predecessor_sessions: left, rate: 5 }], drains: [], roll: [], rebalance: [], restart: [] });
  assert.equal(shown(0), false);
  assert.equal(shown(40), true);
  shown(10);
  assert.ok(section.textContent.includes("10 sessions are still with the process before this one, which moves them at 5.0/s at most."));
  assert.equal(section.all((each) => each.getAttribute("role") === "progressbar")[0].getAttribute("aria-valuenow"), "75");
  assert.equal(shown(0), false);
});

test("samples are put together without losing any", () => {
  const rows = Array.from({ length: 25 }, (_, at) => sample(at));
  for (const most of [1, 7, 24, 25, 100]) {
    const bins = binned(rows, most);
    assert.ok(bins.length <= most);
    const sum = (name) => bins.reduce((total, bin) => total + bin[name], 0);
    assert.deepEqual([sum("moved"), sum("refused"), sum("seconds")], [50, 25, 250]);
    assert.deepEqual([bins.at(-1).sessions, bins.at(-1).time], [124, rows[24].time]);
  }
  assert.deepEqual(binned([], 10), []);
});

test("an axis has few round numbers, and room for the most", () => {
  for (const most of [0.003, 0.7, 1, 2, 9, 10, 11, 99, 101, 13_812, 1e6]) {
    const found = ticks(most);
    assert.ok(found[0] === 0 && found.at(-1) >= most && found.at(-2) < most && found.length <= 5, `${most}: ${found}`);
  }
  assert.deepEqual(ticks(0), [0, 1]);
});

test("the plot draws what there is, and nothing where there is nothing", () => {
  const section = newDocument();
  const plot = new Plot(section);
  plot.update([]);
  assert.equal(section.all("rect").length, 0);
  plot.update([sample(1), sample(2, { sessions: 0, moved: 0, refused: 0 }), sample(3)]);
  assert.equal(section.all("rect").length, 4);
  assert.equal(section.all("polyline").length, 1);
  const numbers = section.all((each) => ["rect", "polyline", "polygon"].includes(each.localName)).flatMap((each) => [...each.attributes.values()]);
  assert.ok(!numbers.some((value) => /NaN|Infinity|-\d/.test(value)), String(numbers));
});

test("a rate is the change of the last seconds", () => {
  const rate = new RateOf();
  assert.equal(rate.perSecond(0), null);
  rate.note(100, 0);
  assert.equal(rate.perSecond(0.5), null);
  for (let at = 1; at <= 20; at += 1) rate.note(100 + 5 * at, at);
  assert.equal(rate.perSecond(20), 5);
  assert.equal(rate.perSecond(25), 2.5);
  assert.equal(rate.perSecond(60), 0);
  rate.note(90, 60);
  assert.equal(rate.perSecond(61), -11, "a jump counts for the whole window");
  const rates = new Rates();
  rates.note([["a", 1]], 0);
  rates.note([["b", 1]], 5);
  assert.equal(rates.perSecond("a", 6), null);
});

test("sessions come to a node and leave it at the same time", () => {
  const rates = new NodeRates();
  const [before, after] = [[10, 100], [8, 130]].map(([sessions, entered]) => [node("a", { sessions, entered })]);
  rates.note(before, 0);
  rates.note(after, 10);
  assert.deepEqual(rates.of("a", 10), { perSecond: -0.2, came: 3, went: 3.2 });
  assert.equal(rates.of("b", 10).came, null);
  const section = newDocument();
  new NodeTable(section, operator()).update(after, rates, 0, 10);
  assert.ok(section.textContent.includes("−0.20/s3.0/s in, 3.2/s out"), section.textContent);
  assert.deepEqual([comeAndGo(0, 0), comeAndGo(null, null), comeAndGo(0.5, 0)], ["", "", "0.50/s in, 0/s out"]);
});

test("events of the stream and of all processes are one list", () => {
  const of = (...rows) => merged(...rows).map((row) => row.count);
  assert.deepEqual(of([event(1), event(3)], [event(2), event(3)]), [1, 2, 3]);
  assert.deepEqual(merged([event(1)], [event(1, { process: "worker 1" })]).length, 2);
});

test("changes that matter are said, a few at a time", () => {
  const names = ["a", "b", "c", "d", "e"];
  const before = names.map((name) => node(name));
  assert.deepEqual(changesInWords(before, before), []);
  assert.deepEqual(changesInWords(before, [node("a", { health: "down" }), node("new")]), ["a is down."]);
  const drained = names.map((name) => node(name, { admin_state: "drain", drain: "all" }));
  assert.deepEqual(changesInWords(before, drained), ["a: draining.", "b: draining.", "c: draining.", "2 more changes."]);
});

// --- orders

test("a plan in words", () => {
  const { said, cost } = planInWords(plan({ migrate: 900, stay_down: 1 }));
  assert.equal(cost, null);
  assert.equal(said[0], "1,204 sessions are on it, 310 of them inactive. At 50/s it takes about 24s to move them.");
  assert.equal(said[1], "They go to node2 (800) and node3 (404).");
  assert.match(said[2], /^900 of them are taken over by the proxy.* nothing\.$/);
  assert.match(planInWords(plan({ migrate: 900, paced_rate: 25 })).said[2], / It has managed 25\/s of late\.$/);
  assert.match(planInWords(plan({ migrate: 900, paced_rate: 100 })).said[2], / nothing\.$/);
  assert.match(said[3], /^304 clients are told to move/);
  assert.match(said[4], /^1 client uses software that is known not to come back/);
  const last = planInWords(plan({ targets: [{ node: null, sessions: 1204 }], refuses_logins: "every login for example.org" }));
  assert.match(last.cost, /^node1 is the last one that takes logins: while it is drained, every login for example.org is refused/);
  assert.match(last.said[1], /^1,204 sessions have nowhere to go/);
  assert.deepEqual(planInWords(plan({ sessions: 0, inactive: 0, targets: [] })).said, ["Nobody is on it now, so it is empty at once."]);
});

const asking = (answer) => {
  const body = newDocument();
  const carriedOut = [];
  const app = operator({
    api: { order: async (...given) => (app.planned.push(given), { result: answer, notes: [] }) },
    planned: [],
    carriedOut,
    carryOut: async (...given) => carriedOut.push(given),
  });
  const find = (name, words) => body.all((each) => each.localName === name && each.textContent.includes(words))[0];
  return { app, body, find, submit: () => body.querySelector("form").fire("submit") };
};

test("a drain is confirmed when its plan has been seen", async () => {
  const { app, body, find, submit } = asking(plan());
  ask(app, "drain", "node1");
  assert.ok(find("button", "Drain").disabled, "nobody knows yet what it comes to");
  await submit();
  assert.deepEqual(app.carriedOut, []);
  await until(() => body.textContent.includes("1,204 sessions"));
  assert.deepEqual(app.planned, [["drain", { node: "node1", plan: true }]]);
  const [, deadline] = body.all((each) => each.getAttribute("type") === "number");
  deadline.value = "60";
  await submit();
  assert.deepEqual(app.carriedOut, [["drain", { node: "node1", deadline: "60" }]]);
  assert.equal(body.querySelector("dialog"), null);
});

test("a drain that refuses logins takes a second word", async () => {
  const { app, body, find, submit } = asking(plan({ refuses_logins: "every login" }));
  ask(app, "drain", "node1");
  await until(() => body.textContent.includes("the last one that takes logins"));
  assert.ok(find("button", "Drain").disabled);
  await submit();
  assert.deepEqual(app.carriedOut, []);
  const [force] = body.all((each) => each.getAttribute("type") === "checkbox");
  force.checked = true;
  await force.fire("change");
  await submit();
  assert.deepEqual(app.carriedOut, [["drain", { node: "node1", force: true }]]);
});

test("an order that is refused says why, and can be given again", async () => {
  const { app, body, find, submit } = asking(null);
  app.carryOut = async () => {
    throw new Refused(409, "node 'node1' is not being drained");
  };
  ask(app, "abort", "node1");
  await submit();
  assert.ok(body.textContent.includes("node 'node1' is not being drained"));
  assert.ok(!find("button", "Stop the drain").disabled);
});

test("every other order is asked for, and says what it does", async () => {
  const orders = {
    undrain: ["undrain", { node: "node1" }],
    abort: ["abort", { node: "node1" }],
    "roll-give-up": ["roll", { abort: true }],
    "roll-continue": ["roll", { continue: true }],
    "rebalance-stop": ["rebalance", { stop: true }],
  };
  for (const [order, carriedOut] of Object.entries(orders)) {
    const { app, submit } = asking(null);
    ask(app, order, "node1");
    await submit();
    assert.deepEqual(app.carriedOut, [carriedOut], order);
  }
});

// --- the page as a whole

test("hundreds of events are drawn once, and a lost token is asked for", async () => {
  const html = readFileSync(new URL("index.html", PAGE), "utf-8");
  const body = newDocument([...html.matchAll(/ id="([\w-]+)"/g)].map(([, id]) => id));
  const frames = [];
  globalThis.requestAnimationFrame = (draw) => frames.push(draw);
  const timers = [];
  const { setInterval: interval } = globalThis;
  globalThis.setInterval = (...given) => timers.push(given);
  const summary = { kind: "summary", sessions: 7, connections: 8, logins: 1, logins_failed: 0, moved: 0, rate: 100, workers: 1, nodes: 1, nodes_usable: 1, state: "serving" };
  const hello = (life) => ["hello", { version: "1.2.3", life, name: "alice", role: "operate" }];
  const topics = [["summary", { rows: [summary] }], ...Array.from({ length: 500 }, (_, at) => ["nodes", { rows: [node("node1", { sessions: at })] }])];
  const stream = (events) => new Response(`retry: 1\n\n${events.map(([name, data]) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`).join("")}`);
  const notices = [];
  let streams = 0;
  globalThis.fetch = async (path) => {
    if (path !== "../api/v1/events") return new Response('{"result": [], "notes": []}');
    streams += 1;
    notices.push(document.getElementById("notice-text").textContent);
    if (streams < 3) return stream([hello("a")]);
    if (streams === 3) return stream([hello("b"), ...topics]);
    return new Response('{"detail": "this token is not known here"}', { status: 401, headers: { "Content-Type": "application/problem+json" } });
  };
  sessionStorage.setItem("cxfr-proxy token", "s3cret");
  const { App } = await load("app.js");
  new App().begin();
  const element = (id) => document.getElementById(id);
  await until(() => frames.length > 0);
  await until(() => body.querySelector("dialog") !== null);
  assert.equal(frames.length, 1);
  frames[0]();
  assert.ok(element("nodes").textContent.includes("499"));
  assert.equal(element("sessions").textContent, "7");
  assert.match(element("warnings").textContent, /^Nothing is shown without a token. Not connected: this is how it was at /);
  assert.equal(element("connection").textContent, "token needed");
  assert.ok(body.querySelector("dialog").textContent.includes("this token is not known here"));
  assert.equal(sessionStorage.getItem("cxfr-proxy token"), null);
  assert.deepEqual(notices, ["", "", "", "Another process of the proxy answers now: it was upgraded, or started again."]);
  globalThis.setInterval = interval;
});
