// A client of xmpp.js, as the library comes (`plain`) or with cxfr.js (`plugin`, whose URL is the second argument).

import { webcrypto } from "node:crypto";
import { client, xml } from "@xmpp/client";

globalThis.crypto ??= webcrypto; // Node 18
const { CLIENT_JID, CLIENT_PASSWORD, CLIENT_HOST, CLIENT_PORT } = process.env;
const [username, domain] = CLIENT_JID.split("@");
const service = `xmpp://${CLIENT_HOST}:${CLIENT_PORT}`;
const entity = client({ service, domain, username, password: CLIENT_PASSWORD });
if (process.argv[2] === "plugin") (await import(process.argv[3])).forXmppJs(entity);
entity.timeout = 10000; // the machine may be busy
entity.on("error", console.error);
entity.on("online", () => entity.send(xml("presence")));
await entity.start();
