// A client of xmpp.js, as the library comes, by TCP (`plain`) or WebSocket (`websocket`), or by TCP and with cxfr.js
// (`plugin`, whose URL is the second argument).

import { webcrypto } from "node:crypto";
import { client, xml } from "@xmpp/client";

globalThis.crypto ??= webcrypto; // Node 18
const { CLIENT_JID, CLIENT_PASSWORD, CLIENT_HOST, CLIENT_PORT } = process.env;
const [username, domain] = CLIENT_JID.split("@");
const address = `${CLIENT_HOST}:${CLIENT_PORT}`;
const kind = process.argv[2];
const service = kind === "websocket" ? `wss://${address}/xmpp-websocket` : `xmpp://${address}`;
globalThis.WebSocket ??= (await import("ws")).default; // before Node 22
const entity = client({ service, domain, username, password: CLIENT_PASSWORD });
if (kind === "plugin") (await import(process.argv[3])).forXmppJs(entity);
entity.timeout = 10000; // the machine may be busy
entity.on("error", console.error);
entity.on("online", () => entity.send(xml("presence")));
await entity.start();
