"""Rebalancing by itself, when users have come to belong elsewhere.

That is so when a node has joined, is up or ready again, has another weight, priority or other domains, or when more
of its weight counts (its ``slowstart``); a node that goes takes only its own users along, and those are moved by its
drain.

Nodes that come and go would have people follow them to and fro. So nothing begins before the list has stood still for
:data:`QUIET_SECONDS`; a weight that grows by itself is no unrest, but as long as it does, there is one rebalance in
that time at most. One that an operator has asked for goes on, and the next follows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.session.mover_rebalances import Rebalances

QUIET_SECONDS: Final = 5.0
"""A node that is restarted fails two checks, two seconds apart, before it is down."""
_LOOK_SECONDS: Final = 0.25

_Weights = Mapping[str, tuple[int, float, tuple[str, ...]]]


class Automatic:
    """``weights`` of the usable nodes, as of the last rebalance, or of the last time that one went."""

    def __init__(self, cluster: Cluster, rebalances: Rebalances) -> None:
        self._cluster = cluster
        self._rebalances = rebalances

    async def run(self) -> None:
        """Begin a rebalance whenever there is a reason to, until cancelled."""
        seen, since = self._cluster.standing(), trio.current_time()
        placed = weights = self._weights()
        version, reason = self._cluster.version, None
        while True:
            await trio.sleep(_LOOK_SECONDS)
            now = trio.current_time()
            if self._cluster.version != version:
                version, standing, weights = self._cluster.version, self._cluster.standing(), self._weights()
                # Whose node went is elsewhere by now, and belongs there again when it is back.
                placed = {name: weight for name, weight in placed.items() if name in weights}
                if standing != seen:
                    seen, since = standing, now
                reason = _gain(placed, weights)
            current = self._rebalances.current
            by_operator = current is not None and current.reason is None
            if reason is not None and now - since >= QUIET_SECONDS and not by_operator:
                placed, since = weights, now
                self._rebalances.begin(reason=reason)
                reason = None

    def _weights(self) -> _Weights:
        return {node.name: (node.spec.priority, node.weight, node.spec.domain) for node in self._cluster if node.usable}


def _gain(before: _Weights, now: _Weights) -> str | None:
    """What could make users belong to another node that is there; ``None``: nothing."""
    for name, place in now.items():
        if name not in before:
            return f"{name} takes clients"
        if place != before[name]:
            return f"{name} takes another share of them"
    return None
