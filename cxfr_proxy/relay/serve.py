"""One client connection, from accept to close: sniff, TLS, opening, place, dial, and then the pump.

Carries out and decides nothing about streams; that is :mod:`cxfr_proxy.xmpp.opening` before there is a node, and the
session afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Final

import trio

from cxfr_proxy.cluster import placement
from cxfr_proxy.cluster.nodes import Cluster, Node
from cxfr_proxy.config import Config, CxfrUnknown, SmAfterTransfer, StartTls
from cxfr_proxy.errors import ClientError, NodeError, RemoteError
from cxfr_proxy.events import emit
from cxfr_proxy.relay.check import Checks
from cxfr_proxy.relay.dial import Dialer
from cxfr_proxy.relay.endpoint import Endpoint
from cxfr_proxy.relay.proxy_protocol import Peer
from cxfr_proxy.relay.pump import Pump, Relayed
from cxfr_proxy.relay.tls import ServerCertificates
from cxfr_proxy.session.commands import Event
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
    """Serves clients' connections. ``observer`` is told each event of a session, ``on_gone`` when one was removed."""

    def __init__(
        self,
        config: Config,
        *,
        cluster: Cluster,
        registry: Registry,
        pump: Pump,
        dialer: Dialer,
        checks: Checks,
        certificates: ServerCertificates,
        observer: Callable[[Relayed, Event], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._on_gone = on_gone
        self._config = config
        self._cluster = cluster
        self._registry = registry
        self._pump = pump
        self._dialer = dialer
        self._checks = checks
        self._certificates = certificates
        self._observer = observer
        self._openings: set[trio.CancelScope] = set()
        self.stopping = False
        self._domains = frozenset(domain.lower() for domain in config.domain)
        self._policy = Policy(
            timeouts=config.timeouts,
            limits=config.limits,
            try_unknown=config.cxfr_unknown is CxfrUnknown.TRY,
            token=_token,
            resumption=registry.resumption,
            wrap_resumable_ids=config.sm_after_transfer is SmAfterTransfer.WRAP,
        )

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection until it is closed. Raises nothing but ``Cancelled``."""
        endpoint = None
        try:
            endpoint = Endpoint.from_stream(stream)
            client, proxy = _peer(endpoint.sock.getpeername), _peer(endpoint.sock.getsockname)
            address = _address(client)
            if not self._registry.connected(address, self._config.limits.connections_per_address):
                emit(_log, "client-refused", level=logging.WARNING, client=address, reason="connections-per-address")
                return
            try:
                await _Connection(self, endpoint, client, proxy).run()
            finally:
                self._registry.disconnected(address)
        except OSError as exc:
            emit(_log, "client-gone", level=logging.DEBUG, error=str(exc))
        except Exception as exc:
            emit(_log, "connection-fault", level=logging.ERROR, exc_info=exc)
        finally:
            if endpoint is not None:
                endpoint.close()

    # --- what a connection needs

    def new_lane(self) -> Lane:
        limits = self._config.limits
        return Lane(max_element_bytes=limits.max_element_negotiating, max_depth=limits.max_depth)

    def new_opening(self, lane: Lane, *, tls: bool) -> ClientOpening:
        tls_first = not tls and self._config.starttls is StartTls.REQUIRED
        return ClientOpening(lane, tls_first=tls_first, domains=self._domains, stream_id=_token())

    @property
    def tls_context(self) -> ssl.SSLContext:
        """For the next handshake; certificates may be replaced at any time."""
        return self._certificates.context

    @contextlib.contextmanager
    def opening(self, seconds: float) -> Iterator[trio.CancelScope]:
        """A connection without a session yet: for so long, or until :meth:`open_no_more`."""
        with trio.move_on_after(seconds) as scope:
            self._openings.add(scope)
            try:
                yield scope
            finally:
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
        ranked = placement.rank(user, self._cluster.candidates(), self._registry.sessions_by_node())
        holder = self._registry.holder(user, _address(client), trio.current_time())
        if holder is not None and holder in self._cluster:
            ranked = placement.rank_to_resume(ranked, self._cluster.get(holder))
        for node in ranked:
            try:
                endpoint = await self._dialer.dial(node.spec, header.to or "", client=client, proxy=proxy)
            except NodeError as exc:
                self._registry.of_node(node.name).connect_failures += 1
                self._checks.connect_failed(node, header.to or "", exc.text)
                continue
            return node, endpoint
        raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "no server can take this connection now")

    async def relay(
        self, header: StreamHeader, lane: Lane, node: Node, client: Endpoint, node_end: Endpoint, address: str
    ) -> Relayed:
        """A session, from its first byte to the node until it is over; it is registered for as long."""
        session = Session(
            header,
            lane,
            self._policy,
            node=node.name,
            tls=client.is_tls,
            offer_starttls=self._config.starttls is StartTls.OPTIONAL and not client.is_tls,
        )
        relayed = self._pump.relay(
            session,
            client.sock,
            node_end.sock,
            session_id=self._registry.new_id(),
            client_address=address,
            observer=self._observer,
        )
        self._registry.add(relayed)
        try:
            await relayed.run()
        finally:
            self._registry.remove(relayed)
            self._on_gone()
        return relayed


class _Connection:
    """One accepted connection: a stream, or several where STARTTLS begins it anew."""

    def __init__(self, server: ClientServer, endpoint: Endpoint, client: Peer | None, proxy: Peer | None) -> None:
        self._server = server
        self._endpoint = endpoint
        self._client = client
        self._proxy = proxy
        self._lane = server.new_lane()
        self._opening = server.new_opening(self._lane, tls=False)

    @property
    def _address(self) -> str:
        return _address(self._client)

    async def run(self) -> None:
        try:
            if not await self._sniff():
                return
            while (header := await self._open()) is not None:
                node, node_end = await self._server.reach_node(header, self._client, self._proxy)
                relayed = await self._server.relay(header, self._lane, node, self._endpoint, node_end, self._address)
                if relayed.upgrade is None:
                    return
                await self._proceed()
        except RemoteError as error:
            # That no node can be reached is not the client's doing, and the operator's to know.
            level = logging.WARNING if isinstance(error, NodeError) else logging.INFO
            emit(
                _log, "client-refused", level=level, client=self._address, condition=error.condition, reason=error.text
            )
            await self._refuse(self._opening.refuse(error))

    async def _sniff(self) -> bool:
        """Which protocol begins here; False where nothing does."""
        first = b""
        with self._server.opening(self._server.handshake_timeout):
            first = await self._endpoint.peek()
        if first == _TLS_HANDSHAKE:
            return await self._start_tls()
        return bool(first)

    async def _open(self) -> StreamHeader | None:
        """The client's header, behind TLS if it has to be; ``None`` where the client went away.

        Raises :class:`ClientError`.
        """
        header = None
        with self._server.opening(self._server.negotiation_timeout) as scope:
            header = await self._read_header()
        if not scope.cancelled_caught:
            return header
        if self._server.stopping:
            raise ClientError(StreamCondition.SYSTEM_SHUTDOWN, "the proxy is stopping")
        raise ClientError(StreamCondition.CONNECTION_TIMEOUT, "the stream took too long to open")

    async def _read_header(self) -> StreamHeader | None:
        while data := await self._endpoint.receive_some():
            for step in self._opening.receive(data):
                match step:
                    case Reply(reply):
                        await self._endpoint.send_all(reply)
                    case Opened(header):
                        return header
                    case BeginTls():
                        if not await self._proceed():
                            return None
        return None

    async def _proceed(self) -> bool:
        """STARTTLS was asked for: whatever came behind it is dropped, in our buffers and in the system's."""
        self._endpoint.discard_received()
        await self._endpoint.send_all(PROCEED)
        return await self._start_tls()

    async def _start_tls(self) -> bool:
        """Shake hands, and expect a new stream; False where that failed."""
        try:
            with trio.fail_after(self._server.handshake_timeout):
                await self._endpoint.start_tls(self._server.tls_context, server_side=True)
        except (OSError, trio.TooSlowError) as exc:
            reason = exc.reason if isinstance(exc, ssl.SSLError) else str(exc)
            emit(_log, "tls-failed", client=self._address, reason=reason or "took too long")
            return False
        self._lane = self._server.new_lane()
        self._opening = self._server.new_opening(self._lane, tls=True)
        return True

    async def _refuse(self, last_bytes: bytes) -> None:
        """Say why, and wait until the client has closed: a reset would take the words back."""
        with trio.move_on_after(_LINGER_SECONDS):
            await self._endpoint.send_all(last_bytes)
            socket.socket.shutdown(self._endpoint.sock, socket.SHUT_WR)
            while await self._endpoint.receive_some():
                pass


def _peer(name: Callable[[], object]) -> Peer | None:
    with contextlib.suppress(OSError):
        address = name()
        if isinstance(address, tuple):
            return str(address[0]), int(address[1])
    return None


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
