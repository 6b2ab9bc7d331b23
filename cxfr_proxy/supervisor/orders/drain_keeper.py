"""Begin and end drains, which :mod:`cxfr_proxy.transfers.drains` keeps, and have workers hear of them."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from cxfr_proxy.admin.console.parts import Drainer
from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.supervisor.startup_log import log_drain
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drain_stages import Schedule
from cxfr_proxy.transfers.drains import Drain, Drains
from cxfr_proxy.transfers.pace import Rate
from cxfr_proxy.transfers.statistics import TriedRung


class NodeDrainer(Drainer, Protocol):
    """Empties nodes, for the operator, the node list and peer proxies."""

    @property
    def asked_rate(self) -> float | None:
        """The rate that was asked for in place of the usual one; ``None``: none was."""

    @property
    def to_move(self) -> int:
        """Return how many sessions wait to be moved."""

    def set_share(self, share: float) -> None:
        """Take that part of the rate, 0 to 1, from now on."""

    def adopt(self, node: str, schedule: Schedule | None, rate: float | None) -> None:
        """Drain, or without ``schedule`` abort, because another proxy was told so."""


class NodeFollower(Protocol):
    """Lets workers know of the nodes."""

    def node_changed(self, name: str) -> None:
        """Send that node to the workers again: it has changed, or its drain has come to another stage."""


class DrainKeeper:
    """The drains of this proxy, and their host. A :class:`NodeDrainer`."""

    def __init__(
        self, cluster: Cluster, workers: Workers, rate: Rate, follower: NodeFollower, feed: ChangeFeed
    ) -> None:
        self._cluster = cluster
        self._workers = workers
        self._follower = follower
        self._feed = feed
        self._rate = rate
        self._drains = Drains(rate, self)

    @property
    def drains(self) -> dict[str, Drain]:
        return self._drains.by_node

    @property
    def rate(self) -> float:
        return self._rate.now

    @property
    def paced_rate(self) -> float | None:
        return self._drains.paced_rate

    @property
    def asked_rate(self) -> float | None:
        return self._rate.asked

    @property
    def share(self) -> float:
        return self._rate.share

    def set_share(self, share: float) -> None:
        self._rate.set_share(share)

    @property
    def to_move(self) -> int:
        return sum(link.wanted[-1] for link in self._workers)

    def drain(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> None:
        self._cluster.get(node)
        self._drains.begin(node, grace=grace, deadline=deadline, rate=rate)
        self._follower.node_changed(node)

    def adopt(self, node: str, schedule: Schedule | None, rate: float | None) -> None:
        self._cluster.get(node)
        self._drains.adopt(node, schedule, rate)
        self._follower.node_changed(node)

    def abort(self, node: str) -> None:
        self._drains.abort(node)

    def undrain(self, node: str) -> None:
        self._drains.end(node)
        self._follower.node_changed(node)

    def left(self, node: str) -> int:
        return self._workers.of_node(node).sessions

    def awaited(self, node: str) -> int:
        return self._workers.awaited(node)

    def is_done(self, node: str) -> bool:
        return self._drains.is_done(node)

    def waits(self, drain: Drain, reason: str | None) -> None:
        """Note why no worker can move sessions of that node; ``None``: some can."""
        self._drains.waits(drain, reason)

    def of_node(self, node: str) -> NodeCounts:
        return self._workers.of_node(node)

    def tried_on(self, node: str) -> Counter[TriedRung]:
        return self._workers.statistics.tried_on(node)

    def last_move(self, node: str) -> float:
        return self._workers.last_move(node)

    def settle_seconds(self, node: str) -> float:
        return self._cluster.get(node).spec.settle_seconds if node in self._cluster else 0.0

    def is_paced(self) -> bool:
        return self._workers.moves().paced

    def stage_changed(self, drain: Drain) -> None:
        self._follower.node_changed(drain.node)

    def report(self, event: str, drain: Drain) -> None:
        log_drain(event, drain, self._workers.of_node(drain.node))
        self._feed.changed()

    async def watch(self) -> None:
        """Watch as :meth:`~cxfr_proxy.transfers.drains.Drains.watch` does."""
        await self._drains.watch()
