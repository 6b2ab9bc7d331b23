// One client of one library with cxfr.js. Its only argument is JSON: module (URL of cxfr.js), library, service, domain,
// username, password, resource, options (for the adapter), delay (milliseconds before the application can leave),
// parting (how many messages it sends as soon as its stream is being closed); for xmpp.js also plugin (false: without
// cxfr.js) and drops (how often it drops its connection as soon as it is online).
// One JSON object a line on stdout: {event, ...}.

import { webcrypto } from "node:crypto";

globalThis.crypto ??= webcrypto; // Node 18

const config = JSON.parse(process.argv[2]);
const { forStanza, forStrophe, forXmppJs } = await import(config.module);
const jid = `${config.username}@${config.domain}/${config.resource}`;

const say = (event, facts = {}) => process.stdout.write(`${JSON.stringify({ event, ...facts })}\n`);

const options = {
  ...config.options,
  onRequest: (move) => {
    say("requested", { move });
    return new Promise((resolve) => setTimeout(resolve, config.delay));
  },
  onMoved: (move) => say("moved", { move }),
  onFailed: (move, error) => say("failed", { move, reason: String(error) }),
};

const parting = (send) => {
  for (let number = 0; number < (config.parting ?? 0); number += 1) send(`parting-${number}`);
  config.parting = 0;
};

const libraries = {
  async xmppjs() {
    const { client, xml } = await import("@xmpp/client");
    globalThis.WebSocket ??= (await import("ws")).default; // before Node 22
    const { service, domain, resource, username, password } = config;
    const entity = client({ service, domain, resource, username, password });
    if (config.plugin !== false) forXmppJs(entity, options);
    entity.streamManagement.on("resumed", () => say("resumed"));
    const message = (id) => xml("message", { id, to: config.domain }, xml("body", {}, "as ever"));
    entity.on("closing", () => parting((id) => entity.send(message(id)).catch(() => say("unsent"))));
    entity.on("error", (error) => say("error", { reason: String(error) }));
    entity.on("online", (address) => {
      say("online", { jid: String(address) });
      entity.send(xml("presence")).then(() => config.drops-- > 0 && entity.disconnect());
    });
    await entity.start();
  },

  async strophe() {
    const { Strophe, $msg, $pres } = await import("strophe.js");
    const connection = new Strophe.Connection(config.service);
    forStrophe(connection, options);
    const { disconnect } = connection;
    connection.disconnect = (reason) => {
      disconnect.call(connection, reason);
      parting((id) => connection.send($msg({ id, to: config.domain }).c("body").t("as ever")));
    };
    connection.connect(jid, config.password, (status) => {
      say("status", { status });
      if (status !== Strophe.Status.CONNECTED) return;
      say("online", { jid: connection.jid });
      connection.send($pres());
    });
  },

  async stanza() {
    const { createClient } = await import("stanza");
    const transports = { websocket: config.service, bosh: false };
    const client = createClient({ jid, resource: config.resource, password: config.password, transports });
    forStanza(client, options);
    client.on("session:end", () => parting((id) => client.sendMessage({ id, to: config.domain, body: "as ever" })));
    client.on("session:started", () => {
      say("online", { jid: client.jid });
      client.sendPresence();
    });
    client.connect();
  },
};

await libraries[config.library]();
