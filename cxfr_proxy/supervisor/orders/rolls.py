"""Carry out rolling restarts: one order, which outlives the command line that gave it, the workers and this process.

:mod:`cxfr_proxy.cluster.roll` decides; here it is done. The proxy itself restarts nothing: it says that a node can be
restarted, and the command line that waits, or an operator, does it. So whoever can reach the control socket can't have
the proxy run anything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from cxfr_proxy.admin.console.drains import DrainControl
from cxfr_proxy.admin.console.parts import Drainer, Peers
from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import Health
from cxfr_proxy.cluster.roll import NodeView, Roll, RollAction, RollRecord, RollStep
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.supervisor.orders.state_keeper import StateKeeper
from cxfr_proxy.transfers.rebalances import Rebalances
from cxfr_proxy.units import part_of

_LOOK_SECONDS: Final = 0.1
_RESTARTED: Final = "the proxy was restarted"

_log = logging.getLogger(__name__)


class Rolls:
    """One roll at a time. A :class:`~cxfr_proxy.admin.console.parts.Roller`."""

    def __init__(
        self,
        cluster: Cluster,
        drains: DrainControl,
        drainer: Drainer,
        rebalances: Rebalances,
        peers: Peers,
        feed: ChangeFeed,
        kept: StateKeeper,
    ) -> None:
        self._cluster = cluster
        self._drains = drains
        self._drainer = drainer
        self._rebalances = rebalances
        self._peers = peers
        self._feed = feed
        # Command lines that are there and restart nodes. A number, since that of an aborted roll may still be there
        # when the next roll has its own.
        self._runs = 0
        self._kept = kept
        self._work = trio.Event()
        self.last: Roll | None = None

    @property
    def current(self) -> Roll | None:
        """Return the roll that is not over, although it may have stopped; ``None``: there is none."""
        return self.last if self.last is not None and self.last.node is not None else None

    def go_on(self) -> None:
        """Take up the roll of the proxy whose place this one has taken, as it goes on."""
        record = self._kept.state.roll
        if record is not None:
            self.last = Roll(record, trio.current_time())
            self._changed(record)

    def load(self) -> None:
        """Take up a roll that was not over when the proxy ended; it has stopped where it was."""
        record = self._kept.state.roll
        self.last = None
        if record is not None:
            self.last = Roll(record, trio.current_time())
            if record.stopped is None and record.node is not None:
                self.last.stop(_RESTARTED)
            self._changed(record)

    # --- what the operator says

    def begin(
        self, nodes: Sequence[str], *, rate: float | None = None, deadline: float | None = None, by_command: bool
    ) -> None:
        if self.current is not None:
            raise ConfigError(
                f"a roll is at {self.current.node} already: roll --continue goes on with it, roll --abort gives it up"
            )
        for name in nodes:
            if self._cluster.get(name).removed:
                raise ConfigError(f"node '{name}' is no longer listed")
        refused = self._drains.refused_without(nodes[0])
        if refused is not None:
            raise ConfigError(
                f"nothing is done: while '{nodes[0]}' is drained {refused} is refused, for no other node is ready and"
                " up"
            )
        self._rebalances.stop()  # it would move users to nodes that are about to be restarted
        record = RollRecord(tuple(nodes), rate, deadline, by_command)
        emit(_log, "roll-begins", nodes=",".join(nodes))
        self.last = Roll(record, trio.current_time())
        self._changed(record)

    def proceed(self, *, by_command: bool) -> None:
        roll = self._current()
        if by_command and self._runs:
            raise ConfigError("another command line restarts the nodes, and goes on with it")
        before = roll.record
        if roll.stopped is not None or by_command:
            drained = roll.node in self._drainer.drains
            roll.proceed(trio.current_time(), by_command=by_command, drained=drained)
            self._changed(before)

    def restarted(self, node: str) -> None:
        roll = self._current()
        if node != roll.node or roll.record.step not in (RollStep.RESTART, RollStep.RETURN):
            raise ConfigError(f"it is not the turn of '{node}' to be restarted: the roll is at {_place(roll)}")
        before = roll.record
        roll.restarted(trio.current_time())
        self._changed(before)

    def fail(self, reason: str) -> None:
        roll = self._current()
        if not roll.awaits_restart:
            raise ConfigError(f"no node is to be restarted now: the roll is at {_place(roll)}")
        before = roll.record
        roll.stop(f"restarting it has failed: {reason}")
        self._changed(before)

    def abort(self) -> str:
        roll = self._current()
        node = roll.node
        assert node is not None
        self.last = None  # first: whoever hears of what follows must not find a roll that goes on
        for name in roll.record.nodes:
            self._mark(name, to_restart=False)
        drain = self._drainer.drains.get(node)
        if drain is not None and not drain.over:
            self._drains.abort(node)
        self._keep()
        emit(_log, "roll-ends", level=logging.WARNING, done=roll.record.done, reason="an operator has given it up")
        self._feed.changed()
        return node

    @contextmanager
    def running_commands(self) -> Iterator[None]:
        """Have a command line restart nodes for the duration of the block."""
        self._runs += 1
        try:
            yield
        finally:
            self._runs -= 1

    def _current(self) -> Roll:
        if self.current is None:
            raise ConfigError("no roll goes on")
        return self.current

    def _changed(self, before: RollRecord) -> None:
        """Do what follows from its having changed; ``before``: as it was."""
        assert self.last is not None
        self._mark_all(self.last.record)
        self._keep()
        _report(before, self.last.record)
        self._work.set()
        self._feed.changed()

    # --- carrying it out

    async def run(self) -> None:
        """Carry it out until cancelled."""
        while True:
            roll = self.current
            if roll is None:
                self._work = trio.Event()
                await self._work.wait()
                continue
            if roll.stopped is None:
                self._look(roll)
            else:
                self._mark_all(roll.record)  # a node may have left the list and be there again
            # Looked at, and not told: a roll depends on health, drains, settling and command lines, and a tenth of a
            # second is nothing beside a restart.
            await trio.sleep(_LOOK_SECONDS)

    def _look(self, roll: Roll) -> None:
        before, now = roll.record, trio.current_time()
        assert before.node is not None
        down = self._cluster.down_of(before.nodes[: before.done])
        match roll.look(self._view(before.node), now, down=down, runs=self._runs > 0):
            case RollAction.DRAIN:
                try:
                    self._drains.begin(before.node, rate=before.rate, deadline=before.deadline)
                except ConfigError as exc:
                    roll.stop(str(exc))
            case RollAction.READY:
                self._drains.undrain(before.node, rebalance=False)
                roll.is_ready(now)
            case None:
                pass
        if roll.record != before:
            self._changed(before)
        else:
            self._mark_all(before)

    def _view(self, name: str) -> NodeView | None:
        if name not in self._cluster or self._cluster.get(name).removed:
            return None
        node, drain = self._cluster.get(name), self._drainer.drains.get(name)
        up = node.health is Health.UP
        if drain is None:
            return NodeView.of(node, up=up, drained=False, drain_failure="its drain was called off")
        progress = self._drains.progress(drain)
        drained = progress.finished and not progress.left and self._drainer.is_done(name)
        left = f"{part_of(progress.left, progress.total, 'session')} left at the deadline"
        failure = (progress.waiting_reason or left) if progress.finished and not drained else None
        return NodeView.of(node, up=up, drained=drained, drain_failure=failure)

    def _mark_all(self, record: RollRecord) -> None:
        """Have users placed on nodes that have still to be restarted only if no others take them."""
        for place, name in enumerate(record.nodes):
            self._mark(name, to_restart=place >= record.done)

    def _mark(self, name: str, *, to_restart: bool) -> None:
        if name in self._cluster and self._cluster.get(name).to_restart is not to_restart:
            self._cluster.get(name).to_restart = to_restart
            self._peers.share_directive(name, rebalance=False)

    def _keep(self) -> None:
        """Write down how far it is."""
        self._kept.keep_roll(self.current.record if self.current is not None else None)


def _place(roll: Roll) -> str:
    return f"{roll.node}, step {roll.record.step}"


def _report(before: RollRecord, record: RollRecord) -> None:
    if record.stopped is not None:
        emit(
            _log,
            "roll-stops",
            level=logging.WARNING,
            node=record.node,
            step=str(record.step),
            done=record.done,
            reason=record.stopped,
        )
    elif record.node is None:
        emit(_log, "roll-ends", done=record.done)
    elif before.stopped is not None:
        emit(_log, "roll-goes-on", node=record.node, step=str(record.step), done=record.done)
    elif (record.node, record.step) != (before.node, before.step):
        emit(_log, "roll-step", node=record.node, step=str(record.step), done=record.done)
