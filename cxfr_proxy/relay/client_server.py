"""Serves clients' connections: each is carried on by the pump while it opens, then as a session, then perhaps anew.

A connection is counted by its address and has its place in the connection limit from the moment it is accepted until it
is closed, through all that. So these duties, and that of closing the socket, are kept while it opens (:class:`Duties`),
and pass to the session when that begins: :meth:`ClientServer.session_over` does for it what they would have done.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import trio

from cxfr_proxy.config.table import (
    Config,
    CxfrUnknown,
    NodeStreamManagement,
    SaslAuthzid,
    SmAfterTransfer,
    TrustNodeRedirects,
)
from cxfr_proxy.errors import NodeError
from cxfr_proxy.events import emit
from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.connection_limit import ConnectionLimit
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.transport import PlainTransport
from cxfr_proxy.relay.balancers import Balancers
from cxfr_proxy.relay.connection import ClientConnection, ConnectionContext, RoutedStream
from cxfr_proxy.relay.connection_rules import ConnectionRules, new_token
from cxfr_proxy.relay.live_session import LiveSession, ReturnedConnection
from cxfr_proxy.relay.openings import PumpWaits
from cxfr_proxy.relay.pings import Pings
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.session.commands import Dial, Event, Side
from cxfr_proxy.session.legs import NodeLeg
from cxfr_proxy.session.session import Policy, Session
from cxfr_proxy.tasks import Task, start_once
from cxfr_proxy.transfers.memory import ClientMemory
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.upstream.dial import has_broken
from cxfr_proxy.upstream.router import Router

_TOO_MANY: Final = "connections-per-address"

_log = logging.getLogger(__name__)


class SessionObserver(Protocol):
    """Is told what clients' sessions report."""

    def session_event(self, live: LiveSession, event: Event) -> None:
        """Take in what a session has reported."""
        ...


class SessionWatcher(SessionObserver, Protocol):
    """Is told what becomes of clients' sessions."""

    def session_over(self, live: LiveSession) -> None:
        """Take in that a session is over. One that has ended by a fault may not have reported that."""
        ...


class Duties:
    """The duties towards a connection that ends while it opens: the latest is done first, and each of them whatever
    becomes of the others. An ``ExitStack`` does the same, and takes 6 µs of a login for it."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: list[Callable[[], object]] = []

    def add(self, duty: Callable[[], object]) -> None:
        """Have this done in front of those that were added before."""
        self._due.append(duty)

    def pass_on(self) -> None:
        """Leave all of them to somebody else."""
        self._due.clear()

    def __enter__(self) -> Duties:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._due:
                self._due.pop()()
        finally:
            if self._due:  # one of them has failed
                self.__exit__()


class ClientServer:
    """Serves accepted connections. ``tasks`` has to be set before the first one."""

    def __init__(
        self,
        config: Config,
        *,
        rules: ConnectionRules,
        router: Router,
        registry: Registry,
        pump: Pump,
        limit: ConnectionLimit,
        watcher: SessionWatcher,
    ) -> None:
        self._registry = registry
        self._pump = pump
        self._limit = limit
        self._watcher = watcher
        self._router = router
        self._dials: dict[int, PumpWaits] = {}
        """By session: the connection that opens for a session that has a node and wants another."""
        self.pings = Pings(config.timeouts.websocket_ping)
        """For whoever runs them."""
        self._kept = False  # whether a task keeps the connections
        self.take_settings(config, rules)

    def take_settings(self, config: Config, rules: ConnectionRules) -> None:
        """Serve new connections by these from now on; sessions go by them as far as they still can."""
        self._keepalive_timeout = config.timeouts.keepalive_timeout
        self._rules = rules
        self._balancers = Balancers(config, self._registry.counts.totals)
        self._context = ConnectionContext(rules, self._router, self._registry)
        self._policy = _policy(config, self._registry, self._router)
        self.pings.seconds = config.timeouts.websocket_ping
        self._pump.deadlines.write_stall_timeout = config.timeouts.write_stall_timeout
        for live in self._registry:
            live.session.follow(self._policy)

    @property
    def tasks(self) -> trio.Nursery:
        """Where tasks run that connections need. One of them stays until no connection is left, and ends them all when
        it is cancelled."""
        return self._pump.openings.tasks

    @tasks.setter
    def tasks(self, tasks: trio.Nursery) -> None:
        self._pump.openings.tasks = tasks

    def serve(self, sock: socket.socket, address: object) -> None:
        """Serve one accepted connection from now on."""
        self._begin(partial(self._serve, sock, address))

    def open_no_more(self) -> None:
        """End all connections that have no session yet."""
        self._pump.openings.stop()

    def _begin(self, serve: Callable[[PumpWaits], Awaitable[None]], *, at_once: bool = True) -> PumpWaits:
        opening = self._pump.openings.begin(partial(self._serve_and_tell, serve), at_once=at_once)
        if not self._kept:
            self._kept = True
            start_once(self.tasks, Task.CONNECTION, self._keep)
        return opening

    async def _keep(self) -> None:
        # In this nursery: it must not be empty while connections live, and cancelling it has to end them.
        try:
            await self._pump.keep()
        finally:
            self._kept = False

    async def _serve_and_tell(self, serve: Callable[[PumpWaits], Awaitable[None]], waits: PumpWaits) -> None:
        # A fault, which is any other exception, ends this one alone: see Openings.carry_on().
        try:
            await serve(waits)
        except OSError as exc:
            emit(_log, "client-gone", level=logging.DEBUG, error=str(exc))

    async def _serve(self, sock: socket.socket, address: object, waits: PumpWaits) -> None:
        with Duties() as duties:
            # Done in the opposite order: a connection gives its place to the next one when its socket is closed.
            duties.add(self._limit.leave)
            endpoint = Endpoint(PlainTransport.adopt(sock, self._keepalive_timeout), waits)
            duties.add(endpoint.close)
            arrival = Arrival.from_socket(address, waits.now)
            if self._balancers:
                told = await self._balancers.who_is_it(endpoint, arrival, waits)
                if told is None:
                    return
                arrival = told
            if not self._registry.connected(arrival.address, self._rules.most_connections(arrival)):
                self._registry.counts.totals.count_refused(_TOO_MANY)
                emit(
                    _log,
                    "client-refused",
                    level=logging.WARNING,
                    client=arrival.address,
                    reason=_TOO_MANY,
                    via=arrival.via,
                )
                return
            connection = ClientConnection(self._context, endpoint, arrival, waits)
            duties.add(partial(self._forget, connection))
            routed = await connection.accept()
            if routed is not None:
                self._begin_session(routed, endpoint, connection.arrival, duties)

    def _forget(self, connection: ClientConnection) -> None:
        self._registry.disconnected(connection.counted_as)

    async def _serve_again(self, returned: ReturnedConnection, arrival: Arrival, waits: PumpWaits) -> None:
        """Serve a connection that has come back from its session. It was counted when it was accepted."""
        with Duties() as duties:
            endpoint = Endpoint(returned.transport, waits)
            duties.add(self._limit.leave)
            duties.add(endpoint.close)
            duties.add(partial(self._registry.disconnected, arrival.address))
            connection = ClientConnection(self._context, endpoint, arrival, waits)
            routed = await connection.go_on(returned)
            if routed is not None:
                self._begin_session(routed, endpoint, connection.arrival, duties)

    def _begin_session(self, routed: RoutedStream, client_end: Endpoint, arrival: Arrival, duties: Duties) -> None:
        """Begin a session, which takes over both ends and all duties."""
        duties.add(routed.reached.endpoint.close)
        stream, transport = routed.stream, client_end.transport
        session = Session(
            stream.header,
            routed.lane,
            self._policy,
            node=routed.reached.node.name,
            tls=arrival.is_encrypted(transport),
            offer_starttls=self._rules.offers_starttls(transport, arrival),
            early_login=stream.early_login,
            silent=stream.silent,
        )
        live = self._pump.relay(
            session,
            transport,
            routed.reached.endpoint.transport,
            session_id=routed.reached.session_id,
            arrival=arrival,
            listener=self,
        )
        duties.pass_on()  # to the session: session_over() does each of them
        live.placed_early = stream.early
        try:
            self._registry.add(live)
        except Exception:
            # The duties were passed on already, so the pump has to do them: by way of session_over().
            self._pump.discard(live)
            raise
        self.pings.watch(live)
        live.start()

    # --- what the pump reports of sessions

    def session_event(self, live: LiveSession, event: Event) -> None:
        self._watcher.session_event(live, event)

    def session_returned(self, live: LiveSession, returned: ReturnedConnection) -> None:
        # Later: this session has not said yet that it is over.
        self._begin(partial(self._serve_again, returned, live.arrival), at_once=False)

    def session_dials(self, live: LiveSession, dial: Dial) -> None:
        # Later: this session has not done yet all that goes with it.
        self._dials[live.id] = self._begin(partial(self._dial, live, dial), at_once=False)

    async def _dial(self, live: LiveSession, dial: Dial, waits: PumpWaits) -> None:
        """Dial another node for a session and hand over the connection. It is closed when the session gives that up."""
        client = live.arrival.passed_on(live.legs[Side.CLIENT].transport, live.id)
        reached: tuple[Endpoint, NodeLeg] | None = None
        why, broke = "it could not be reached", False
        try:
            reached = await self._router.log_in(dial, client, waits)
        except NodeError as exc:
            why, broke = exc.text, has_broken(exc.__cause__)
        except OSError as exc:
            why, broke = f"the connection broke: {exc}", has_broken(exc)
        waits.release()
        # Before the session hears of it: it may want yet another connection, or be over by that.
        del self._dials[live.id]
        if reached is not None:
            endpoint, leg = reached
            live.offer_node(endpoint.transport, partial(live.session.dialled, leg))
        else:
            live.not_dialled(why, broke=broke)

    def session_forgoes(self, live: LiveSession) -> None:
        opening = self._dials.pop(live.id, None)
        if opening is not None:
            self._pump.openings.close(opening)

    def session_over(self, live: LiveSession) -> None:
        self.session_forgoes(live)
        self.pings.forget(live)
        self._registry.remove(live)
        if live.returned is None:  # else it is still connected, and these are duties of its opening again
            self._registry.disconnected(live.client_address)
            self._limit.leave()
        self._watcher.session_over(live)


class _Surroundings:
    """The answers to what sessions ask of the rest of the proxy: the memory of clients gives them, or the router."""

    def __init__(self, memory: ClientMemory, router: Router) -> None:
        self.client_software = memory.client_software
        self.new_token = new_token
        self.resumption = memory.resumption
        self.redirected_lately = memory.redirected_lately
        self.is_elsewhere = router.is_elsewhere
        self.takes_sessions = router.takes_sessions


def _policy(config: Config, registry: Registry, router: Router) -> Policy:
    return Policy(
        timeouts=config.timeouts,
        limits=config.limits,
        surroundings=_Surroundings(registry.memory, router),
        try_unknown=config.cxfr_unknown is CxfrUnknown.TRY,
        wrap_resumable_ids=config.sm_after_transfer is SmAfterTransfer.WRAP,
        trust_node_redirects=config.trust_node_redirects is TrustNodeRedirects.YES,
        redirect_targets=config.redirection,
        check_authzid=config.sasl_authzid is SaslAuthzid.SAME,
        stands_in=config.node_stream_management is NodeStreamManagement.ON,
    )
