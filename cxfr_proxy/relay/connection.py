"""One client connection until it has a session: sniff, TLS, perhaps a WebSocket, opening, a node.

It carries out and decides nothing about streams; that is :mod:`cxfr_proxy.xmpp.opening` before there is a node, and the
session afterwards. A session gives its connection back to this module where the client asks for the STARTTLS that was
on offer, and where another user logs in than the node was chosen for.
"""

from __future__ import annotations

import contextlib
import logging
import math
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final

import trio
from msgspec import Struct

from cxfr_proxy.errors import ClientError, NodeError, RemoteError
from cxfr_proxy.events import emit
from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.client_hello import is_handshake
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.forwarded import ForwardedClient
from cxfr_proxy.net.incoming_header import has_arrived, may_begin
from cxfr_proxy.net.tls_failures import TlsFailure, failure_of
from cxfr_proxy.net.transport import RECORD_BYTES, TransportFault
from cxfr_proxy.relay.connection_rules import ConnectionRules, new_token
from cxfr_proxy.relay.live_session import ReturnedConnection
from cxfr_proxy.relay.openings import GivenUp, PumpWaits
from cxfr_proxy.session.commands import EarlyLogin, Reroute
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.upstream.router import ReachedNode, Router, hinted_user
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.client_opening import PROCEED, BeginTls, ClientOpening, Closed, Opened, Reply, last_words
from cxfr_proxy.xmpp.opening.header import SHOWN, StreamHeader
from cxfr_proxy.xmpp.opening.login import UNKNOWN, Login
from cxfr_proxy.xmpp.web.request import HttpRequest, RequestRefused
from cxfr_proxy.xmpp.web.web_opening import PageServed

_LINGER_SECONDS: Final = 2.0
"""Seconds for a refused client to close its connection, so that a reset does not destroy what was sent to it."""
_LINGER_BYTES: Final = 262_144
"""Most bytes that are read and dropped meanwhile: several elements of the length that is usual before bind."""
MAX_CHANGES: Final = 3
"""Most changes of the node on one connection, when several users fail to log in. Nodes count failed logins by
connection, and each new connection starts that count again, so the number of guesses is bounded here."""

_STRANGER: Final = "a PROXY header from an address that is none of trusted-proxies"
"""Only in the log: whoever has sent it expects no stream. One that comes in pieces is refused as well, as no XML."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """The parts of a server that its connections share."""

    rules: ConnectionRules
    router: Router
    registry: Registry


class BegunStream(Struct, frozen=True):
    """A stream that needs a node. ``early_login`` is ``None`` if the node stays the same whatever the client says next;
    ``early`` is then true if that is only because no node's features were known yet. ``silent`` names the nodes that
    have not greeted it."""

    header: StreamHeader
    early_login: EarlyLogin | None
    early: bool = False
    silent: tuple[str, ...] = ()

    @property
    def login(self) -> Login:
        return self.early_login.login if self.early_login is not None else UNKNOWN

    @property
    def user(self) -> str | None:
        """The user that the client says it is, a bare JID; ``None``: it does not say."""
        return self.login.user or hinted_user(self.header)


class RoutedStream(Struct, frozen=True):
    """A stream that has its node. ``lane`` holds what the client has sent and nobody has read yet."""

    stream: BegunStream
    lane: Lane
    reached: ReachedNode


class ClientConnection:
    """An accepted connection, or one that a session has given back. The caller closes ``endpoint``, and ``waits``
    carry this on."""

    def __init__(self, context: ConnectionContext, endpoint: Endpoint, arrival: Arrival, waits: PumpWaits) -> None:
        self._context = context
        self._rules = context.rules
        self._endpoint = endpoint
        self.arrival = arrival
        self.counted_as = arrival.address
        """The address for which the registry counts the connection; a trusted proxy may name another client."""
        self._lane: Lane
        self._opening: ClientOpening
        self._last_words: Callable[[RemoteError], bytes] | None = None  # None: no stream yet that could be answered
        self._begun: BegunStream | None = None
        self._waits = waits

    async def accept(self) -> RoutedStream | None:
        """Have the client open its stream, and find its node; ``None`` if it gets none and has been told why.

        Raises ``OSError`` if the client has left.
        """
        return await self._run(self._sniff)

    async def go_on(self, returned: ReturnedConnection) -> RoutedStream | None:
        """Go on like :meth:`accept` with a connection that a session has given back."""
        match returned.command:
            case Reroute() as reroute:
                return await self._run(partial(self._reroute, reroute, returned.unsent))
            case _:
                return await self._run(partial(self._proceed, returned.domain, returned.unsent))

    async def _run(self, begin: Callable[[], Awaitable[BegunStream | None]]) -> RoutedStream | None:
        try:
            return await self._open_and_reach(begin)
        except RemoteError as error:
            self._context.registry.counts.totals.count_refused(error.condition)
            # An unreachable node is no fault of the client's, and the operator has to know of it.
            level = logging.WARNING if isinstance(error, NodeError) else logging.INFO
            emit(
                _log,
                "client-refused",
                level=level,
                client=self.arrival.address,
                port=self.arrival.port,
                condition=error.condition,
                reason=error.text,
                user=self._begun.user if self._begun is not None else None,
                via=self.arrival.via,
                unique_id=self.arrival.unique_id,
            )
            if self._last_words is not None:
                await self._part(self._last_words(error))
        return None

    async def _open_and_reach(self, begin: Callable[[], Awaitable[BegunStream | None]]) -> RoutedStream | None:
        """Await ``begin``, and find a node for the stream that it returns.

        ``None`` if the client went away, or took too long without a stream. Raises :class:`ClientError` and, from
        :meth:`Router.reach`, :class:`NodeError`.
        """
        waits = self._waits
        try:
            waits.begin(waits.now + self._rules.handshake_timeout)
            begun = self._begun = await begin()
            if begun is None:
                return None
            waits.deadline = math.inf  # the router has time limits of its own
            reached = await self._context.router.reach(
                begun.header, begun.login, self._endpoint, self.arrival, begun.silent
            )
            return RoutedStream(begun, self._lane, reached)
        except (trio.TooSlowError, GivenUp):
            # A client without a stream gets no stream error, since there is nothing yet that it could belong to.
            if self._last_words is None:
                if self._endpoint.transport.is_encrypted:
                    self._tls_failed(TlsFailure.TIMEOUT, "took too long")
                return None
            if waits.stopping:
                raise _stopping() from None
            raise ClientError(StreamCondition.CONNECTION_TIMEOUT, "the stream took too long to open") from None
        finally:
            waits.settle()

    async def _sniff(self) -> BegunStream | None:
        """Find out by the first byte whether the client begins with TLS; ``None`` if it sends nothing."""
        # At once: where many connect, the first bytes come while the connection waits to be accepted.
        seen = await self._endpoint.peek(RECORD_BYTES, at_once=True)
        first = seen[:1]
        if first and is_handshake(seen):
            return await self._start_tls(hello=seen)
        if may_begin(first) and await has_arrived(self._endpoint):
            raise ClientError(StreamCondition.POLICY_VIOLATION, _STRANGER)
        self._expect_stream()
        # The limit so far was for a first byte and TLS.
        self._waits.deadline = self._waits.now + self._rules.negotiation_timeout
        return await self._read_any() if first else None

    def _expect_stream(self) -> None:
        self._lane = self._rules.new_lane()
        self._opening = self._rules.new_opening(self._lane, self._endpoint.transport, self.arrival)
        self._last_words = self._opening.refuse

    async def _read_any(self) -> BegunStream | None:
        """Read a stream, or HTTP, which may become one. Something has arrived as a rule."""
        data = await self._receive(at_once=True)
        if data and self._rules.is_http(data):
            return await self._read_request(data)
        return await self._read(data)

    async def _read_request(self, data: bytes) -> BegunStream | None:
        """Read one request: for a WebSocket, or for a page."""
        opening, now = self._rules.new_web_opening(), self._waits.now
        self._last_words = opening.refuse
        self._waits.deadline = min(self._waits.deadline, now + self._rules.handshake_timeout)
        while (step := opening.receive(data)) is None:
            data = await self._endpoint.receive_some()
            if not data:
                return None
        if isinstance(step, PageServed):
            await self._part(step.reply)
            return None
        client = self._find_client(step.request)
        self._rules.check_encryption(self.arrival, self._endpoint.transport, client)
        await self._endpoint.send_all(step.reply)
        before = self._endpoint.transport
        self._endpoint.transport = self._rules.upgrade(before, step.early)
        self._waits.goes_on(before, self._endpoint.transport)
        self._expect_stream()
        self._waits.deadline = self._waits.now + self._rules.negotiation_timeout
        return await self._read(await self._receive())

    def _find_client(self, request: HttpRequest) -> ForwardedClient:
        """Return whose request it is, and count the connection for that client from now on."""
        found = self._rules.client_of(request, self.arrival)
        if found.via is None:
            return found
        self.arrival = self.arrival.forwarded(found.peer, found.via, on_tls=found.on_tls)
        if found.fault is not None:
            emit(_log, "forwarded-malformed", level=logging.WARNING, via=found.via, reason=found.fault)
        registry, former = self._context.registry, self.counted_as
        if self.arrival.address == former:
            return found
        if not registry.connected(self.arrival.address, self._rules.most_connections(self.arrival)):
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections from this address.")
        self.counted_as = self.arrival.address
        registry.disconnected(former)
        return found

    async def _receive(self, *, at_once: bool = False) -> bytes:
        try:
            return await self._endpoint.receive_some(at_once=at_once)
        except TransportFault as fault:
            raise ClientError(fault.condition, fault.text) from fault

    async def _read(self, data: bytes) -> BegunStream | None:
        """Read the client's stream, which ``data`` begins, until it needs a node, and begin TLS on the way if it asks
        for that."""
        while data:
            for step in self._opening.receive(data):
                match step:
                    case Reply(reply):
                        await self._endpoint.send_all(reply)
                    case Opened(header, None):
                        # No login to wait for: the node is chosen now, and stays.
                        return BegunStream(header, None, early=self._rules.is_early(header.to or ""))
                    case Opened(header, Login() as login, greeted):
                        shown = SHOWN if greeted else None
                        return BegunStream(header, EarlyLogin(login, self._waits.deadline, MAX_CHANGES, shown))
                    case Closed(reply):
                        await self._part(reply)
                        return None
                    case BeginTls(domain):
                        return await self._proceed(domain, latest=self._waits.deadline)
            data = await self._receive()
        return None

    async def _proceed(self, domain: str, unsent: bytes = b"", latest: float | None = None) -> BegunStream | None:
        """Begin STARTTLS. Bytes behind the request are dropped, in our buffers and in the system's: anybody on the path
        may have written them (RFC 6120 section 5.4.3.3).

        ``latest``: the time by which everything has to be done, if it was set before.
        """
        if not self._endpoint.discard_received():
            raise ClientError(StreamCondition.POLICY_VIOLATION, "too much was sent behind the request for TLS")
        self._waits.deadline = latest if latest is not None else self._waits.now + self._rules.handshake_timeout
        # In one write: unsent is what the session had for the client, such as its header and features.
        await self._endpoint.send_all(unsent + PROCEED)
        return await self._start_tls(domain, latest)

    async def _start_tls(
        self, domain: str | None = None, latest: float | None = None, hello: bytes = b""
    ) -> BegunStream | None:
        """Shake hands and expect a new stream; ``None`` if the handshake failed. ``hello`` has been peeked at."""
        rules = self._rules
        self._last_words = None  # a stream error in the middle of a handshake would be taken for a broken TLS record
        now = self._waits.now
        self._waits.deadline = min(latest if latest is not None else math.inf, now + rules.handshake_timeout)
        try:
            server_name = await self._endpoint.server_name(hello)
            self.arrival = self.arrival.asking_for(server_name)
            context = rules.tls_context(domain, server_name)
            named = self.arrival.address if self.arrival.via is not None else None
            await self._endpoint.start_tls(context, server_side=True, client_address=named)
        except OSError as exc:
            reason = exc.reason if isinstance(exc, ssl.SSLError) else str(exc)
            self._tls_failed(failure_of(exc), reason)
            return None
        self._expect_stream()
        self._waits.deadline = latest if latest is not None else self._waits.now + rules.negotiation_timeout
        # With TLS 1.3 a client sends its header right behind the handshake. Behind STARTTLS the stream goes on that has
        # asked for it; with TLS from the first byte, nobody knows yet.
        return await (self._read_any() if domain is None else self._read(await self._receive(at_once=True)))

    def _tls_failed(self, failure: TlsFailure, reason: str) -> None:
        self._context.registry.counts.totals.count_failed_handshake(failure)
        emit(_log, "tls-failed", client=self.arrival.address, reason=reason, via=self.arrival.via)

    async def _reroute(self, reroute: Reroute, unsent: bytes) -> BegunStream:
        """Return the stream for another node than the one that was chosen; the lane holds what the client has sent."""
        early_login, now = reroute.early_login, self._waits.now
        self._last_words = last_words if early_login is not None else partial(_first_and_last_words, reroute.header)
        self._lane = reroute.up
        self._waits.deadline = early_login.bind_by if early_login is not None else now + self._rules.negotiation_timeout
        await self._endpoint.send_all(unsent)
        return BegunStream(reroute.header, early_login, silent=reroute.silent)

    async def _part(self, last_bytes: bytes) -> None:
        """Send the last bytes and wait until the client has closed: closing first could send a reset, which destroys
        bytes that the client has not read yet."""
        left = _LINGER_BYTES
        with contextlib.suppress(trio.TooSlowError), self._endpoint.waits.time_limit(_LINGER_SECONDS):
            await self._endpoint.send_all(last_bytes)
            # Only our half: the client reads the error and closes the rest.
            self._endpoint.end_output()
            while left > 0 and (data := await self._endpoint.receive_some()):
                left -= len(data)


def _first_and_last_words(header: StreamHeader, error: RemoteError) -> bytes:
    """Return the refusal of a client that has got no header yet, so it starts with one (RFC 6120 section 4.9.1.2)."""
    said = stanza.stream_header(to=header.from_, from_=header.to, stream_id=new_token(), lang="en")
    return said + last_words(error)


def _stopping() -> ClientError:
    return ClientError(StreamCondition.SYSTEM_SHUTDOWN, "the proxy is stopping")
