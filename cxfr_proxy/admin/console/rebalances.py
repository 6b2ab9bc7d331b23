"""Rebalances, as an operator begins, plans, watches and stops them; and what the return of a node leads to."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

import trio

from cxfr_proxy.admin.console.parts import AutoRebalance, Drainer, Sessions
from cxfr_proxy.admin.feed import ChangeFeed, follow
from cxfr_proxy.admin.rows.order_rows import PlannedMove, RebalancePlan, RebalanceProgress, Returning
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import Health
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.transfers.rebalances import Rebalance, Rebalances


class RebalanceControl:
    """``auto`` is ``None`` where nothing is rebalanced by itself."""

    def __init__(
        self,
        cluster: Cluster,
        rebalances: Rebalances,
        sessions: Sessions,
        drainer: Drainer,
        feed: ChangeFeed,
        auto: AutoRebalance | None = None,
    ) -> None:
        self._cluster = cluster
        self._rebalances = rebalances
        self._sessions = sessions
        self._drainer = drainer
        self._feed = feed
        self._auto = auto

    def begin(self, *, rate: float | None = None, max_share: float | None = None) -> None:
        """Start moving users who are elsewhere than they belong, in place of a rebalance that goes on; return at once.

        ``rate`` in transfers per second, ``None`` for the setting; ``max_share``: at most so many percent of each
        node's sessions, ``None``: all that have to. Raises :class:`ConfigError` while nodes are restarted one after the
        other.
        """
        if self._cluster.rolling:
            raise ConfigError("a roll goes on, and whoever is moved now would be moved again: see show roll")
        self._rebalances.begin(rate=rate, max_share=max_share)

    async def plan(self, *, rate: float | None = None, max_share: float | None = None) -> RebalancePlan:
        """Return what :meth:`begin` would come to. Changes nothing."""
        plan = await self._sessions.plan_rebalance(max_share)
        rate = (rate if rate is not None else self._drainer.rate) * self._drainer.share
        places = {node.name: place for place, node in enumerate(self._cluster)}
        moves = [
            PlannedMove(source, target, sessions)
            for source, targets in plan.moves.items()
            for target, sessions in targets.items()
            if sessions and source in places and target in places
        ]
        moves.sort(key=lambda move: (places[move.source], places[move.target]))
        return RebalancePlan(
            plan.sessions,
            plan.inactive,
            moves,
            rate,
            seconds=plan.sessions / rate,
            stay_down=plan.stay_down,
            held=plan.held,
            held_seconds=plan.held_seconds,
        )

    async def plan_return(self, node: str) -> Returning:
        """Return what follows from undraining that node. Raises :class:`ConfigError` for one that is not listed."""
        listed, auto = self._cluster.get(node), self._auto
        plan = await self._sessions.plan_rebalance(None)
        return Returning(
            node=node,
            up=listed.health is Health.UP,
            to_move=plan.sessions,
            held=plan.held,
            begins_in=auto.seconds_until_due() if auto is not None else None,
        )

    def stop(self) -> None:
        """Ask nobody more. Raises :class:`ConfigError` where no rebalance goes on."""
        if not self._rebalances.stop():
            raise ConfigError("no rebalance goes on")

    def follow(self) -> AsyncGenerator[RebalanceProgress, None]:
        """Return how far the latest one is, again and again until its end; see :func:`~cxfr_proxy.admin.feed.follow`.

        Raises :class:`ConfigError` where there was none.
        """
        rebalance = self._rebalances.last
        if rebalance is None:
            raise ConfigError("no rebalance goes on")
        return follow(self._feed, partial(self._progress, rebalance))

    def progress_rows(self) -> list[RebalanceProgress]:
        """Return how far the rebalance is that goes on; none where none does."""
        rebalance = self._rebalances.current
        return [self._progress(rebalance)] if rebalance is not None else []

    def _progress(self, rebalance: Rebalance) -> RebalanceProgress:
        self._rebalances.look()  # with the counts as they are now, it may be over
        return _progress(rebalance, trio.current_time())


def _progress(rebalance: Rebalance, now: float) -> RebalanceProgress:
    counts = rebalance.counts
    why_not = "it is being planned" if not rebalance.planned else rebalance.held_reason(now)
    return RebalanceProgress(
        total=counts.planned,
        asked=counts.asked,
        moved=counts.moved,
        refused=counts.refused,
        silent=counts.silent,
        failed=counts.failed,
        left=counts.left + counts.held,
        finished=rebalance.ended is not None,
        waiting_reason=rebalance.ended or why_not,
        held=counts.held,
        held_seconds=max(0.0, rebalance.again_at - now) if rebalance.again_at is not None else None,
    )
