"""Begin a rebalance without a command, when users have come to belong elsewhere.

That is so when a node has joined, is up or ready again, has another weight, priority or other domains, or when more of
its weight counts (its warm-up). A node that goes takes only its own users with it, and its drain moves those.

Nodes that come and go would have their users moved back and forth. So nothing begins before

* the list has stood still for :data:`QUIET_SECONDS`; a weight that grows by itself does not count as a change, but as
  long as it grows there is at most one rebalance in that time;
* each node that went down by itself has been up again for :data:`STEADY_SECONDS`, twice as long each time that it went,
  up to :data:`LONGEST_SECONDS`. A node that has been up for that long starts over. A node that an operator has drained
  did not go by itself, whatever happened to it meanwhile.

While nodes are restarted one after the other (a roll) nothing begins either: it would move users who have to move once
more. A rebalance that an operator has asked for goes on, and the next one follows it. A node that an operator has let
back in without wanting anybody moved for it is *excused*: its coming is no reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.transfers.rebalances import Rebalances

QUIET_SECONDS: Final = 5.0
"""Seconds without a change: a restarted node takes about as long to be seen down, by two failed checks, two seconds
apart."""
STEADY_SECONDS: Final = 30.0
"""Seconds after which a node that fails right after its start has usually failed."""
LONGEST_SECONDS: Final = 900.0
"""Most seconds for which a node has to be up; one that was up for as long is trusted like any other."""
_LOOK_SECONDS: Final = 0.25

_Weights = Mapping[str, tuple[int, float, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class _Stay:
    """A node's latest stay: ``since`` when it is usable, or not, and how often it went by itself lately."""

    usable: bool
    since: float
    falls: int = 0

    @property
    def steady_at(self) -> float:
        """When the node will have been there for long enough."""
        if not self.falls:
            return self.since
        # The exponent is bounded, since a node that falls a thousand times would overflow the power.
        return self.since + min(STEADY_SECONDS * 2.0 ** min(self.falls - 1, 16), LONGEST_SECONDS)


class Steadiness:
    """Tracks how long nodes have been there; it is told the time. Nodes of the first look have always been there."""

    def __init__(self) -> None:
        self._stays: dict[str, _Stay] | None = None

    def look(self, nodes: Iterable[Node], now: float) -> float:
        """Return when all nodes that are there will have been there for long enough."""
        before, first = self._stays or {}, self._stays is None
        self._stays = {}
        for node in nodes:
            stay = before.get(node.name) or _Stay(node.usable, -math.inf if first else now)
            self._stays[node.name] = self._seen(stay, node, now)
        return max((stay.steady_at for stay in self._stays.values() if stay.usable), default=-math.inf)

    @staticmethod
    def _seen(stay: _Stay, node: Node, now: float) -> _Stay:
        if node.usable is stay.usable:
            return stay
        steady = stay.usable and now - stay.since >= LONGEST_SECONDS
        fell = stay.usable and node.accepts_new  # no operator wanted it: it is down
        return _Stay(node.usable, now, (0 if steady else stay.falls) + fell)


class AutoRebalancer:
    """The ``weights`` of the usable nodes, as of the last rebalance, or of the last time that a node went. While it is
    not ``active`` nothing begins by itself, and what changes meanwhile is no reason later."""

    def __init__(self, cluster: Cluster, rebalances: Rebalances, *, active: bool = True) -> None:
        self.active = active
        self._cluster = cluster
        self._rebalances = rebalances
        self._steadiness = Steadiness()
        self._basis = cluster.placement_basis()
        self._placed: _Weights = {}
        self._quiet_at = -math.inf
        self._steady_at = -math.inf
        self._excused: set[str] = set()
        self._seen: int | None = None  # the cluster's version
        self._reason: str | None = None

    def excuse(self, node: str, *, excused: bool = True) -> None:
        """Set whether its coming back, now or when it is up, is no reason."""
        if excused:
            self._excused.add(node)
        else:
            self._excused.discard(node)
        self._seen = None

    def seconds_until_due(self) -> float | None:
        """Return the seconds until a rebalance begins, if there is a reason for it by then and nothing changes; it
        may wait for an operator's. ``None``: none begins by itself."""
        if not self.active:
            return None
        self._look(trio.current_time())
        return max(0.0, max(self._quiet_at, self._steady_at) - trio.current_time())

    async def run(self) -> None:
        """Begin a rebalance whenever there is a reason to, until cancelled."""
        self._begin_here()
        self._steadiness.look(self._cluster, trio.current_time())
        while True:
            await trio.sleep(_LOOK_SECONDS)
            now = trio.current_time()
            self._look(now)
            if not self.active:
                self._begin_here()
                continue
            current = self._rebalances.current
            by_operator = current is not None and current.reason is None
            due = now >= max(self._quiet_at, self._steady_at) and not self._cluster.rolling
            if self._reason is not None and due and not by_operator:
                reason, self._reason = self._reason, None
                self._placed, self._quiet_at = self._weights(), now + QUIET_SECONDS
                self._rebalances.begin(reason=reason)

    def _begin_here(self) -> None:
        """Take the nodes as they are now for what there was."""
        self._basis, self._placed, self._reason = self._cluster.placement_basis(), self._weights(), None

    def _look(self, now: float) -> None:
        """Look at what has changed."""
        if self._cluster.version == self._seen:
            return
        self._seen = self._cluster.version
        basis, weights = self._cluster.placement_basis(), self._weights()
        self._steady_at = self._steadiness.look(self._cluster, now)
        if basis != self._basis:
            self._basis, self._quiet_at = basis, now + QUIET_SECONDS
        # Users of a node that went are elsewhere by now; when it is back, that is a gain, so it is not counted as
        # placed.
        placed = {name: weight for name, weight in self._placed.items() if name in weights}
        for name in self._excused & weights.keys():
            placed[name] = weights[name]
            if self._cluster.get(name).warm_up >= 1.0:
                self._excused.discard(name)
        self._placed = placed
        self._reason = _gain(placed, weights)

    def _weights(self) -> _Weights:
        return {node.name: (node.spec.priority, node.weight, node.spec.domain) for node in self._cluster if node.usable}


def _gain(before: _Weights, now: _Weights) -> str | None:
    """Return the change by which users may belong to another node that is there; ``None``: there is none."""
    for name, place in now.items():
        if name not in before:
            return f"{name} takes clients"
        if place != before[name]:
            return f"{name} takes another share of them"
    return None
