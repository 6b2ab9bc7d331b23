"""Share with the other proxies what this one was told, and carry out what another one was told; or, where there are no
others, keep it for the next start.

An operator's command is carried out here at once and then written down for all. A directive that another proxy was
given comes with the next reading of the nodes, whose admin states contain it already; the drain's times, its rate, and
whether it was aborted are carried out here. Without other proxies (a file, DNS) nothing of this happens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Protocol

import trio

from cxfr_proxy.admin.console.parts import AutoRebalance
from cxfr_proxy.admin.rows.rows import ProxyRow, SourceRow
from cxfr_proxy.cluster.assigned import MAX_PINS, Pins
from cxfr_proxy.cluster.kept_state import KeptState
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.shared import Directive, ProxyState
from cxfr_proxy.cluster.sources.source import NodeSource, Shared
from cxfr_proxy.events import emit
from cxfr_proxy.spellings import user_key
from cxfr_proxy.supervisor.orders.drain_keeper import NodeDrainer
from cxfr_proxy.tasks import Task, keep_going, start
from cxfr_proxy.transfers.drain_stages import Schedule, Stage

_REPORT_SECONDS = 0.5
"""Seconds between two reports of how much there is to move."""
_SHOWN_NAMES = 50
"""Most names in a log line."""

_log = logging.getLogger(__name__)


class SessionCounter(Protocol):
    """Knows how many sessions this proxy has."""

    @property
    def sessions(self) -> int: ...


class KeptOrders(Protocol):
    """Keeps what holds at the next start as well."""

    @property
    def state(self) -> KeptState:
        """Return what is kept."""

    def keep_order(self, node: str, order: Directive | None) -> None:
        """Keep what the operator wants of that node; ``None``: nothing but what the list says."""

    def keep_pin(self, user: str, node: str | None) -> None:
        """Keep a user's pin, by the user's key; ``None``: there is none any more."""


class PeerProxies:
    """The other proxies. ``kept`` is used where there are none; ``wall_clock`` is the same on all machines. ``auto`` is
    told of a node whose return is to move no users; ``None``: no rebalance begins by itself."""

    def __init__(
        self,
        source: NodeSource,
        cluster: Cluster,
        drainer: NodeDrainer,
        pins: Pins,
        counter: SessionCounter,
        kept: KeptOrders,
        auto: AutoRebalance | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._shared = source.shared
        self._cluster = cluster
        self._drainer = drainer
        self._pins = pins
        self._counter = counter
        self._kept = kept
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
        # With clients that are awaited: until they have fetched their session, it would die with the node.
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
        # One that says nothing of the node has not heard of the drain yet, and may have all of its clients there.
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
        listed = self._cluster.get(node)
        directive = replace(self._directive_now(node), rebalance=rebalance, to_restart=listed.to_restart)
        if self._shared is not None:
            self._carried_out[node] = directive  # before it comes back with the next reading
            self._shared.set_directive(node, directive)
        elif listed.to_restart or directive.admin_state is not listed.spec.admin_state or node in self._drainer.drains:
            self._kept.keep_order(node, replace(directive, against=listed.spec.admin_state))
        else:
            self._kept.keep_order(node, None)  # as the list has it

    def _directive_now(self, node: str) -> Directive:
        admin_state, drain = self._cluster.get(node).admin_state, self._drainer.drains.get(node)
        if drain is None or admin_state is AdminState.READY:
            return Directive(admin_state)
        if drain.schedule is None:
            return Directive(admin_state, aborted=drain.stage is Stage.ABORTED)
        by_wall = drain.schedule.shifted(self._ahead())
        return Directive(admin_state, by_wall.grace_end, by_wall.halfway, by_wall.deadline, self._drainer.asked_rate)

    def begin(self, directives: Mapping[str, Directive]) -> None:
        """Carry out what held when the last proxy ended: the directives that all have together, or what was kept."""
        if self._shared is not None:
            self.carry_out(directives)
            return
        self._forget_void()
        self._take_up(self._kept.state.orders)
        for user, node in self._kept.state.pins.items():
            self._pins.set(user, node)
        unknown = sorted({node for node in self._kept.state.pins.values() if node not in self._cluster})
        if unknown:
            emit(_log, "pins-unknown-nodes", level=logging.WARNING, nodes=", ".join(unknown[:_SHOWN_NAMES]))

    def take_over(self, before: KeptState) -> None:
        """Have the orders and pins hold that are kept now, where they are others than those ``before``, which hold."""
        if self._shared is not None:
            return
        now = self._kept.state
        for node in [name for name in before.orders if name not in now.orders and name in self._cluster]:
            listed = self._cluster.get(node)
            listed.set_admin_state(listed.spec.admin_state)
            listed.to_restart = False
            self._drainer.undrain(node)
        for user in before.pins.keys() - now.pins.keys():
            self._pins.set(user, None)
        self._forget_void()
        self._take_up({node: order for node, order in now.orders.items() if before.orders.get(node) != order})
        for user, node in now.pins.items():
            if before.pins.get(user) != node:
                self._pins.set(user, node)

    def _take_up(self, orders: Mapping[str, Directive]) -> None:
        for node, order in orders.items():
            self._cluster.get(node).set_admin_state(order.admin_state)
            self._mark(node, to_restart=order.to_restart)
            if order.admin_state is not AdminState.READY:
                self._carry_out(node, order)
            elif node in self._drainer.drains:
                self._drainer.undrain(node)

    def _forget_void(self) -> None:
        """Forget what was ordered about nodes that have left the list, or whose ``state=`` says something new."""
        for node, order in list(self._kept.state.orders.items()):
            listed = self._cluster.get(node) if node in self._cluster else None
            if listed is None or listed.removed:
                reason = "it is no longer in the list"
            elif not order.holds(listed.spec):
                reason = f"its state= says {listed.spec.admin_state} now"
            else:
                continue
            self._kept.keep_order(node, None)
            emit(_log, "order-void", node=node, order=str(order.admin_state), reason=reason)

    def carry_out(self, directives: Mapping[str, Directive]) -> None:
        """Carry out all directives that hold now, except those that are known already."""
        if self._shared is None:
            self._forget_void()
            return
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
        key = user_key(user)
        if self._shared is None:
            self._kept.keep_pin(key, node)
            return
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
