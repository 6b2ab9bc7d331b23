// A client of strophe.js, which leaves it to its application to connect again.

import { Strophe, $pres } from "strophe.js";

const { CLIENT_JID, CLIENT_PASSWORD, CLIENT_HOST, CLIENT_PORT } = process.env;

const connect = () => {
  const connection = new Strophe.Connection(`wss://${CLIENT_HOST}:${CLIENT_PORT}/xmpp-websocket`);
  connection.connect(CLIENT_JID, CLIENT_PASSWORD, (status, reason) => {
    if (reason) console.error(status, reason);
    if (status === Strophe.Status.CONNECTED) connection.send($pres());
    if (status === Strophe.Status.DISCONNECTED) setTimeout(connect, 500);
  });
};
connect();
