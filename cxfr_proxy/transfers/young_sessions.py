"""Set sessions aside that are too young to be moved.

Where nodes share sessions, one that is younger than :data:`SETTLED_SECONDS` waits until it is as old, whatever it is to
be moved for: ejabberd tells sessions of one resource apart by the second in which they began, and a client that resumes
on another node in the second of its bind, or of its last move, is thrown out by the node that it came from. Sessions
whose node is dead are not kept waiting: nobody is there to throw them out.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import Health, Resume, SessionOutlook
from cxfr_proxy.transfers.leaving import Leaving
from cxfr_proxy.transfers.queues import Queues, QueueWatcher, Waiting
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import Relayed

SETTLED_SECONDS: Final = 2.0
"""Seconds for which sessions stay set aside. The second of the bind is over by then, also on a node whose clock is a
little wrong."""


class YoungSessions:
    """The sessions that were set aside. ``watcher`` is told when some of them have come back to the ``queues``."""

    def __init__(
        self, cluster: Cluster, registry: Registry, leaving: Leaving, queues: Queues, watcher: QueueWatcher
    ) -> None:
        self._cluster = cluster
        self._registry = registry
        self._leaving = leaving
        self._queues = queues
        self._watcher = watcher
        self._another = trio.Event()

    def sets_aside(self, relayed: Relayed, waiting: Waiting) -> bool:
        """Return whether that session is too young; then it was set aside until it is not."""
        session = relayed.session
        source = self._cluster.get(session.node) if session.node in self._cluster else None
        if source is None or source.spec.resume is not Resume.SHARED or self._leaving.everybody is not None:
            return False
        if source.session_outlook is SessionOutlook.DEAD or (session.node_lost and source.health is Health.DOWN):
            return False
        # The memory keeps only the last seconds: None means that the session is old enough.
        bound = self._registry.memory.bound_lately(relayed.id)
        if bound is None or trio.current_time() >= bound + SETTLED_SECONDS:
            return False
        self._queues.set_aside(waiting, bound + SETTLED_SECONDS)
        self._another.set()
        return True

    async def run(self) -> None:
        """Put them back into the queues when their time has come, until cancelled."""
        while True:
            due = self._queues.next_due
            self._another = trio.Event()
            with trio.move_on_at(due if due is not None else math.inf) as limit:
                await self._another.wait()
            if limit.cancelled_caught and self._queues.put_back_due(trio.current_time()):
                self._watcher.queued()
