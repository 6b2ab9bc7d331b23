"""One client connection until the pump has it: sniff, TLS, opening, place, dial.

Carries out and decides nothing about streams; that is :mod:`cxfr_proxy.xmpp.opening` before there is a node, and the
session afterwards. A connection has a task of its own as long as it opens. With the session it goes over to the pump,
and the task ends. From there it may come back, with a task once more: where the client asks for the STARTTLS that was
on offer, and where somebody else logs in than the node was chosen for.
"""

from __future__ import annotations

import logging
import math
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement, rank_to_resume
from cxfr_proxy.config.table import (
    Config,
    CxfrUnknown,
    Route,
    SaslAuthzid,
    SmAfterTransfer,
    StartTls,
    TrustNodeRedirects,
)
from cxfr_proxy.errors import ClientError, DomainRefused, NodeError, RemoteError
from cxfr_proxy.events import emit
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.proxy_protocol import Peer
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.relay.relayed import Relayed, Returned
from cxfr_proxy.session.commands import EarlyLogin, Event, Reroute
from cxfr_proxy.session.session import Policy, Session
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.tasks import Task, isolated, start_once
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.upstream.admission import Admission
from cxfr_proxy.upstream.check import Informed
from cxfr_proxy.upstream.common_features import CommonFeatures
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.xmpp import jid, stanza
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.client_opening import (
    PROCEED,
    BeginTls,
    ClientOpening,
    Closed,
    Opened,
    OpeningRules,
    Reply,
    last_words,
)
from cxfr_proxy.xmpp.opening.header import SHOWN, StreamHeader
from cxfr_proxy.xmpp.opening.login import UNKNOWN, Login

_TLS_HANDSHAKE: Final = b"\x16"
"""The first byte of a TLS record of type handshake (RFC 8446 section 5.1); no XML begins with it."""
_TOO_MANY: Final = "connections-per-address"
_LINGER_SECONDS: Final = 2.0
"""How long a client that is refused may take to close, so that what was sent to it is not lost in a reset."""
_LINGER_BYTES: Final = 262_144
"""As much of what it has sent meanwhile is read for that: several elements of the length that is usual before bind."""

MAX_CHANGES: Final = 3
"""Changes of the node on one connection, by failed logins of several users. Nodes count failures by connection, and a
new one has counted none."""

_log = logging.getLogger(__name__)


class ClientServer:
    """Serves clients' connections, ``share`` of the proxy's.

    ``find`` asks where a user (bare JID) belongs before he is placed, for no longer than he may wait. ``observer`` is
    told each event of a session, ``on_gone`` when one was removed, ``on_closed`` when a connection is, with or without
    one. ``tasks`` has to be there before the first connection: what comes back from a session gets its task there.
    """

    tasks: trio.Nursery

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
        share: float = 1.0,
    ) -> None:
        self._config = config
        self._cluster = cluster
        self._registry = registry
        self._placement = placement
        self._find = find
        self._pump = pump
        self._common_features = CommonFeatures(cluster, max_bytes=config.limits.max_element_up)
        self._dialer = dialer
        self._checks = checks
        self._certificates = certificates
        self._observer = observer
        self._on_gone = on_gone
        self._on_closed = on_closed
        self._on_over = self._end  # one object for all sessions
        pump.on_returned = self._take_back
        self._openings: set[trio.CancelScope] = set()
        logins = config.logins_per_second
        self._admission = Admission(logins * share if logins is not None else None, config.timeouts.admission_timeout)
        self.stopping = False
        self._opening_rules = OpeningRules(
            new_stream_id=_token,
            domains=frozenset(map(domain_key, config.domain)),
            moved={domain_key(each.domain): str(each.target) for each in config.redirect_domain},
            requires_tls=config.starttls is StartTls.REQUIRED,
            offers_tls=config.starttls is StartTls.OPTIONAL,
            features=self._common_features if config.route is Route.LOGIN else None,
        )
        self._policy = Policy(
            timeouts=config.timeouts,
            limits=config.limits,
            try_unknown=config.cxfr_unknown is CxfrUnknown.TRY,
            token=_token,
            resumption=registry.resumption,
            client_software=registry.client_software,
            wrap_resumable_ids=config.sm_after_transfer is SmAfterTransfer.WRAP,
            trust_node_redirects=config.trust_node_redirects is TrustNodeRedirects.YES,
            redirect_targets=config.redirection,
            redirected_lately=registry.redirected_lately,
            check_authzid=config.sasl_authzid is SaslAuthzid.SAME,
            elsewhere=self._is_elsewhere,
        )

    async def serve(self, sock: socket.socket, address: object) -> None:
        """One accepted connection until it is closed or has a session. Raises nothing but ``Cancelled``.

        One of the calls stays until no session is left, and ends them all when it is cancelled.
        """
        await self._serve_safely(partial(self._serve, sock, _peer(address)))

    async def _serve_safely(self, serve: Callable[[], Awaitable[None]]) -> None:
        try:
            with isolated(Task.CONNECTION, (OSError,)):
                await serve()
        except OSError as exc:
            emit(_log, "client-gone", level=logging.DEBUG, error=str(exc))
        await self._pump.keep()

    async def _serve(self, sock: socket.socket, client: Peer | None) -> None:
        endpoint = counted = None
        try:
            endpoint = Endpoint.from_socket(sock, self._config.timeouts.keepalive_timeout)
            address = _address(client)
            if not self._registry.connected(address, self._config.limits.connections_per_address):
                self.refused(_TOO_MANY)
                emit(_log, "client-refused", level=logging.WARNING, client=address, reason=_TOO_MANY)
                return
            counted = address
            await _Connection(self, endpoint, client).accept()
        finally:
            if endpoint is None or endpoint.owned:
                (endpoint if endpoint is not None else sock).close()
                if counted is not None:
                    self._registry.disconnected(counted)
                self._on_closed()

    def _take_back(self, relayed: Relayed) -> None:
        returned = relayed.returned
        assert returned is not None
        serve = partial(self._serve_again, returned, relayed.client_address)
        start_once(self.tasks, Task.CONNECTION, partial(self._serve_safely, serve))

    async def _serve_again(self, returned: Returned, address: str) -> None:
        endpoint = Endpoint(returned.sock)
        try:
            client = _peer(returned.sock.getpeername())
            await _Connection(self, endpoint, client).go_on(returned)
        finally:
            if endpoint.owned:
                endpoint.close()
                self._registry.disconnected(address)
                self._on_closed()

    # --- what a connection needs

    def new_lane(self) -> Lane:
        limits = self._config.limits
        return Lane(max_element_bytes=limits.max_element_negotiating, max_depth=limits.max_depth)

    def new_opening(self, lane: Lane, *, tls: bool) -> ClientOpening:
        return ClientOpening(lane, self._opening_rules, on_tls=tls)

    def is_early(self, domain: str) -> bool:
        """Whether a client of that domain would be asked who it is first, if the nodes' features were known by now."""
        return self._config.route is Route.LOGIN and self._common_features.are_awaited(domain)

    def tls_context(self, domain: str | None, server_name: bytes | None) -> ssl.SSLContext:
        """For the next handshake, with a client that has asked for that domain: certificates may be replaced."""
        return self._certificates.context_for(domain, server_name)

    def begin_opening(self) -> trio.CancelScope:
        """A scope for a connection without a session yet: :meth:`open_no_more` cancels it."""
        scope = trio.CancelScope()
        if self.stopping:
            scope.cancel()
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

    async def reach_node(
        self, header: StreamHeader, login: Login, waiting: Endpoint, client: Peer | None, silent: Collection[str] = ()
    ) -> tuple[Node, Endpoint]:
        """The first node in the order of placement that can be reached, when it is the client's turn; but for those
        that were ``silent``.

        What ``login`` says goes before the header. ``waiting`` is the client's end. Raises :class:`NodeError`, for the
        client, if there is none, and ``OSError`` where the client has left.
        """
        user, domain = login.user or _hinted_user(header), header.to or ""
        proxy = _peer(waiting.sock.getsockname())
        if user is not None and self._find is not None:
            await self._find(user)
        ranked = self._placement.rank(user, domain, self._registry.sessions_by_node())
        holder = self._holder(login, user, domain, _address(client))
        if holder is not None:
            ranked = rank_to_resume(ranked, holder)
        for node in (node for node in ranked if node.name not in silent):
            usable = node.usable
            with self._registry.expecting(node.name):
                await self._admission.admit(node.name, _address(client), waiting.has_hung_up)
                if usable and not node.usable:
                    continue  # much can happen to a node while one waits for it
                try:
                    endpoint = await self._dialer.dial(node.spec, domain, client=client, proxy=proxy)
                except NodeError as exc:
                    self._registry.of_node(node.name).connect_failures += 1
                    if not isinstance(exc, DomainRefused):  # else any name that a client makes up would take it down
                        self._checks.connect_failed(node, exc.text)
                    continue
            return node, endpoint
        raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "no server can take this connection now")

    def refused(self, reason: str) -> None:
        """Count a connection that gets no session."""
        self._registry.totals.count_refused(reason)

    def _holder(self, login: Login, user: str | None, domain: str, address: str) -> Node | None:
        """Who has the session that the client wants to resume: known where it has said which, guessed where not."""
        name = self._registry.node_of_resumable(login.previd) if login.previd is not None else None
        if name is None:
            name = self._registry.returning_clients.node_for(user, address, trio.current_time())
        holder = self._cluster.get(name) if name is not None and name in self._cluster else None
        return holder if holder is not None and holder.spec.serves(domain_key(domain)) else None

    def _is_elsewhere(self, login: Login, domain: str, node: str) -> bool:
        """Whether this user's place is another node than that; who has no place is well anywhere."""
        if login.user is None:
            return False
        sessions = self._registry.sessions_by_node()
        ranked = self._placement.rank(login.user, domain, sessions, up_only=True)
        holder = self._holder(login, login.user, domain, address="")
        if holder is not None:
            ranked = rank_to_resume(ranked, holder)
        elif self._placement.home(login.user, domain, sessions) is None:
            return False
        return bool(ranked) and ranked[0].name != node

    def offers_starttls(self, client: Endpoint) -> bool:
        return self._config.starttls is StartTls.OPTIONAL and not client.is_tls

    def relay(
        self,
        header: StreamHeader,
        lane: Lane,
        node: Node,
        client: Endpoint,
        node_end: Endpoint,
        client_peer: Peer | None,
        early_login: EarlyLogin | None,
        *,
        early: bool,
        silent: tuple[str, ...] = (),
    ) -> None:
        """Begin a session. It takes over both ends and the count of its address, and is registered until it is over."""
        session = Session(
            header,
            lane,
            self._policy,
            node=node.name,
            tls=client.is_tls,
            offer_starttls=self.offers_starttls(client),
            early_login=early_login,
            silent=silent,
        )
        relayed = self._pump.relay(
            session,
            client.give_away(),
            node_end.give_away(),
            session_id=self._registry.new_id(),
            client_address=_address(client_peer),
            client_port=client_peer[1] if client_peer is not None else None,
            observer=self._observer,
            on_over=self._on_over,
        )
        relayed.placed_early = early
        self._registry.add(relayed)
        relayed.start()

    def _end(self, relayed: Relayed) -> None:
        self._registry.remove(relayed)
        if relayed.returned is None:  # else it is still connected
            self._registry.disconnected(relayed.client_address)
            self._on_closed()
        self._on_gone()


class _Connection:
    """One connection that was accepted, or has come back from a session, until it has a session."""

    def __init__(self, server: ClientServer, endpoint: Endpoint, client: Peer | None) -> None:
        self._server = server
        self._endpoint = endpoint
        self._client = client
        self._lane: Lane
        self._opening: ClientOpening
        self._last_words: Callable[[RemoteError], bytes] | None = None  # None: no stream yet that could be answered
        self._limit: trio.CancelScope

    @property
    def _address(self) -> str:
        return _address(self._client)

    async def accept(self) -> None:
        await self._run(self._sniff)

    async def go_on(self, returned: Returned) -> None:
        """Where a session has left off."""
        match returned.command:
            case Reroute() as reroute:
                await self._run(partial(self._reroute, reroute, returned.unsent))
            case _:
                await self._run(partial(self._proceed, returned.domain, returned.unsent))

    async def _run(self, begin: Callable[[], Awaitable[_Begun | None]]) -> None:
        begun = None
        try:
            begun = await self._open(begin)
            if begun is not None:
                await self._relay(begun)
        except RemoteError as error:
            self._server.refused(error.condition)
            # That no node can be reached is not the client's doing, and the operator's to know.
            level = logging.WARNING if isinstance(error, NodeError) else logging.INFO
            emit(
                _log,
                "client-refused",
                level=level,
                client=self._address,
                port=self._client[1] if self._client is not None else None,
                condition=error.condition,
                reason=error.text,
                user=begun.user if begun is not None else None,
            )
            if self._last_words is not None:
                await self._part(self._last_words(error))

    async def _open(self, begin: Callable[[], Awaitable[_Begun | None]]) -> _Begun | None:
        """What ``begin`` comes to; ``None`` where the client went away, or it takes too long without a stream.

        Raises :class:`ClientError`.
        """
        server = self._server
        begun = None
        scope = self._limit = server.begin_opening()
        try:
            with scope:
                begun = await begin()
        finally:
            server.end_opening(scope)
        if not scope.cancelled_caught:
            return begun
        if self._last_words is None:
            if self._endpoint.is_tls:
                self._tls_failed("took too long")
            return None
        if server.stopping:
            raise _stopping()
        raise ClientError(StreamCondition.CONNECTION_TIMEOUT, "the stream took too long to open")

    async def _sniff(self) -> _Begun | None:
        """Which protocol begins here; ``None`` where nothing does."""
        self._limit.deadline = trio.current_time() + self._server.handshake_timeout
        first = await self._endpoint.peek()
        if first == _TLS_HANDSHAKE:
            return await self._start_tls()
        self._expect_stream()
        self._limit.deadline = trio.current_time() + self._server.negotiation_timeout
        return await self._read() if first else None

    def _expect_stream(self) -> None:
        self._lane = self._server.new_lane()
        self._opening = self._server.new_opening(self._lane, tls=self._endpoint.is_tls)
        self._last_words = self._opening.refuse

    async def _read(self) -> _Begun | None:
        """The client's stream, until a node is needed, behind TLS if it has to be."""
        while data := await self._endpoint.receive_some():
            for step in self._opening.receive(data):
                match step:
                    case Reply(reply):
                        await self._endpoint.send_all(reply)
                    case Opened(header, None):
                        return _Begun(header, None, early=self._server.is_early(header.to or ""))
                    case Opened(header, Login() as login, greeted):
                        shown = SHOWN if greeted else None
                        return _Begun(header, EarlyLogin(login, self._limit.deadline, MAX_CHANGES, shown))
                    case Closed(reply):
                        await self._part(reply)
                        return None
                    case BeginTls(domain):
                        return await self._proceed(domain, latest=self._limit.deadline)
        return None

    async def _proceed(self, domain: str, unsent: bytes = b"", latest: float | None = None) -> _Begun | None:
        """STARTTLS was asked for: whatever came behind it is dropped, in our buffers and in the system's.

        ``latest``: when all has to be done, as far as it was begun before.
        """
        if not self._endpoint.discard_received():
            raise ClientError(StreamCondition.POLICY_VIOLATION, "too much was sent behind the request for TLS")
        self._limit.deadline = latest if latest is not None else trio.current_time() + self._server.handshake_timeout
        await self._endpoint.send_all(unsent + PROCEED)
        return await self._start_tls(domain, latest)

    async def _start_tls(self, domain: str | None = None, latest: float | None = None) -> _Begun | None:
        """Shake hands and expect a new stream; ``None`` where that failed."""
        server = self._server
        self._last_words = None
        now = trio.current_time()
        self._limit.deadline = min(latest if latest is not None else math.inf, now + server.handshake_timeout)
        try:
            context = server.tls_context(domain, await self._endpoint.server_name())
            await self._endpoint.start_tls(context, server_side=True)
        except OSError as exc:
            reason = exc.reason if isinstance(exc, ssl.SSLError) else str(exc)
            self._tls_failed(reason)
            return None
        self._expect_stream()
        self._limit.deadline = latest if latest is not None else trio.current_time() + server.negotiation_timeout
        return await self._read()

    def _tls_failed(self, reason: str) -> None:
        emit(_log, "tls-failed", client=self._address, reason=reason)

    async def _reroute(self, reroute: Reroute, unsent: bytes) -> _Begun:
        """Another node than was chosen: what the client has said waits in the lane."""
        early_login, now = reroute.early_login, trio.current_time()
        self._last_words = last_words if early_login is not None else partial(_first_and_last_words, reroute.header)
        self._lane = reroute.up
        self._limit.deadline = (
            early_login.bind_by if early_login is not None else now + self._server.negotiation_timeout
        )
        await self._endpoint.send_all(unsent)
        return _Begun(reroute.header, early_login, silent=reroute.silent)

    async def _relay(self, begun: _Begun) -> None:
        """Begin a session."""
        node, node_end = await self._reach(begun)
        self._server.relay(
            begun.header,
            self._lane,
            node,
            self._endpoint,
            node_end,
            self._client,
            begun.early_login,
            early=begun.early,
            silent=begun.silent,
        )

    async def _reach(self, begun: _Begun) -> tuple[Node, Endpoint]:
        """As :meth:`ClientServer.reach_node`; raises ``ClientError`` if the proxy stops meanwhile."""
        server = self._server
        scope = server.begin_opening()
        try:
            with scope:
                return await server.reach_node(begun.header, begun.login, self._endpoint, self._client, begun.silent)
        finally:
            server.end_opening(scope)
        raise _stopping()

    async def _part(self, last_bytes: bytes) -> None:
        """Say the last words, and wait until the client has closed: a reset would take them back."""
        left = _LINGER_BYTES
        with trio.move_on_after(_LINGER_SECONDS):
            await self._endpoint.send_all(last_bytes)
            self._endpoint.end_output()
            while left > 0 and (data := await self._endpoint.receive_some()):
                left -= len(data)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A stream that needs a node. ``early_login`` is ``None`` where it stays there whatever the client says, and then
    ``early`` tells that this is so only because nothing was known of the nodes yet. ``silent``: nodes that have not
    greeted it."""

    header: StreamHeader
    early_login: EarlyLogin | None
    early: bool = False
    silent: tuple[str, ...] = ()

    @property
    def login(self) -> Login:
        return self.early_login.login if self.early_login is not None else UNKNOWN

    @property
    def user(self) -> str | None:
        """Who the client says it is, a bare JID; ``None``: it does not."""
        return self.login.user or _hinted_user(self.header)


def _first_and_last_words(header: StreamHeader, error: RemoteError) -> bytes:
    """For a client that has got no header yet."""
    said = stanza.stream_header(to=header.from_, from_=header.to, stream_id=_token(), lang="en")
    return said + last_words(error)


def _stopping() -> ClientError:
    return ClientError(StreamCondition.SYSTEM_SHUTDOWN, "the proxy is stopping")


def _peer(address: object) -> Peer | None:
    """An IPv4 client on a socket for both families is an IPv4 client, for limits and the log as well."""
    return (str(address[0]).removeprefix("::ffff:"), int(address[1])) if isinstance(address, tuple) else None


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
