"""The running proxy in one process: its parts put together, its tasks, its signals.

With one worker this is all there is (and in the demo, and wherever a proxy is wanted inside another program). With
more, :mod:`.supervisor` does what is done once, and each :mod:`.worker` has a :class:`~.service.Service` of its own.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol

import trio

from cxfr_proxy import signals
from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.admin.rows import SessionRow, TransferRow, WorkerRow
from cxfr_proxy.admin.workers import ONE_PROCESS
from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.cluster.plan import DrainForecast
from cxfr_proxy.cluster.rebalance import RebalanceForecast
from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.net.connection_limit import raise_descriptor_limit
from cxfr_proxy.net.listen import bind
from cxfr_proxy.process import collector
from cxfr_proxy.process.absences import Absences
from cxfr_proxy.process.announce import say_of_drain, say_of_rebalance
from cxfr_proxy.process.management import Management
from cxfr_proxy.process.messages import Files
from cxfr_proxy.process.queries import (
    forecast,
    rebalance_forecast,
    session_rows,
    session_states,
    transfer_rows,
)
from cxfr_proxy.process.service import Service, new_assigned
from cxfr_proxy.process.supervisor import Supervisor
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.session.commands import BoundTo, Event, Transferred
from cxfr_proxy.tasks import Task, isolated, start
from cxfr_proxy.transfers.drains import Drain
from cxfr_proxy.transfers.mover import Mover
from cxfr_proxy.transfers.rebalances import RebalanceCounts, Rebalances
from cxfr_proxy.transfers.registry import NodeCounts, Registry
from cxfr_proxy.transfers.statistics import Totals, TransferStatistics, past_transfer

_log = logging.getLogger(__name__)


class Proxy:
    """One proxy. Certificates are read in the constructor, which raises :class:`ConfigError`; nodes by :meth:`run`.

    ``console`` is what an operator can get at; ``addresses`` are the clients' sockets once it runs. ``reread``
    reads the settings as they are by now; ``None``: they come from nowhere that could change.
    """

    def __init__(self, config: Config, reread: Callable[[], Config] | None = None) -> None:
        config.check_serving()
        self._config = config
        self._cluster = Cluster()
        assigned = new_assigned(config)
        self.registry = Registry(
            redirect_window=config.redirect_window, client_software=ClientSoftware(config.cxfr_allow, config.cxfr_deny)
        )
        feed = ChangeFeed()
        self.registry.changed = feed.changed
        placement = Placement(self._cluster, config.policies, assigned.node_of)
        self._mover = Mover(
            self._cluster,
            self.registry,
            placement,
            transfer_rate=config.transfer_rate,
            on_node_down=config.on_node_down,
            changed=feed.changed,
            report=self._on_drain,
        )
        self.rebalances = Rebalances(
            self._mover.tempo,
            tell=self._mover.follow_rebalance,
            counts_of=self._rebalance_counts,
            report=say_of_rebalance,
        )
        self._cluster.watch(lambda name: feed.changed())
        self._absences = Absences(self.registry.statistics, self._count_return)
        self._management = Management(
            config,
            self._cluster,
            assigned,
            _Here(self.registry, self._cluster, placement, self._mover, self._absences, lambda: self._service.totals),
            self._mover,
            self.rebalances,
            feed,
            stopping=self._is_stopping,
            checked=self._node_changed,
            noted=self._node_noted,
            reread=reread,
        )
        self._service = Service(
            config,
            cluster=self._cluster,
            registry=self.registry,
            placement=placement,
            assigned=assigned,
            mover=self._mover,
            dialer=self._management.dialer,
            checks=self._management.checks,
            certificates=self._management.certificates,
            observer=self._observe,
            on_gone=self._management.nodes.forget_empty,
        )
        self.addresses: list[tuple[str, int]] = []
        self.console = self._management.console
        self.reload_on_signal = self._management.reload_on_signal

    # --- tasks

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop` has moved everybody, or until cancelled; ``started`` once clients can connect.

        Raises :class:`ConfigError`, alone or in an exception group, where the nodes can't be read or a socket can't be
        had.
        """
        await self._management.begin()
        if self._service.stopping:
            return
        room = self._service.room.connections
        listeners = bind(self._config.listen)
        self.addresses = [listener.socket.getsockname()[:2] for listener in listeners]
        try:
            async with trio.open_nursery() as services:
                await self._management.serve(services, room=room)
                self._management.announce(self.addresses, room=room)
                task_status.started()
                cut = await self._service.run(listeners)
                emit(_log, "stopped", cut=cut, sessions=len(self.registry))
                services.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()

    def stop(self) -> None:
        """Accept nobody any more, and move the clients there are; :meth:`run` returns when they have gone."""
        if not self._service.stopping:
            emit(_log, "stopping", sessions=len(self.registry), within=self._config.timeouts.hard_stop_after)
            self._service.stop()

    def _is_stopping(self) -> bool:
        return self._service.stopping

    def restart_on_signal(self) -> None:
        """Of SIGUSR2, which replaces workers: there are none."""
        emit(_log, "restart-refused", level=logging.WARNING, reason=ONE_PROCESS)

    def _node_changed(self, node: Node) -> None:
        self._mover.follow_health(node)
        self._mover.look_again()
        self._node_noted(node)

    def _node_noted(self, node: Node) -> None:
        self._management.compare_features()

    def _observe(self, relayed: LiveSession, event: Event) -> None:
        session = relayed.session
        match event:
            case BoundTo(full_jid):
                self._absences.note_login(relayed.id, full_jid, session.node)
            case Transferred():
                self._absences.note_transfer(relayed.id, session.full_jid, past_transfer(session, event))
            case _:
                pass

    def _count_return(self, node: str) -> None:
        self.registry.of_node(node).returned += 1

    def _rebalance_counts(self, number: int) -> RebalanceCounts | None:
        counts = self._mover.rebalance_counts()
        return counts if counts.number == number else None

    def _on_drain(self, what: str, drain: Drain) -> None:
        say_of_drain(what, drain, self.registry.of_node(drain.node))


class _Here:
    """The sessions of a proxy that is one process."""

    def __init__(
        self,
        registry: Registry,
        cluster: Cluster,
        placement: Placement,
        mover: Mover,
        absences: Absences,
        totals: Callable[[], Totals],
    ) -> None:
        self._registry = registry
        self._mover = mover
        self._placement = placement
        self._cluster = cluster
        self._absences = absences
        self._totals = totals

    @property
    def sessions(self) -> int:
        return len(self._registry)

    @property
    def statistics(self) -> TransferStatistics:
        return self._registry.statistics

    def totals(self) -> Totals:
        return self._totals()

    async def states(self) -> dict[str, int]:
        return await session_states(self._registry)

    def of_node(self, name: str) -> NodeCounts:
        return self._registry.of_node(name)

    async def refresh(self) -> None:
        await trio.lowlevel.checkpoint()

    async def session_rows(self) -> list[SessionRow]:
        await trio.lowlevel.checkpoint()
        return session_rows(self._registry, trio.current_time())

    async def transfer_rows(self) -> list[TransferRow]:
        await trio.lowlevel.checkpoint()
        ended, running = transfer_rows(self._registry, trio.current_time())
        return self._absences.complete(ended + running)

    async def plan(self, node: str) -> DrainForecast:
        await trio.lowlevel.checkpoint()
        return await forecast(self._registry, self._cluster, self._placement, node)

    async def plan_rebalance(self, max_share: float | None) -> RebalanceForecast:
        await trio.lowlevel.checkpoint()
        return await rebalance_forecast(self._registry, self._cluster, self._placement, max_share)

    async def move(self, jid: str, node: str) -> int:
        await trio.lowlevel.checkpoint()
        return self._mover.move(jid, node)

    def omissions(self) -> list[str]:
        return []

    def worker_rows(self) -> list[WorkerRow]:
        return [
            WorkerRow(
                number=1,
                pid=os.getpid(),
                state="up",
                sessions=len(self._registry),
                connections=self._registry.connections,
                deaths=0,
            )
        ]

    async def take_files(self, files: Files) -> list[str]:
        await trio.lowlevel.checkpoint()
        return []

    def tell_files(self, files: Files) -> None:
        pass


# --- the process


class Stoppable(Protocol):
    """What signals are for: a :class:`Proxy`, or a supervisor."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...

    def reload_on_signal(self) -> None: ...

    def restart_on_signal(self) -> None: ...


def run(config: Config, reread: Callable[[], Config] | None = None) -> int:
    """Serve until a signal ends it; the exit code. Raises :class:`ConfigError` where it can't begin.

    ``reread`` reads the settings as they are by now; ``None``: they come from nowhere that could change.
    """
    raise_descriptor_limit()
    try:
        return trio.run(_serve, config, reread)
    except BaseExceptionGroup as group:
        raise only(group) from group


def only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one fault of the operator's in a group that nurseries made; the group itself where there is another."""
    config_errors, rest = group.split(ConfigError)
    if config_errors is None or rest is not None:
        return group
    leaf: BaseException = config_errors
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf


async def _serve(config: Config, reread: Callable[[], Config] | None) -> int:
    proxy: Stoppable = Proxy(config, reread) if config.workers == 1 else Supervisor(config, reread)
    collector.settle()
    with trio.open_signal_receiver(*signals.ALL) as received:
        signals.release()
        try:
            async with trio.open_nursery() as nursery:
                start(nursery, Task.SIGNAL, partial(_obey, proxy, received, nursery.cancel_scope))
                await proxy.run()
                nursery.cancel_scope.cancel()
        finally:
            signals.hold()  # there is nothing left that they could mean
    return 0


async def _obey(proxy: Stoppable, received: AsyncIterator[int], everything: trio.CancelScope) -> None:
    """TERM and INT: leave in good order; the second time, at once. HUP: read the files again. USR2: new workers."""
    asked_to_stop = False
    async for number in received:
        with isolated(Task.SIGNAL, signal=signal.Signals(number).name):
            if number == signal.SIGHUP:
                proxy.reload_on_signal()
            elif number == signal.SIGUSR2:
                proxy.restart_on_signal()
            elif number == signal.SIGUSR1:
                emit(_log, "signal-ignored", signal="SIGUSR1", reason="it means nothing to this program")
            elif asked_to_stop:
                emit(_log, "stopped", cut=True)
                everything.cancel()
            else:
                asked_to_stop = True
                proxy.stop()
