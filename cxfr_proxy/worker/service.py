"""Serve clients, in each worker.

Data travels one way through it: accept -> sniff -> TLS -> opening -> place -> dial -> pump. An order travels the other
way: command, node list or a node's own end -> mover -> session -> IQ -> answer -> one log line and one counter.

The worker around it owns the list of nodes, says which of them are drained, and gets every event.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from cxfr_proxy import gc_policy
from cxfr_proxy.config.table import Config, WrongNode
from cxfr_proxy.events import emit
from cxfr_proxy.net.connection_limit import ConnectionLimit
from cxfr_proxy.net.listen import accept, tune_accepted
from cxfr_proxy.relay.client_server import ClientServer, SessionObserver
from cxfr_proxy.relay.connection_rules import ConnectionRules
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.session.commands import (
    Answered,
    Asked,
    Awakened,
    BoundTo,
    Ended,
    Event,
    Forged,
    LoginFailed,
    MigrationFailed,
    NodeLost,
    NodeRegained,
    Reason,
    Transferred,
    Warned,
)
from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.tables import State
from cxfr_proxy.tasks import Task, start, start_once
from cxfr_proxy.transfers.mover import Mover
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import user_of
from cxfr_proxy.transfers.statistics import Totals
from cxfr_proxy.upstream.health_checks import NodeReports
from cxfr_proxy.upstream.node_warnings import NodeWarnings
from cxfr_proxy.upstream.router import Router, UserFinder
from cxfr_proxy.worker.session_log import log_bound, log_end, log_failed_login, log_regained, log_transfer
from cxfr_proxy.xmpp.opening.attempt import FailedLogin

_TRIGGERS: Final = {
    Reason.NODE_SHUTDOWN: Trigger.NODE_SHUTDOWN,
    Reason.NODE_REDIRECTED: Trigger.NODE_REDIRECTED,
}
"""The trigger of a transfer, by the reason why a session lost its node; any other is a loss without a word."""

_log = logging.getLogger(__name__)


class Service:
    """Serves clients. ``room`` says how many connections fit; ``reports`` gets what sessions learn about nodes;
    ``observer`` is told of each event after it has been acted upon."""

    def __init__(
        self,
        config: Config,
        *,
        registry: Registry,
        mover: Mover,
        router: Router,
        rules: ConnectionRules,
        room: ConnectionLimit,
        reports: NodeReports,
        observer: SessionObserver,
    ) -> None:
        self._cluster = router.cluster
        self._registry = registry
        self._mover = mover
        self._reports = reports
        self._observer = observer
        self._users = router.users
        self.room = room
        self._pump = Pump(write_stall_timeout=config.timeouts.write_stall_timeout)
        self._server = ClientServer(
            config,
            rules=rules,
            router=router,
            registry=registry,
            pump=self._pump,
            limit=self.room,
            watcher=self,
        )
        self._keep_settings(config)
        self._collector = gc_policy.Turns()
        self._listening = trio.CancelScope()
        self._warnings = NodeWarnings()
        self._no_time = trio.Event()
        self._parting = Order(Trigger.PROXY_STOP)
        self._tasks: trio.Nursery | None = None
        self._listeners: Sequence[trio.SocketListener] = ()
        self.leaving = False
        self.stopping = False

    def take_settings(self, config: Config, rules: ConnectionRules) -> None:
        """Go by these from now on. Clients that are being moved at the end have the time that they had."""
        self._keep_settings(config)
        self._server.take_settings(config, rules)
        if not self._listening.cancel_called:  # else they are closed
            tune_accepted(self._listeners, self._keepalive_timeout)

    def _keep_settings(self, config: Config) -> None:
        self._keepalive_timeout = config.timeouts.keepalive_timeout
        self._sends_home = config.wrong_node is WrongNode.TRANSFER
        self._hard_stop_after = config.timeouts.hard_stop_after
        self._seconds_a_client = config.workers / config.transfer_rate

    async def run(
        self, listeners: Sequence[trio.SocketListener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> bool:
        """Serve until :meth:`stop` or :meth:`leave` has moved all clients, or until cancelled.

        Return whether some had to be cut. The listeners are closed when it ends.
        """
        self._listeners = listeners
        tune_accepted(listeners, self._keepalive_timeout)
        with ExitStack() as held:
            held.callback(self._pump.close)
            for listener in listeners:
                held.callback(listener.socket.close)
            async with trio.open_nursery() as services:
                start(services, Task.PUMP, self._pump.run)
                start(services, Task.TIMERS, self._server.pings.run)
                start(services, Task.MOVER, self._mover.run)
                if self._users is not None:
                    await services.start(self._users.run)
                self._tasks = services
                task_status.started()
                async with trio.open_nursery() as clients:
                    self._server.tasks = clients
                    with self._listening:
                        await accept(listeners, self._serve, self.room)
                    deadline = trio.current_time() + self._hard_stop_after
                    clients.cancel_scope.deadline = deadline
                    start(services, Task.SEND_OFF, partial(self._send_off, deadline))
                services.cancel_scope.cancel()
        return clients.cancel_scope.cancelled_caught

    def _serve(self, sock: socket.socket, address: object) -> None:
        self._server.serve(sock, address)
        self._collector.session_comes()  # last: a fault of it must not keep the socket from being served

    @property
    def totals(self) -> Totals:
        """Return the totals so far."""
        return replace(self._registry.counts.totals, waited=self.room.waited, received=self._pump.received())

    def stop(self) -> None:
        """Accept nobody more, and move the clients there are; :meth:`run` returns when they are gone."""
        self.stopping = True
        # A worker that was leaving at its ease has to hurry now.
        self._no_time.set()
        self._listening.cancel()

    def leave(self) -> None:
        """Stop, while another worker goes on accepting: move clients at the mover's pace as long as there is time,
        and let logins that are under way finish."""
        self.leaving = True
        self._listening.cancel()

    async def _send_off(self, deadline: float) -> None:
        if self.leaving and not self.stopping:
            self._mover.leave(Trigger.WORKER_RESTART)
            with trio.move_on_at(deadline - self._hard_stop_after / 3):
                await self._no_time.wait()
            if not self.stopping:
                self.stopping = True
                self._parting = Order(Trigger.WORKER_RESTART, hurried=True)
        self._server.open_no_more()
        await self._move_everybody(deadline)

    async def _move_everybody(self, deadline: float) -> None:
        """Tell each client to reconnect, in a third of the time that is left: the rest is for carrying it out."""
        sessions = list(self._registry)
        available = (deadline - trio.current_time()) / 3
        pause = max(0.0, min(self._seconds_a_client, available / (len(sessions) or 1)))
        for relayed in sessions:
            relayed.transfer(self._parting)
            await trio.sleep(pause)

    # --- what sessions report

    def session_event(self, relayed: LiveSession, event: Event) -> None:
        self._registry.note(relayed, event, trio.current_time())
        self._act(relayed, event)
        self._observer.session_event(relayed, event)

    def session_over(self, relayed: LiveSession) -> None:
        self._mover.forget(relayed.id)

    def _act(self, relayed: LiveSession, event: Event) -> None:
        session = relayed.session
        match event:
            case BoundTo(full_jid, resumed):
                node_name = session.node
                log_bound(relayed, full_jid, node_name)
                if node_name in self._cluster:
                    self._reports.login_worked(self._cluster.get(node_name), session.domain.lower())
                # Clients that got their node before its features were known may stay: after a start of the proxy, that
                # is all of them.
                self._place_right(relayed, led=resumed or relayed.placed_early)
            case FailedLogin():
                log_failed_login(relayed, event)
            case LoginFailed(reason):
                if session.node in self._cluster:
                    self._reports.login_failed(self._cluster.get(session.node), reason)
            case NodeLost(reason):
                if reason is Reason.NODE_SHUTDOWN and session.node in self._cluster:
                    node = self._cluster.get(session.node)
                    self._reports.said_it_was_going(node, sessions=self._registry.sessions_on(node.name))
                trigger = _TRIGGERS.get(reason, Trigger.NODE_LOST)
                self._mover.enqueue_lost(relayed.id, trigger)
            case MigrationFailed(node, why):
                self._mover.note(relayed.id, event)
                if node is not None:
                    self._warnings.warn(node, f"a session can't be moved under its client's stream: {why}")
            case NodeRegained(seconds):
                log_regained(relayed, seconds)
                self._place_right(relayed, led=True)  # orders that came meanwhile were ignored
            case Asked() | Answered():
                self._mover.note(relayed.id, event)
            case Transferred():
                self._mover.note(relayed.id, event)
                log_transfer(relayed, event)
                # The order was taken back; there may be another reason to move it by now.
                if session.state is State.BOUND:
                    self._place_right(relayed, led=True)
            case Ended():
                log_end(relayed, event)
            case Forged():
                emit(_log, "forged-transfer", level=logging.WARNING, session=relayed.id, node=session.node)
            case Awakened():
                if self._mover.is_leaving(session.node):
                    self._mover.enqueue_leaving(relayed.id)  # it may have been left out because it was not in use
            case Warned(text):
                self._warnings.warn(session.node, text)
            case _:
                pass

    def _place_right(self, relayed: LiveSession, *, led: bool) -> None:
        """Move a session that is, or becomes, bound while its node or the proxy is being emptied; and one that is
        not on its user's home node, unless it was ``led`` there."""
        if self.stopping:
            relayed.transfer(self._parting)
        elif self.leaving or self._mover.is_leaving(relayed.session.node):
            self._mover.enqueue_leaving(relayed.id)
        elif self._sends_home and not led:
            self._send_home(relayed)

    def _send_home(self, relayed: LiveSession) -> None:
        """Ask where that is, if need be: the user was not known when the node was chosen."""
        user = user_of(relayed.session)
        if self._users is None or user is None or self._users.knows(user) or self._tasks is None:
            self._mover.look_at(relayed)
        else:
            ask = partial(self._ask_and_send_home, self._users, relayed, user)
            start_once(self._tasks, Task.LOOKUP, ask)

    async def _ask_and_send_home(self, users: UserFinder, relayed: LiveSession, user: str) -> None:
        await users.find(user)
        if self._registry.get(relayed.id) is relayed:
            self._mover.look_at(relayed)
