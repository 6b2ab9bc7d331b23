"""A demo client's way in: connect, TLS and SASL, up to the stream on which it will bind or resume."""

from __future__ import annotations

import base64
from typing import Final, TypeVar

import trio

from cxfr_proxy.demo.browser import BrowserStream
from cxfr_proxy.demo.directions import Directions
from cxfr_proxy.demo.habits import ClientLogin, Ending, Security, SeenRung, Target
from cxfr_proxy.demo.wire import ERROR_TAG, FEATURES_TAG, Connection, StreamEvent, StreamOpened
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.stanza import Element, qualified

_S = TypeVar("_S", bound=trio.abc.Stream)

ANSWER_SECONDS: Final = 20.0
"""For each answer: generous, because a proxy may hold back a herd. On a busy machine a login has many slow ones."""


class StreamLost(Exception):
    """The stream ended, or would not open, while logging in."""

    def __init__(self, ending: Ending, why: str) -> None:
        super().__init__(why)
        self.ending = ending


class LoginRefused(Exception):
    """The password is wrong: trying again would not help."""


class WayIn:
    """The way in for one ``user``, which is the local part of a JID. ``directions`` read stream errors.

    Where an answer does not come in time, methods raise :class:`trio.TooSlowError`.
    """

    def __init__(self, user: str, login: ClientLogin, directions: Directions) -> None:
        self._user = user
        self._login = login
        self._directions = directions
        self._domain = directions.domain

    async def connect(self, target: Target, nursery: trio.Nursery) -> trio.abc.Stream:
        """Connect, with TLS where it comes first; ``nursery`` is where a WebSocket's tasks run."""
        with trio.fail_after(ANSWER_SECONDS):
            raw = await trio.open_tcp_stream(*target.address)
        stream = await self._secure(raw) if target.security is Security.DIRECT_TLS else raw
        if not self._directions.habits.websocket:
            return stream
        with trio.fail_after(ANSWER_SECONDS):
            return await BrowserStream.open(nursery, stream, self._domain)

    async def _secure(self, raw: _S) -> trio.SSLStream[_S]:
        assert self._login.tls is not None
        stream = trio.SSLStream(raw, self._login.tls, server_hostname=self._domain)
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(raw)
            raise
        return stream

    async def log_in(self, connection: Connection, security: Security) -> Element:
        """Log in by SASL PLAIN. Return the features behind it. Raises as :meth:`expect` does."""
        await self._open(connection)
        if security is Security.STARTTLS:
            connection.write(f"<starttls xmlns='{names.TLS}'/>".encode())
            await self.expect(connection, qualified(names.TLS, "proceed"))
            await connection.flush()
            connection.upgrade(await self._secure(connection.transport))
            await self._open(connection)
        plain = base64.b64encode(f"\0{self._user}\0{self._login.password}".encode()).decode()
        connection.write(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{plain}</auth>".encode())
        await self.expect(connection, qualified(names.SASL, "success"))
        connection.restart()
        return await self._open(connection)

    async def _open(self, connection: Connection) -> Element:
        connection.write(stanza.stream_header(to=self._domain, from_=self._login.header_from, stream_id=None))
        incoming = await self.read(connection)
        if not isinstance(incoming, StreamOpened):
            raise self.lost(incoming)
        return await self.expect(connection, FEATURES_TAG)

    async def expect(self, connection: Connection, *tags: str) -> Element:
        """Return the next element, which has to be one of these. Raises :class:`StreamLost`, :class:`LoginRefused`."""
        incoming = await self.read(connection)
        if isinstance(incoming, Element) and incoming.tag in tags:
            return incoming
        if isinstance(incoming, Element) and incoming.tag == qualified(names.SASL, "failure"):
            raise LoginRefused
        raise self.lost(incoming)

    async def read(self, connection: Connection) -> StreamEvent:
        """Return the next event."""
        with trio.fail_after(ANSWER_SECONDS):
            return await connection.read()

    def lost(self, incoming: object) -> StreamLost:
        """Return the exception for what came in place of what was due."""
        if isinstance(incoming, Element) and incoming.tag == ERROR_TAG:
            return StreamLost(self._directions.stream_error(incoming), stanza.stream_condition(incoming))
        shown = incoming.tag if isinstance(incoming, Element) else incoming
        return StreamLost(Ending(SeenRung.CUT), f"unexpected {shown}")
