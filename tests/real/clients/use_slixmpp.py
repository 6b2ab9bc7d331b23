"""slixmpp clients. The library gives up when its stream ends; the application connects again, as applications do."""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import sys
from typing import Any, Final

import slixmpp

import cxfr_proxy.plugins.slixmpp
from real.clients.driver import Client, Connection, Driver, Login, emit

_RECONNECT_SECONDS: Final = 0.3
"""Long enough for the library's own reconnect after see-other-host to have begun."""


class _Recording(slixmpp.ClientXMPP):  # type: ignore[misc]  # no type hints for the library here
    """Writes down the bytes at the last place where they pass in plain: the transport's edge of the library."""

    def __init__(self, owner: SlixmppClient) -> None:
        login = owner.login
        in_plain = {"unencrypted_plain": True, "unencrypted_scram": True}
        self._parting = 0
        super().__init__(login.jid, login.password, plugin_config={"feature_mechanisms": in_plain})
        self.owner = owner
        self.enable_starttls = login.tls == "starttls"
        self.enable_direct_tls = login.tls == "direct"
        self.enable_plaintext = login.tls == "none"
        if login.ca is None:
            self.ssl_context.check_hostname = False
            self.ssl_context.verify_mode = ssl.CERT_NONE
        else:
            self.ca_certs = login.ca
        if login.stream_management:
            self.register_plugin("xep_0198")
        if login.transfer is not None:
            self._load_transfer(**login.transfer)
        self.add_event_handler("session_start", self._on_start)
        self.add_event_handler("session_resumed", lambda _: owner.came_up(str(self.boundjid), resumed=True))
        self.add_event_handler("disconnected", self._on_disconnected)
        self.add_event_handler("message", self._on_message)
        self.add_event_handler("message_error", self._on_error)

    def _load_transfer(self, delay: float = 0.0, parting: int = 0, **config: object) -> None:
        self.register_plugin(cxfr_proxy.plugins.slixmpp.XEP_0051.name, config)
        self._delay = delay
        self._parting = parting
        self.add_event_handler("cxfr_requested", self._on_request)
        for step in ("requested", "moved", "failed"):
            self.add_event_handler(f"cxfr_{step}", functools.partial(self._on_transfer, step))

    def _on_request(self, departure: cxfr_proxy.plugins.slixmpp.Departure) -> None:
        if self._delay:
            departure.wait_for(asyncio.sleep(self._delay))

    def _on_transfer(self, step: str, departure: cxfr_proxy.plugins.slixmpp.Departure) -> None:
        server = departure.move.server
        emit(
            "transfer",
            self.owner.login.user,
            step=step,
            server=None if server is None else str(server),
            unacknowledged=len(departure.unacknowledged),
        )

    def connection_made(self, transport: Any, send_event: bool = True) -> None:
        if send_event:  # after STARTTLS the library calls this for itself, without the event
            self.owner.connections.append(Connection())
        super().connection_made(transport, send_event)

    def connection_lost(self, exception: BaseException | None) -> None:
        self.owner.connection.ended()
        super().connection_lost(exception)

    def data_received(self, data: bytes) -> None:
        self.owner.connection.read(data)
        super().data_received(data)

    def send_raw(self, data: str | bytes) -> None:
        super().send_raw(data)
        if data == self.stream_footer:
            self._part()
        self.owner.connection.wrote(data.encode() if isinstance(data, str) else data)

    def _part(self) -> None:
        """The application does not know that the stream is closed, and goes on sending."""
        for number in range(self._parting):
            self.owner.send_message(str(self.boundjid.bare), f"parting-{number}", f"parting {number}")

    def _on_start(self, _: object) -> None:
        self.send_presence()
        self.owner.came_up(str(self.boundjid), resumed=False)

    def _on_message(self, message: Any) -> None:
        emit(
            "message",
            self.owner.login.user,
            **{"from": str(message["from"]), "id": message["id"], "body": message["body"]},
        )

    def _on_error(self, message: Any) -> None:
        emit(
            "error",
            self.owner.login.user,
            **{"from": str(message["from"]), "id": message["id"], "condition": message["error"]["condition"]},
        )

    async def _on_disconnected(self, reason: object) -> None:
        self.owner.went_down(reason)
        await asyncio.sleep(_RECONNECT_SECONDS)
        if not (self.owner.is_closing or self.is_connected() or self.is_connecting()):
            self.connect(self.owner.login.host, self.owner.login.port)


class SlixmppClient(Client):
    """One slixmpp client."""

    def __init__(self, login: Login) -> None:
        super().__init__(login)
        self.is_closing = False
        self._xmpp = _Recording(self)

    def start(self) -> None:
        self._xmpp.connect(self.login.host, self.login.port)

    def send_message(self, to: str, message_id: str, body: str) -> None:
        message = self._xmpp.make_message(mto=to, mbody=body, mtype="chat")
        message["id"] = message_id
        message.send()

    async def close(self) -> None:
        self.is_closing = True
        await self._xmpp.disconnect(wait=1.0)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(Driver(SlixmppClient).run())
