// A client of stanza.js that connects again, as the library does if it is told to.

import { createClient } from "stanza";

const { CLIENT_JID, CLIENT_PASSWORD, CLIENT_HOST, CLIENT_PORT } = process.env;
const client = createClient({
  jid: CLIENT_JID,
  password: CLIENT_PASSWORD,
  transports: { websocket: `wss://${CLIENT_HOST}:${CLIENT_PORT}/xmpp-websocket`, bosh: false },
  autoReconnect: true,
});
client.on("session:started", () => client.sendPresence());
client.on("stream:error", console.error);
client.connect();
