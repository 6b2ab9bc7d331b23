"""aioxmpp clients. The library reconnects by itself."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import sys
from typing import Any

import aioxmpp
import aioxmpp.connector
import aioxmpp.dispatcher
import aioxmpp.node
import aioxmpp.nonza
import aioxmpp.protocol
import aioxmpp.security_layer

from real.clients.driver import Client, Connection, Driver, Login, emit

_owner: contextvars.ContextVar[AioxmppClient] = contextvars.ContextVar("owner")
"""The client whose task this is. The library makes its streams itself and tells nobody for whom."""


class _RecordingTransport:
    """A transport that writes down what goes out; everything else is the real one's."""

    def __init__(self, transport: Any, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._connection.wrote(bytes(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _RecordingStream(aioxmpp.protocol.XMLStream):  # type: ignore[misc]  # no type hints for the library here
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._recording = Connection()
        _owner.get().connections.append(self._recording)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_RecordingTransport(transport, self._recording))

    def data_received(self, blob: bytes) -> None:
        self._recording.read(bytes(blob))
        super().data_received(blob)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._recording.ended()
        super().connection_lost(exc)


class _Recording(aioxmpp.PresenceManagedClient):  # type: ignore[misc]
    """Without stream management the server's offer is not shown to the library, which would take it up."""

    use_stream_management = False

    async def _negotiate_stream(self, xmlstream: Any, features: Any) -> Any:
        if not self.use_stream_management and features.has_feature(aioxmpp.nonza.StreamManagementFeature):
            del features[aioxmpp.nonza.StreamManagementFeature]
        return await super()._negotiate_stream(xmlstream, features)


class AioxmppClient(Client):
    """One aioxmpp client. Certificates are never verified: the library's verifier needs an older pyOpenSSL."""

    def __init__(self, login: Login) -> None:
        super().__init__(login)
        security = aioxmpp.security_layer.make(login.password, no_verify=True)
        connector: Any = aioxmpp.connector.STARTTLSConnector()
        if login.tls == "direct":
            connector = aioxmpp.connector.XMPPOverTLSConnector()
        elif login.tls == "none":
            security = security._replace(tls_required=False)
        self._was_resumed = False
        # The task that makes this client's streams inherits the context in which it is started.
        self._context = contextvars.copy_context()
        self._context.run(_owner.set, self)
        self._client = _Recording(
            aioxmpp.JID.fromstr(login.jid),
            security,
            override_peer=[(login.host, login.port, connector)],
            max_initial_attempts=None,
            logger=logging.getLogger(login.user),
        )
        self._client.use_stream_management = login.stream_management
        self._client.on_stream_established.connect(self._on_established)
        self._client.on_stream_resumed.connect(self._on_resumed)
        self._client.on_stream_suspended.connect(self.went_down)
        self._client.on_stream_destroyed.connect(self._on_destroyed)
        self._client.on_failure.connect(functools.partial(emit, "failed", login.user, reason="gave up"))
        dispatcher = self._client.summon(aioxmpp.dispatcher.SimpleMessageDispatcher)
        dispatcher.register_callback(aioxmpp.MessageType.CHAT, None, self._on_message)
        dispatcher.register_callback(aioxmpp.MessageType.ERROR, None, self._on_error)

    def start(self) -> None:
        self._context.run(setattr, self._client, "presence", aioxmpp.PresenceState(True))

    def send_message(self, to: str, message_id: str, body: str) -> None:
        message = aioxmpp.Message(type_=aioxmpp.MessageType.CHAT, to=aioxmpp.JID.fromstr(to), id_=message_id)
        message.body[None] = body
        self._client.enqueue(message)

    async def close(self) -> None:
        stopped = asyncio.ensure_future(self._client.on_stopped.future())
        self._client.stop()
        await asyncio.wait([stopped], timeout=1.0)

    def _on_established(self) -> None:
        self.came_up(str(self._client.local_jid), resumed=False)

    def _on_resumed(self) -> None:
        # Emitted for every new connection after a loss; with the stream established anew it says nothing new.
        if not self.is_connected:
            self.came_up(str(self._client.local_jid), resumed=True)

    def _on_destroyed(self, reason: object = None) -> None:
        self.went_down(reason)

    def _on_message(self, message: Any) -> None:
        body = message.body.any() if message.body else None
        emit("message", self.login.user, **{"from": str(message.from_), "id": message.id_, "body": body})

    def _on_error(self, message: Any) -> None:
        condition = message.error.condition.value[1] if message.error is not None else None
        emit("error", self.login.user, **{"from": str(message.from_), "id": message.id_, "condition": condition})


async def _no_other_address(*args: object, **kwargs: object) -> list[object]:
    """Stands in for the library's DNS look-ups, to which it turns when the address it was given refuses."""
    return []


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    aioxmpp.protocol.XMLStream = _RecordingStream
    aioxmpp.node.discover_connectors = _no_other_address
    asyncio.run(Driver(AioxmppClient).run())
