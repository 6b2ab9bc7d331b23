"""An nbxmpp client (what Gajim is made of) that connects again a second after it was disconnected, as Gajim does."""

from __future__ import annotations

import os
from typing import Any

from gi.repository import GLib
from nbxmpp.client import Client
from nbxmpp.const import ConnectionProtocol, ConnectionType
from nbxmpp.protocol import Presence

user, _, domain = os.environ["CLIENT_JID"].partition("@")
client = Client(log_context="matrix")
client.set_domain(domain)
client.set_username(user)
client.set_password(os.environ["CLIENT_PASSWORD"])
client.set_resource("gajim.MATRIX01")
client.set_ignore_tls_errors(True)
client.set_custom_host(
    f"{os.environ['CLIENT_HOST']}:{os.environ['CLIENT_PORT']}", ConnectionProtocol.TCP, ConnectionType.START_TLS
)


def on_connected(*_: Any) -> None:
    client.send_stanza(Presence())


def on_disconnected(*_: Any) -> None:
    GLib.timeout_add_seconds(1, client.connect)


client.subscribe("connected", on_connected)
client.subscribe("disconnected", on_disconnected)
client.subscribe("connection-failed", on_disconnected)
client.connect()
GLib.MainLoop().run()
