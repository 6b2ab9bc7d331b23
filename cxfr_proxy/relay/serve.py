"""One client connection until the pump has it: sniff, TLS, opening, place, dial.

Carries out and decides nothing about streams; that is :mod:`cxfr_proxy.xmpp.opening` before there is a node, and the
session afterwards. A connection has a task of its own as long as it opens. With the session it goes over to the pump,
and the task ends; where STARTTLS is on offer it stays until the client has logged in without, for the connection may
come back.
"""

from __future__ import annotations

import logging
import math
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement, rank_to_resume
from cxfr_proxy.config import Config, CxfrUnknown, SaslAuthzid, SmAfterTransfer, StartTls, TrustNodeRedirects
from cxfr_proxy.errors import ClientError, NodeError, RemoteError
from cxfr_proxy.events import emit
from cxfr_proxy.relay.check import Informed
from cxfr_proxy.relay.dial import Dialer
from cxfr_proxy.relay.endpoint import Endpoint
from cxfr_proxy.relay.proxy_protocol import Peer
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.relay.relayed import Relayed
from cxfr_proxy.relay.tls import ServerCertificates
from cxfr_proxy.session.commands import BoundTo, Ended, Event
from cxfr_proxy.session.registry import Registry
from cxfr_proxy.session.session import Policy, Session
from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.lane import Lane
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening import PROCEED, BeginTls, ClientOpening, Opened, Reply, StreamHeader

_TLS_HANDSHAKE: Final = b"\x16"
"""The first byte of a TLS record of type handshake (RFC 8446 section 5.1); no XML begins with it."""
_LINGER_SECONDS: Final = 2.0
"""How long a client that is refused may take to close, so that what was sent to it is not lost in a reset."""

_log = logging.getLogger(__name__)


class ClientServer:
    """Serves clients' connections. ``find`` asks where a user (bare JID) belongs before he is placed, for no longer
    than he may wait. ``observer`` is told each event of a session, ``on_gone`` when one was removed, ``on_closed`` when
    a connection is, with or without one."""

    def __init__(
        self,
        config: Config,
        *,
        cluster: Cluster,
        registry: Registry,
        placement: Placement,
        find: Callable[[str], Awaitable[None]] | None,
        pump: Pump,
        dialer: Dialer,
        checks: Informed,
        certificates: ServerCertificates,
        observer: Callable[[Relayed, Event], None],
        on_gone: Callable[[], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._registry = registry
        self._placement = placement
        self._find = find
        self._pump = pump
        self._dialer = dialer
        self._checks = checks
        self._certificates = certificates
        self._observer = observer
        self._on_gone = on_gone
        self._on_closed = on_closed
        self._on_over = self._end  # one object for all sessions
        self._openings: set[trio.CancelScope] = set()
        self.stopping = False
        self._domains = frozenset(domain.lower() for domain in config.domain)
        self._moved = {each.domain: str(each.target) for each in config.redirect_domain}
        self._policy = Policy(
            timeouts=config.timeouts,
            limits=config.limits,
            try_unknown=config.cxfr_unknown is CxfrUnknown.TRY,
            token=_token,
            resumption=registry.resumption,
            support=registry.support,
            wrap_resumable_ids=config.sm_after_transfer is SmAfterTransfer.WRAP,
            trust_node_redirects=config.trust_node_redirects is TrustNodeRedirects.YES,
            redirect_targets=config.redirection,
            check_authzid=config.sasl_authzid is SaslAuthzid.SAME,
        )

    async def serve(self, sock: socket.socket, address: object) -> None:
        """One accepted connection until it is closed or has a session. Raises nothing but ``Cancelled``.

        One of the calls stays until no session is left, and ends them all when it is cancelled.
        """
        try:
            await self._serve(sock, _peer(address))
        except OSError as exc:
            emit(_log, "client-gone", level=logging.DEBUG, error=str(exc))
        except Exception as exc:
            emit(_log, "connection-fault", level=logging.ERROR, exc_info=exc)
        await self._pump.keep()

    async def _serve(self, sock: socket.socket, client: Peer | None) -> None:
        endpoint = counted = None
        try:
            endpoint = Endpoint.from_socket(sock)
            address = _address(client)
            if not self._registry.connected(address, self._config.limits.connections_per_address):
                emit(_log, "client-refused", level=logging.WARNING, client=address, reason="connections-per-address")
                return
            counted = address
            await _Connection(self, endpoint, client).run()
        finally:
            if endpoint is None or endpoint.owned:
                (endpoint if endpoint is not None else sock).close()
                if counted is not None:
                    self._registry.disconnected(counted)
                self._on_closed()

    # --- what a connection needs

    def new_lane(self) -> Lane:
        limits = self._config.limits
        return Lane(max_element_bytes=limits.max_element_negotiating, max_depth=limits.max_depth)

    def new_opening(self, lane: Lane, *, tls: bool) -> ClientOpening:
        tls_first = not tls and self._config.starttls is StartTls.REQUIRED
        return ClientOpening(
            lane,
            tls_first=tls_first,
            domains=self._domains,
            stream_id=_token(),
            moved=self._moved,
            on_tls=tls,
            can_start_tls=self._config.starttls is not StartTls.OFF,
        )

    @property
    def tls_context(self) -> ssl.SSLContext:
        """For the next handshake; certificates may be replaced at any time."""
        return self._certificates.context

    def begin_opening(self) -> trio.CancelScope:
        """A scope for a connection without a session yet: :meth:`open_no_more` cancels it."""
        scope = trio.CancelScope()
        self._openings.add(scope)
        return scope

    def end_opening(self, scope: trio.CancelScope) -> None:
        self._openings.discard(scope)

    def open_no_more(self) -> None:
        """End all connections that have no session yet."""
        self.stopping = True
        for scope in self._openings:
            scope.cancel()

    @property
    def handshake_timeout(self) -> float:
        return self._config.timeouts.tls_handshake_timeout

    @property
    def negotiation_timeout(self) -> float:
        return self._config.timeouts.negotiation_timeout

    async def reach_node(self, header: StreamHeader, client: Peer | None, proxy: Peer | None) -> tuple[Node, Endpoint]:
        """The first node in the order of placement that can be reached.

        Raises :class:`NodeError`, for the client, if there is none.
        """
        user = _hinted_user(header)
        if user is not None and self._find is not None:
            await self._find(user)
        ranked = self._placement.rank(user, header.to or "", self._registry.sessions_by_node())
        holder = self._registry.holder(user, _address(client), trio.current_time())
        if holder is not None and holder in self._cluster:
            ranked = rank_to_resume(ranked, self._cluster.get(holder))
        for node in ranked:
            try:
                with self._registry.expecting(node.name):
                    endpoint = await self._dialer.dial(node.spec, header.to or "", client=client, proxy=proxy)
            except NodeError as exc:
                self._registry.of_node(node.name).connect_failures += 1
                self._checks.connect_failed(node, header.to or "", exc.text)
                continue
            return node, endpoint
        raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "no server can take this connection now")

    def offers_starttls(self, client: Endpoint) -> bool:
        return self._config.starttls is StartTls.OPTIONAL and not client.is_tls

    def relay(
        self,
        header: StreamHeader,
        lane: Lane,
        node: Node,
        client: Endpoint,
        node_end: Endpoint,
        address: str,
        on_event: Callable[[Event], None] | None = None,
    ) -> Relayed:
        """Begin a session. It takes over both ends and the count of its address, and is registered until it is over."""
        session = Session(
            header,
            lane,
            self._policy,
            node=node.name,
            tls=client.is_tls,
            offer_starttls=self.offers_starttls(client),
        )
        relayed = self._pump.relay(
            session,
            client.give_away(),
            node_end.give_away(),
            session_id=self._registry.new_id(),
            client_address=address,
            observer=self._observer if on_event is None else self._observe_too(on_event),
            on_over=self._on_over,
        )
        self._registry.add(relayed)
        relayed.start()
        return relayed

    def _observe_too(self, on_event: Callable[[Event], None]) -> Callable[[Relayed, Event], None]:
        def observe(relayed: Relayed, event: Event) -> None:
            self._observer(relayed, event)
            on_event(event)

        return observe

    def _end(self, relayed: Relayed) -> None:
        self._registry.remove(relayed)
        if relayed.upgrade is None:  # else it is still connected
            self._registry.disconnected(relayed.client_address)
            self._on_closed()
        self._on_gone()


class _Connection:
    """One accepted connection: a stream, or several where STARTTLS begins it anew."""

    def __init__(self, server: ClientServer, endpoint: Endpoint, client: Peer | None) -> None:
        self._server = server
        self._endpoint = endpoint
        self._client = client
        self._lane: Lane
        self._opening: ClientOpening | None = None  # None: there is no stream yet that could be answered
        self._limit: trio.CancelScope

    @property
    def _address(self) -> str:
        return _address(self._client)

    async def run(self) -> None:
        try:
            header = await self._open(self._sniff)
            while header is not None:
                if not await self._relay(header):
                    return
                header = await self._open(self._proceed)
        except RemoteError as error:
            # That no node can be reached is not the client's doing, and the operator's to know.
            level = logging.WARNING if isinstance(error, NodeError) else logging.INFO
            emit(
                _log, "client-refused", level=level, client=self._address, condition=error.condition, reason=error.text
            )
            if self._opening is not None:
                await self._refuse(self._opening.refuse(error))

    async def _open(self, begin: Callable[[], Awaitable[bool]]) -> StreamHeader | None:
        """The client's header, behind TLS if it has to be; ``None`` where the client went away.

        ``begin`` comes first, and says whether there is anything to read. Raises :class:`ClientError`.
        """
        server = self._server
        header = None
        scope = self._limit = server.begin_opening()
        try:
            with scope:
                if await begin():
                    scope.deadline = trio.current_time() + server.negotiation_timeout
                    header = await self._read_header()
        finally:
            server.end_opening(scope)
        if not scope.cancelled_caught:
            return header
        if self._opening is None:
            if self._endpoint.is_tls:
                self._tls_failed("took too long")
            return None
        if server.stopping:
            raise ClientError(StreamCondition.SYSTEM_SHUTDOWN, "the proxy is stopping")
        raise ClientError(StreamCondition.CONNECTION_TIMEOUT, "the stream took too long to open")

    async def _sniff(self) -> bool:
        """Which protocol begins here; False where nothing does."""
        self._limit.deadline = trio.current_time() + self._server.handshake_timeout
        first = await self._endpoint.peek()
        if first == _TLS_HANDSHAKE:
            return await self._start_tls()
        self._expect_stream()
        return bool(first)

    def _expect_stream(self) -> None:
        self._lane = self._server.new_lane()
        self._opening = self._server.new_opening(self._lane, tls=self._endpoint.is_tls)

    async def _read_header(self) -> StreamHeader | None:
        assert self._opening is not None
        while data := await self._endpoint.receive_some():
            for step in self._opening.receive(data):
                match step:
                    case Reply(reply):
                        await self._endpoint.send_all(reply)
                    case Opened(header):
                        return header
                    case BeginTls():
                        latest = self._limit.deadline
                        if not await self._proceed(latest):
                            return None
                        self._limit.deadline = latest
        return None

    async def _proceed(self, latest: float = math.inf) -> bool:
        """STARTTLS was asked for: whatever came behind it is dropped, in our buffers and in the system's."""
        self._endpoint.discard_received()
        await self._endpoint.send_all(PROCEED)
        return await self._start_tls(latest)

    async def _start_tls(self, latest: float = math.inf) -> bool:
        """Shake hands, until ``latest`` at most, and expect a new stream; False where that failed."""
        self._opening = None
        self._limit.deadline = min(latest, trio.current_time() + self._server.handshake_timeout)
        try:
            await self._endpoint.start_tls(self._server.tls_context, server_side=True)
        except OSError as exc:
            reason = exc.reason if isinstance(exc, ssl.SSLError) else str(exc)
            self._tls_failed(reason)
            return False
        self._expect_stream()
        return True

    def _tls_failed(self, reason: str) -> None:
        emit(_log, "tls-failed", client=self._address, reason=reason)

    async def _relay(self, header: StreamHeader) -> bool:
        """Begin a session; whether the connection has come back from it, for STARTTLS."""
        node, node_end = await self._server.reach_node(header, self._client, _peer(self._endpoint.sock.getsockname()))
        relay = partial(self._server.relay, header, self._lane, node, self._endpoint, node_end, self._address)
        if not self._server.offers_starttls(self._endpoint):
            relay()
            return False
        settled = trio.Event()
        relayed = relay(lambda event: settled.set() if isinstance(event, BoundTo | Ended) else None)
        try:
            await settled.wait()
        finally:
            if relayed.upgrade is not None:
                self._endpoint.take_back()
            elif not settled.is_set():
                relayed.stop()  # cancelled, and perhaps nobody keeps it yet
        return self._endpoint.owned

    async def _refuse(self, last_bytes: bytes) -> None:
        """Say why, and wait until the client has closed: a reset would take the words back."""
        with trio.move_on_after(_LINGER_SECONDS):
            await self._endpoint.send_all(last_bytes)
            socket.socket.shutdown(self._endpoint.sock, socket.SHUT_WR)
            while await self._endpoint.receive_some():
                pass


def _peer(address: object) -> Peer | None:
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None


def _address(peer: Peer | None) -> str:
    return peer[0] if peer is not None else "local"


def _hinted_user(header: StreamHeader) -> str | None:
    """Who the client says it is. A hint, never to be trusted (RFC 6120 section 4.7.1): it only chooses a node."""
    if header.from_ is None:
        return None
    try:
        return jid.bare(header.from_)
    except jid.JidError:
        return None


def _token() -> str:
    return secrets.token_urlsafe(16)
