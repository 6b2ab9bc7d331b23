// Orders: each is confirmed in a dialog that says what will happen.

import { attribute, el, text } from "./dom.js";
import { clean, counted, duration, number, rate } from "./format.js";

const PLAN_PAUSE_MS = 300; // between a change of the terms and a look at what they come to

const list = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

/** What a drain would come to: sentences, and what it would cost (null: nothing). */
export const planInWords = (plan) => {
  const said = [];
  if (plan.sessions === 0) said.push("Nobody is on it now, so it is empty at once.");
  else {
    const inactive = plan.inactive ? `, ${number(plan.inactive)} of them inactive` : "";
    said.push(`${counted(plan.sessions, "session is", "sessions are")} on it${inactive}. At ${rate(plan.rate)} it takes about ${duration(plan.seconds)} to move them.`);
  }
  const targets = plan.targets.filter((each) => each.node !== null && each.sessions > 0);
  if (targets.length) said.push(`They go to ${list(targets.slice(0, 6).map((each) => `${clean(each.node)} (${number(each.sessions)})`))}${targets.length > 6 ? ` and ${counted(targets.length - 6, "other node")}` : ""}.`);
  const stuck = plan.targets.find((each) => each.node === null)?.sessions ?? 0;
  if (stuck) said.push(`${counted(stuck, "session has", "sessions have")} nowhere to go, and stay until another node can take them.`);
  const told = plan.sessions - plan.migrate;
  if (plan.migrate) said.push(`${counted(plan.migrate, "of them is", "of them are")} taken over by the proxy (migrate), and the clients notice nothing.${plan.paced_rate !== null && plan.paced_rate < plan.rate ? ` It has managed ${rate(plan.paced_rate)} of late.` : ""}`);
  if (told > 0) said.push(`${number(told)} ${told === 1 ? "client is" : "clients are"} told to move, each by the rung that suits its software: asked to transfer (cxfr), cut to resume, sent to another address, told to reconnect.`);
  if (plan.stay_down) said.push(`${counted(plan.stay_down, "client uses", "clients use")} software that is known not to come back, however it is told to move.`);
  const cost =
    plan.refuses_logins === null
      ? null
      : `${clean(plan.node)} is the last one that takes logins: while it is drained, ${clean(plan.refuses_logins)} is refused, for no other node is ready and up.`;
  return { said, cost };
};

/** A modal dialog that is made for one question, and thrown away. */
export class Question {
  #dialog;
  #form;
  #body = el("div", { class: "body" });
  #fault = el("p", { class: "fault", role: "alert" });
  #confirm;
  #onConfirm;

  /** `onConfirm()` carries it out; a Refused that it throws is shown. `danger`: it can hurt somebody. */
  constructor(title, confirm, onConfirm, { danger = false, cancel = "Cancel" } = {}) {
    this.#onConfirm = onConfirm;
    this.#confirm = el("button", { type: "submit", class: danger ? "danger primary" : "primary" }, confirm);
    this.#form = el(
      "form",
      { method: "dialog", onsubmit: (event) => this.#submit(event) },
      el("h2", { id: "question" }, title),
      this.#body,
      this.#fault,
      el("div", { class: "orders" }, el("button", { type: "button", onclick: () => this.close() }, cancel), this.#confirm),
    );
    this.#dialog = el("dialog", { "aria-labelledby": "question", onclose: () => this.#dialog.remove() }, this.#form);
  }

  add(...parts) {
    this.#body.append(...parts);
    return this;
  }

  open() {
    document.body.append(this.#dialog);
    this.#dialog.showModal();
    return this;
  }

  close() {
    this.#dialog.close();
  }

  get isOpen() {
    return this.#dialog.open;
  }

  fail(words) {
    text(this.#fault, words);
  }

  allow(isAllowed) {
    attribute(this.#confirm, "disabled", !isAllowed);
  }

  async #submit(event) {
    event.preventDefault();
    if (this.#confirm.disabled) return;
    this.allow(false);
    this.fail("");
    try {
      await this.#onConfirm();
      this.close();
    } catch (error) {
      this.fail(clean(error.message));
      this.allow(true);
    }
  }
}

const paragraphs = (sentences) => sentences.map((each) => el("p", {}, each));

const field = (label, unit, hint, input) =>
  el("label", { class: "field" }, el("span", {}, label), el("span", { class: "unit" }, input, unit), el("span", { class: "under" }, hint));

const numberInput = (min) => el("input", { type: "number", inputmode: "decimal", min, step: "any", autocomplete: "off" });

/** Ask whether a node is to be drained, with what that comes to. */
class DrainQuestion {
  #app;
  #node;
  #plan = el("div", { class: "plan", "aria-live": "polite" }, el("p", { class: "under" }, "Looking at what it comes to…"));
  #cost = el("p", { class: "cost" });
  #force = el("input", { type: "checkbox", onchange: () => this.#judge() });
  #forced = el("label", { class: "choice", hidden: true }, this.#force, el("span", {}, "Drain it all the same"));
  #terms = { grace: numberInput(0), deadline: numberInput(0), rate: numberInput(0) };
  #refuses = false;
  #asked = 0;
  #timer = null;
  #question;

  constructor(app, node) {
    this.#app = app;
    this.#node = node;
    const { grace, deadline, rate: pace } = this.#terms;
    const terms = el(
      "details",
      {},
      el("summary", {}, "Terms"),
      field("Grace", "s", "nobody is moved before that, for a load balancer to notice", grace),
      field("Deadline", "s", "then clients that are left are closed without being asked", deadline),
      field("Rate", "/s", "instead of transfer-rate", pace),
    );
    terms.addEventListener("input", () => this.#soon());
    this.#question = new Question(`Drain ${clean(node)}?`, "Drain", () => this.#carryOut(), { danger: true });
    this.#question.add(el("p", {}, "From now on nobody new is placed there, and all clients are moved away."), this.#plan, this.#cost, this.#forced, terms);
    this.#question.allow(false);
    this.#question.open();
    this.#look();
  }

  #given() {
    const terms = Object.entries(this.#terms).filter(([, input]) => input.value.trim() !== "");
    return { node: this.#node, ...Object.fromEntries(terms.map(([name, input]) => [name, input.value.trim()])) };
  }

  #soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), PLAN_PAUSE_MS);
  }

  async #look() {
    const asked = (this.#asked += 1);
    try {
      const { result, notes } = await this.#app.api.order("drain", { ...this.#given(), plan: true });
      if (asked !== this.#asked || !this.#question.isOpen) return;
      const { said, cost } = planInWords(result);
      this.#plan.replaceChildren(...paragraphs([...said, ...notes.map(clean)]));
      this.#refuses = cost !== null;
      text(this.#cost, cost ?? "");
      this.#question.fail("");
      attribute(this.#forced, "hidden", !this.#refuses);
      this.#judge();
    } catch (error) {
      if (asked !== this.#asked || !this.#question.isOpen) return;
      this.#question.fail(clean(error.message));
      this.#question.allow(false);
    }
  }

  #judge() {
    this.#question.allow(!this.#refuses || this.#force.checked);
  }

  async #carryOut() {
    const body = this.#refuses ? { ...this.#given(), force: true } : this.#given();
    await this.#app.carryOut("drain", body);
  }
}

const sessionsOf = (app, node) => app.rows("nodes").find((row) => row.name === node)?.sessions ?? 0;

const abort = (app, node) =>
  new Question(`Stop the drain of ${clean(node)}?`, "Stop the drain", () => app.carryOut("abort", { node }), { danger: true })
    .add(
      ...paragraphs([
        `About ${counted(sessionsOf(app, node), "session stays", "sessions stay")} there, and nobody new is placed there.`,
        "Clients that were asked already may still leave. Drain goes on with it; Undrain makes the node ready again.",
      ]),
    )
    .open();

const undrain = (app, node) => {
  const stay = el("input", { type: "checkbox" });
  const body = () => (stay.checked ? { node, "no-rebalance": true } : { node });
  const draining = app.rows("drains").some((row) => row.node === node && !row.finished);
  new Question(`Make ${clean(node)} ready again?`, "Undrain", () => app.carryOut("undrain", body()))
    .add(
      ...paragraphs([
        draining ? `Its drain ends: ${counted(sessionsOf(app, node), "session stays", "sessions stay")}, and clients are placed there again.` : "Clients are placed there again.",
        "Users who belong there are moved back soon, unless rebalancing is manual.",
      ]),
      el("label", { class: "choice" }, stay, el("span", {}, "Leave users where they are until the next rebalance")),
    )
    .open();
};

const rollAt = (app) => app.rows("roll").find((row) => row.step !== "done" && row.step !== "waits")?.node ?? "the next node";

const QUESTIONS = {
  drain: (app, node) => new DrainQuestion(app, node),
  abort,
  undrain,
  "roll-give-up": (app) =>
    new Question("Give the rolling restart up?", "Give it up", () => app.carryOut("roll", { abort: true }), { danger: true })
      .add(...paragraphs([`${clean(rollAt(app))} stays as it is now, and no further node is drained or restarted.`]))
      .open(),
  "roll-continue": (app) =>
    new Question("Go on with the rolling restart?", "Go on", () => app.carryOut("roll", { continue: true }))
      .add(...paragraphs([`It goes on at ${clean(rollAt(app))}. Each node waits until somebody has restarted it, unless a command line does that.`]))
      .open(),
  "rebalance-stop": (app) =>
    new Question("Stop the rebalance?", "Stop it", () => app.carryOut("rebalance", { stop: true }))
      .add(...paragraphs(["No further client is asked. Clients that were asked already may still leave."]))
      .open(),
};

/** Ask whether that order is to be carried out. */
export const ask = (app, order, node) => QUESTIONS[order](app, node);

/** Ask for the token; `why`: what was wrong with the last one. */
export const askForToken = (why, take) => {
  const input = el("input", { type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "about-token" });
  const question = new Question("Token needed", "Connect", async () => take(input.value.trim()), { cancel: "Not now" }).add(
    el("p", { id: "about-token" }, "The proxy's file of tokens (--http-tokens) has one for you. It is kept in this tab only, until you close it."),
    el("label", { class: "field" }, el("span", {}, "Token"), input),
  );
  if (why) question.fail(why);
  question.open();
  input.focus();
};
