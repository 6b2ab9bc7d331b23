"""A rebalance carried out in one process: its plan, and how much of it is done."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

import trio

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.cluster.plan import ProposedMove
from cxfr_proxy.cluster.rebalance import plan_rebalance
from cxfr_proxy.session.ladder import Trigger
from cxfr_proxy.transfers.orders import Orders
from cxfr_proxy.transfers.queues import Queues, QueueWatcher, Urgency, Waiting
from cxfr_proxy.transfers.rebalances import RebalanceCounts, RebalanceTerms
from cxfr_proxy.transfers.registry import Registry

LOOKED_AT_A_TIME: Final = 100
"""Sessions between two checkpoints: some milliseconds, during which no session is served."""


async def planned_moves(
    registry: Registry, cluster: Cluster, placement: Placement, max_share: float | None, *, migrates: bool
) -> list[ProposedMove]:
    """Plan a rebalance for this process's sessions, in the order of leaving. ``migrates`` is that of
    :class:`~.orders.Orders`.

    The plan holds those that would move but are left alone, since their clients would stay down.
    """
    plan = plan_rebalance(
        registry.snapshot(trio.current_time()),
        cluster,
        placement,
        everywhere=registry.sessions_by_node(),
        before=registry.sessions_before,
        max_share=max_share,
        migrates=migrates,
    )
    moves = []
    for number, move in enumerate(plan):
        if number % LOOKED_AT_A_TIME == 0:
            await trio.lowlevel.checkpoint()
        if move is not None:
            moves.append(move)
    return moves


class PlanCarrier(QueueWatcher, Protocol):
    """The part that carries out the plan: the mover."""

    def progressed(self) -> None:
        """Take note that the rebalance has got further."""


class Planner:
    """Fills the queue of the rebalanced. ``orders`` says whether the proxy takes sessions itself."""

    def __init__(
        self,
        registry: Registry,
        cluster: Cluster,
        placement: Placement,
        queues: Queues,
        carrier: PlanCarrier,
        orders: Orders,
    ) -> None:
        self._registry = registry
        self._cluster = cluster
        self._placement = placement
        self._queues = queues
        self._carrier = carrier
        self._orders = orders
        self._rebalance: RebalanceTerms | None = None
        self._planned: int | None = None  # None: not yet
        self._held: dict[int, float] = {}  # until when, by session
        self._only: frozenset[int] | None = None  # None: whoever has to be moved
        self._before = replace(registry.counts.rebalanced)
        self._told = trio.Event()

    def follow(self, rebalance: RebalanceTerms | None) -> None:
        """Carry out that rebalance; ``None``: none. The same one again changes nothing."""
        if rebalance != self._rebalance:
            self._queues.clear(Urgency.REBALANCED)
            self._rebalance, self._planned = rebalance, None
            if rebalance is not None:  # else it is over, and the next one may be for those who were held
                self._only = frozenset(self._held) if rebalance.again else None
                self._held.clear()
            self._before = replace(self._registry.counts.rebalanced)
            self._told.set()

    def hold(self, session_id: int, until: float) -> None:
        """Count that session as held: it was moved too lately to be moved again before that time."""
        self._held[session_id] = until
        self._carrier.progressed()

    def counts(self, announced: int = 0) -> RebalanceCounts:
        """Return how far the rebalance is; number 0 where none goes on.

        ``announced``: sessions taken out of the queue that are about to be asked.
        """
        if self._rebalance is None:
            return RebalanceCounts()
        now, before = self._registry.counts.rebalanced, self._before
        return RebalanceCounts(
            self._rebalance.number,
            self._planned is None,
            self._planned or 0,
            asked=now.asked - before.asked,
            moved=now.moved - before.moved,
            refused=now.refused - before.refused,
            silent=now.silent - before.silent,
            failed=now.failed - before.failed,
            # Those who have not been asked, and those who were and have neither left nor said that they won't.
            left=self._queues.length(Urgency.REBALANCED) + announced + now.asked - now.moved - now.failed,
            held=len(self._held),
            held_seconds=max(0.0, max(self._held.values(), default=0.0) - trio.current_time()),
        )

    def _is_meant(self, move: ProposedMove) -> bool:
        return self._only is None or move.session_id in self._only

    async def run(self) -> None:
        """Plan each rebalance that is told, until cancelled."""
        while True:
            await self._told.wait()
            self._told = trio.Event()
            rebalance = self._rebalance
            if rebalance is None:
                continue
            planned = await planned_moves(
                self._registry, self._cluster, self._placement, rebalance.max_share, migrates=self._orders.migrates
            )
            if rebalance != self._rebalance:
                continue  # there is another one by now
            moves = [move for move in planned if not move.stays_down and self._is_meant(move)]
            for move in moves:
                self._queues.put(Waiting(move.session_id, Urgency.REBALANCED, Trigger.REBALANCE, move.target))
            self._planned = len(moves)
            self._carrier.queued()
            self._carrier.progressed()
