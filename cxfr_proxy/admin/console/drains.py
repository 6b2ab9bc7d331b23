"""Drains, as an operator begins, plans, watches and ends them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial

import trio

from cxfr_proxy.admin.console.parts import AutoRebalance, Drainer, Peers, Sessions
from cxfr_proxy.admin.feed import ChangeFeed, follow
from cxfr_proxy.admin.rows.order_rows import DrainPlan, DrainProgress, PlannedTarget, RungCounts
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.drains import Drain
from cxfr_proxy.transfers.statistics import OutcomeCounts, TriedRung, count_outcome

_log = logging.getLogger(__name__)


class DrainControl:
    """``auto`` is ``None`` where nothing is rebalanced by itself. Each method raises :class:`ConfigError` for a node
    that is not listed."""

    def __init__(
        self,
        cluster: Cluster,
        drainer: Drainer,
        sessions: Sessions,
        peers: Peers,
        feed: ChangeFeed,
        auto: AutoRebalance | None = None,
    ) -> None:
        self._cluster = cluster
        self._drainer = drainer
        self._sessions = sessions
        self._peers = peers
        self._feed = feed
        self.domains: Sequence[str] = ()
        """The keys of those that the proxy serves; none where it serves any. Like the next one it follows the
        settings."""
        self.closing_seconds = 0.0
        """How long a client that is closed at the deadline may take to be gone."""
        self._auto = auto

    def begin(
        self,
        node: str,
        *,
        grace: float | None = None,
        deadline: float | None = None,
        rate: float | None = None,
        force: bool = False,
    ) -> None:
        """Place nobody on ``node``, and start moving everybody off it when ``grace`` is over; return at once.

        ``grace`` and ``deadline`` in seconds from now, ``None`` for none; ``rate`` in transfers per second, ``None``
        for the setting. Again for the same node: the drain goes on, with what is given anew. Raises
        :class:`ConfigError` for a deadline within the grace, and, unless ``force``, where :meth:`refused_without` says
        something.
        """
        listed = self._cluster.get(node)
        _check_times(grace, deadline)
        refused = self.refused_without(node)
        if refused is not None and not force:
            raise ConfigError(
                f"nothing is done: while '{node}' is drained {refused} is refused, for no other node is ready and up;"
                " --force drains it all the same"
            )
        listed.set_admin_state(AdminState.DRAIN)  # before the drain begins: its sessions must find other nodes
        self._drainer.drain(node, grace=grace, deadline=deadline, rate=rate)
        self._peers.share_directive(node)

    def refused_without(self, node: str) -> str | None:
        """Say whose logins no other node would take if this one took none.

        ``every login``, or ``every login for`` some domains; ``None``: there are others for all of them.
        """
        unserved = self._cluster.unserved_without(node, self.domains)
        if unserved is None:
            return None
        return f"every login for {', '.join(unserved)}" if unserved else "every login"

    async def plan(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> DrainPlan:
        """Return what :meth:`begin` would come to. Changes nothing; raises like it."""
        self._cluster.get(node)
        _check_times(grace, deadline)
        plan = await self._sessions.plan(node)
        rate = (rate if rate is not None else self._drainer.rate) * self._drainer.share
        targets = [
            PlannedTarget(each.name, plan.targets[each.name]) for each in self._cluster if each.name in plan.targets
        ]
        if plan.unplaced:
            targets.append(PlannedTarget(None, plan.unplaced))
        return DrainPlan(
            node=node,
            sessions=plan.sessions,
            inactive=plan.inactive,
            targets=targets,
            rate=rate,
            seconds=plan.seconds(rate, grace=grace, deadline=deadline, paced_rate=self._drainer.paced_rate),
            paced_rate=self._drainer.paced_rate,
            stay_down=plan.stay_down,
            migrate=plan.migrate,
            refuses_logins=self.refused_without(node),
        )

    def abort(self, node: str) -> None:
        """Move nobody off ``node`` any more, and still place nobody there; :meth:`begin` goes on.

        Raises :class:`ConfigError` for a node that isn't drained.
        """
        self._cluster.get(node)
        if node not in self._drainer.drains:
            raise ConfigError(f"node '{node}' is not being drained")
        self._drainer.abort(node)
        self._peers.share_directive(node)

    def undrain(self, node: str, *, rebalance: bool = True) -> None:
        """Stop a drain and place clients on ``node`` again. Does nothing if it isn't drained.

        ``rebalance``: users who belong there may be moved there by themselves; else only by a later rebalance. Raises
        :class:`ConfigError` for a node whose line is gone.
        """
        listed = self._cluster.get(node)
        if listed.removed:
            raise ConfigError(f"node '{node}' is no longer listed; put it back first")
        listed.set_admin_state(AdminState.READY)
        listed.to_restart = False
        self._drainer.undrain(node)
        if self._auto is not None:
            self._auto.excuse(node, excused=not rebalance)
        self._peers.share_directive(node, rebalance=rebalance)
        emit(_log, "undrain", node=node, sessions=self._drainer.left(node), rebalance=None if rebalance else False)

    def follow(self, node: str) -> AsyncGenerator[DrainProgress, None]:
        """Return how far the drain is, again and again until its end; see :func:`~cxfr_proxy.admin.feed.follow`.

        Raises :class:`ConfigError` for a node that isn't drained.
        """
        self._cluster.get(node)
        drain = self._drainer.drains.get(node)
        if drain is None:
            raise ConfigError(f"node '{node}' is not being drained")
        return follow(self._feed, partial(self.progress, drain))

    def progress_rows(self) -> list[DrainProgress]:
        """Return how far the drain of each node is that is drained, until it takes clients again."""
        return [self.progress(drain) for drain in self._drainer.drains.values()]

    def progress(self, drain: Drain) -> DrainProgress:
        """Return how far that drain is."""
        counts = self._sessions.of_node(drain.node)
        moved = counts.moved - drain.moved_before
        elsewhere = self._peers.left_elsewhere(drain.node)
        left = self._drainer.left(drain.node) + (elsewhere or 0)
        now = trio.current_time()
        overdue = drain.deadline is not None and now > drain.deadline + self.closing_seconds
        overdue = overdue and drain.settling_seconds(now) is None
        undrained = self._drainer.drains.get(drain.node) is not drain
        aborted = drain.stage is Stage.ABORTED
        return DrainProgress(
            node=drain.node,
            total=max(drain.total, moved + left),
            asked=counts.asked - drain.asked_before,
            moved=moved,
            refused=counts.refused - drain.refused_before,
            silent=counts.silent - drain.silent_before,
            failed=counts.failed - drain.failed_before,
            returned=counts.returned - drain.returned_before,
            left=left,
            finished=self._is_safe(drain, left) or overdue or undrained or aborted,
            waiting_reason="the drain was called off" if undrained else drain.reason or _not_all(elsewhere),
            settling_seconds=drain.settling_seconds(now),
            rungs=_rungs(self._sessions.statistics.tried_on(drain.node) - drain.tried_before),
            per_second=drain.per_second if left and not drain.over else None,
            paced_by=self._sessions.moves().reason if left and not drain.over else None,
        )

    def _is_safe(self, drain: Drain, left: int) -> bool:
        """Return whether the node can be stopped without harm to a session."""
        node = drain.node
        elsewhere = self._peers.left_elsewhere(node) is None or self._peers.settles_elsewhere(node)
        return not (left or elsewhere) and self._drainer.is_done(node)


def _rungs(tried: Mapping[TriedRung, int]) -> list[RungCounts]:
    counted = {rung: OutcomeCounts() for rung in Rung if any(each.rung is rung for each in tried)}
    for each, count in tried.items():
        count_outcome(counted[each.rung], each.outcome, count)
    return [RungCounts(rung, each.moved, each.refused, each.silent, each.failed) for rung, each in counted.items()]


def _not_all(elsewhere: int | None) -> str | None:
    return "other proxies have not said yet that they empty it" if elsewhere is None else None


def _check_times(grace: float | None, deadline: float | None) -> None:
    if grace is not None and deadline is not None and grace >= deadline:
        raise ConfigError("expected a grace that is over before the deadline: nobody would be asked otherwise")
