"""Share with the other proxies what this one was told, and carry out what another one was told.

An operator's command is carried out here at once and then written down for all. A directive that another proxy was
given comes with the next reading of the nodes, whose admin states contain it already; the drain's times, its rate, and
whether it was aborted are carried out here. Without other proxies (a file, DNS) nothing of this happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Protocol

import trio

from cxfr_proxy.admin.parts import AutoRebalance
from cxfr_proxy.admin.rows import ProxyRow, SourceRow
from cxfr_proxy.cluster.assigned import MAX_PINS, Pins
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.shared import Directive, ProxyState
from cxfr_proxy.cluster.sources.source import NodeSource, Shared
from cxfr_proxy.spellings import user_key
from cxfr_proxy.supervisor.drains import NodeDrainer
from cxfr_proxy.tasks import Task, keep_going, start
from cxfr_proxy.transfers.drain_stages import Schedule, Stage

_REPORT_SECONDS = 0.5
"""Seconds between two reports of how much there is to move."""


class SessionCounter(Protocol):
    """Knows how many sessions this proxy has."""

    @property
    def sessions(self) -> int: ...


class PeerProxies:
    """The other proxies. ``usual_rate`` is the setting; ``wall_clock`` is the same on all machines. ``auto`` is told of
    a node whose return is to move no users; ``None``: no rebalance begins by itself."""

    def __init__(
        self,
        source: NodeSource,
        cluster: Cluster,
        drainer: NodeDrainer,
        pins: Pins,
        counter: SessionCounter,
        usual_rate: float,
        auto: AutoRebalance | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._shared = source.shared
        self._cluster = cluster
        self._drainer = drainer
        self._pins = pins
        self._counter = counter
        self.usual_rate = usual_rate
        self._auto = auto
        self._wall_clock = wall_clock
        self._carried_out: dict[str, Directive] = {}
        if self._shared is not None:
            self._shared.on_share = drainer.set_share
            self._shared.on_pins = self._take_pins

    async def run(self) -> None:
        """Keep up with the others until cancelled."""
        if self._shared is None:
            return
        async with trio.open_nursery() as nursery:
            start(nursery, Task.ETCD, self._shared.run)
            await keep_going(Task.SHARING, partial(self._keep_reporting, self._shared))

    async def _keep_reporting(self, shared: Shared) -> None:
        while True:
            shared.report(self._state())
            await trio.sleep(_REPORT_SECONDS)

    def _state(self) -> ProxyState:
        leaving = (node.name for node in self._cluster if node.leaving)
        left = {name: self._drainer.left(name) + self._drainer.awaited(name) for name in leaving}
        settling = tuple(name for name, sessions in left.items() if not sessions and not self._drainer.is_done(name))
        return ProxyState(self._counter.sessions, self._drainer.to_move, left, settling)

    def left_elsewhere(self, node: str) -> int | None:
        """Return how many clients other proxies have on a node that is being emptied; ``None``: not all have
        reported that they know of it."""
        if self._shared is None:
            return 0
        said = [state.left.get(node) for name, state in self._shared.proxies.items() if name != self._shared.id]
        known = [left for left in said if left is not None]
        return sum(known) if len(known) == len(said) else None

    def settles_elsewhere(self, node: str) -> bool:
        """Return whether another proxy has emptied the node so lately that it must not be stopped yet."""
        return self._shared is not None and any(
            node in state.settling for name, state in self._shared.proxies.items() if name != self._shared.id
        )

    # --- directives

    def share_directive(self, node: str, *, rebalance: bool = True) -> None:
        """Share an operator's command about that node, which was carried out here. ``rebalance``: see
        :class:`~cxfr_proxy.cluster.shared.Directive`."""
        if self._shared is not None:
            to_restart = self._cluster.get(node).to_restart
            directive = replace(self._directive_now(node), rebalance=rebalance, to_restart=to_restart)
            self._carried_out[node] = directive
            self._shared.set_directive(node, directive)

    def _directive_now(self, node: str) -> Directive:
        admin_state, drain = self._cluster.get(node).admin_state, self._drainer.drains.get(node)
        if drain is None or admin_state is AdminState.READY:
            return Directive(admin_state)
        if drain.schedule is None:
            return Directive(admin_state, aborted=drain.stage is Stage.ABORTED)
        by_wall = drain.schedule.shifted(self._ahead())
        rate = self._drainer.rate if self._drainer.rate != self.usual_rate else None
        return Directive(admin_state, by_wall.grace_end, by_wall.halfway, by_wall.deadline, rate)

    def carry_out(self, directives: Mapping[str, Directive]) -> None:
        """Carry out all directives that hold now, except those that are known already."""
        for node in self._carried_out.keys() - directives.keys():
            self._mark(node, to_restart=False)
        for node, directive in directives.items():
            known = self._carried_out.get(node)
            if not _same(directive, known):
                self._mark(node, to_restart=directive.to_restart)
            # "Ready" needs nothing here: the admin state that the list has says it, and the drain ends with it.
            if node in self._cluster and directive.admin_state is not AdminState.READY and not _same(directive, known):
                self._carry_out(node, directive)
            elif self._auto is not None and not directive.rebalance and not _same(directive, known):
                self._auto.excuse(node)
        self._carried_out = dict(directives)

    def _mark(self, node: str, *, to_restart: bool) -> None:
        if node in self._cluster:
            self._cluster.get(node).to_restart = to_restart

    def _carry_out(self, node: str, directive: Directive) -> None:
        if directive.aborted:
            self._drainer.adopt(node, None, None)
        elif directive.grace_end is None:  # an admin state alone, as somebody has written it by hand
            self._drainer.drain(node)
        else:
            schedule = Schedule(directive.grace_end, directive.halfway, directive.deadline).shifted(-self._ahead())
            self._drainer.adopt(node, schedule, directive.rate)

    def _ahead(self) -> float:
        """Return that time by trio's clock, which begins anywhere."""
        return self._wall_clock() - trio.current_time()

    # --- pins

    def share_pin(self, user: str, node: str | None) -> None:
        """Share a pin; ``None``: it is gone."""
        if self._shared is None:
            return
        key = user_key(user)
        # Another spelling of the same user would win or lose by chance.
        for name in [name for name in self._shared.pins if user_key(name) == key and name != key]:
            self._shared.set_pin(name, None)  # written by hand, in another spelling
        self._shared.set_pin(key, node)

    def _take_pins(self) -> None:
        """Take over the pins as all proxies have them now."""
        assert self._shared is not None
        pins = {user_key(user): node for user, node in islice(self._shared.pins.items(), MAX_PINS)}
        for key in self._pins.nodes.keys() - pins.keys():
            self._pins.set(key, None)
        for key, node in pins.items():
            if self._pins.nodes.get(key) != node:
                self._pins.set(key, node)

    # --- what there is to say

    @property
    def caveat(self) -> str | None:
        """The addition to the answer of a command; ``None``: none."""
        lost_at = self._source.status.lost_at
        if self._shared is None or lost_at is None:
            return None
        seconds = trio.current_time() - lost_at
        return f"only this proxy knows: etcd has been away for {seconds:.0f} s, and hears of it when it is back"

    def source_row(self) -> SourceRow:
        status, shared = self._source.status, self._shared
        since = status.since
        return SourceRow(
            source=self._source.name,
            state=str(status.state),
            lost_seconds=trio.current_time() - since if since is not None else None,
            reason=status.reason,
            nodes=sum(not node.removed for node in self._cluster),
            proxies=len(shared.proxies) if shared is not None else None,
            rate=self._drainer.rate * self._drainer.share,
            pending=shared.pending if shared is not None else 0,
        )

    def proxy_rows(self) -> list[ProxyRow]:
        """Return the proxies that live, as they have reported; this one alone if nothing is shared."""
        if self._shared is None:
            return [ProxyRow("this", own=True, sessions=self._counter.sessions, to_move=self._drainer.to_move)]
        return [
            ProxyRow(name, own=name == self._shared.id, sessions=state.sessions, to_move=state.to_move)
            for name, state in sorted(self._shared.proxies.items())
        ]


def _same(directive: Directive, known: Directive | None) -> bool:
    """Return whether it asks for the same; ``against`` is the store's affair."""
    return known is not None and replace(directive, against=None) == replace(known, against=None)
