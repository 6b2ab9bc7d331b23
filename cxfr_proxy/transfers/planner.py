"""A rebalance carried out in one process: its plan, and how much of it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.cluster.plan import ProposedMove
from cxfr_proxy.cluster.rebalance import plan_rebalance
from cxfr_proxy.session.ladder import Trigger
from cxfr_proxy.transfers.queues import Queues, Urgency, Waiting
from cxfr_proxy.transfers.rebalances import RebalanceCounts, Rebalancing
from cxfr_proxy.transfers.registry import Registry

LOOKED_AT_A_TIME: Final = 100
"""Sessions between two checkpoints: some milliseconds, in which no session is served."""


async def planned_moves(
    registry: Registry, cluster: Cluster, placement: Placement, max_share: float | None
) -> list[ProposedMove]:
    """What a rebalance comes to for this process's sessions, in the order of leaving, with those that would move but
    are left alone since their clients would stay down."""
    plan = plan_rebalance(
        registry.snapshot(trio.current_time()),
        cluster,
        placement,
        everywhere=registry.sessions_by_node(),
        before=registry.sessions_before,
        max_share=max_share,
    )
    moves = []
    for number, move in enumerate(plan):
        if number % LOOKED_AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        if move is not None:
            moves.append(move)
    return moves


class Planner:
    """Fills the queue of the rebalanced. ``queued`` is called when there are more, ``changed`` when there is something
    to say of it."""

    def __init__(
        self,
        registry: Registry,
        cluster: Cluster,
        placement: Placement,
        queues: Queues,
        *,
        queued: Callable[[], None],
        changed: Callable[[], object],
    ) -> None:
        self._registry = registry
        self._cluster = cluster
        self._placement = placement
        self._queues = queues
        self._queued = queued
        self._changed = changed
        self._order: Rebalancing | None = None
        self._planned: int | None = None  # None: not yet
        self._held: dict[int, float] = {}  # until when, by session
        self._only: frozenset[int] | None = None  # None: whoever has to be moved
        self._before = replace(registry.rebalanced)
        self._told = trio.Event()

    def follow(self, order: Rebalancing | None) -> None:
        """That one goes on, or none; the same again is nothing new."""
        if order != self._order:
            self._queues.clear(Urgency.REBALANCED)
            self._order, self._planned = order, None
            if order is not None:  # else it is over, and the next one may be for those who were held
                self._only = frozenset(self._held) if order.again else None
                self._held.clear()
            self._before = replace(self._registry.rebalanced)
            self._told.set()

    def hold(self, session_id: int, until: float) -> None:
        """That one was moved too lately to be moved again before that time."""
        self._held[session_id] = until
        self._changed()

    def counts(self, announced: int = 0) -> RebalanceCounts:
        """Of the one that goes on; of number 0 where none does. ``announced``: sessions taken out of the queue that are
        about to be asked."""
        if self._order is None:
            return RebalanceCounts()
        now, before = self._registry.rebalanced, self._before
        return RebalanceCounts(
            self._order.number,
            self._planned is None,
            self._planned or 0,
            asked=now.asked - before.asked,
            moved=now.moved - before.moved,
            refused=now.refused - before.refused,
            silent=now.silent - before.silent,
            failed=now.failed - before.failed,
            left=self._queues.length(Urgency.REBALANCED) + announced + now.asked - now.moved - now.failed,
            held=len(self._held),
            held_seconds=max(0.0, max(self._held.values(), default=0.0) - trio.current_time()),
        )

    def _is_meant(self, move: ProposedMove) -> bool:
        return self._only is None or move.session_id in self._only

    async def run(self) -> None:
        """Plan what is told, until cancelled."""
        while True:
            await self._told.wait()
            self._told = trio.Event()
            order = self._order
            if order is None:
                continue
            planned = await planned_moves(self._registry, self._cluster, self._placement, order.max_share)
            if order != self._order:
                continue  # there is another one by now
            moves = [move for move in planned if not move.stays_down and self._is_meant(move)]
            for move in moves:
                self._queues.put(Waiting(move.session_id, Urgency.REBALANCED, Trigger.REBALANCE, move.target))
            self._planned = len(moves)
            self._queued()
            self._changed()
