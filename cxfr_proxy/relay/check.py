"""What sessions tell about their nodes, and seeing that a node is back.

* A node to which a connection failed is down at once; the session tries the next one.
* A node that says to its sessions that it is going away is down as well, although it may go on accepting connections
  for a while (measured: ejabberd does while it stops). One session's word is not enough, unless it is the only one
  there: a stream error can be meant for one client.
* What is down is probed until it accepts a connection again, one that said it was going not before
  :data:`GOING_SECONDS` have passed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from cxfr_proxy.cluster.nodes import Cluster, Health, Node
from cxfr_proxy.events import emit
from cxfr_proxy.relay.dial import Dialer

INTERVAL_SECONDS: Final = 2.0
"""HAProxy's ``inter``."""
GOING_SECONDS: Final = 5.0
"""A node that stops is gone by then, or it was a restart so quick that nobody minds."""
_TOGETHER_SECONDS: Final = 2.0
"""Words of two sessions that come within this time are about the node and not about a client."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Going:
    """Since when sessions say that a node is going, and the last time one did."""

    last: float
    sessions: int


class Checks:
    """Keeps the nodes' health. ``on_up`` is called when a node can be used again."""

    def __init__(self, cluster: Cluster, dialer: Dialer, on_up: Callable[[Node], None]) -> None:
        self._cluster = cluster
        self._dialer = dialer
        self._on_up = on_up
        self._going: dict[str, _Going] = {}

    def connect_failed(self, node: Node, reason: str) -> None:
        """A session could not be connected to it."""
        self._mark_down(node, reason)

    def said_it_was_going(self, node: Node, *, sessions: int) -> None:
        """One of its ``sessions`` (this one included) was told so by a stream error."""
        now = trio.current_time()
        going = self._going.get(node.name)
        if going is None or now - going.last > _TOGETHER_SECONDS:
            going = self._going[node.name] = _Going(now, 0)
        going.last = now
        going.sessions += 1
        if going.sessions >= min(2, sessions):
            self._mark_down(node, "its sessions are told that it is going away")

    def _mark_down(self, node: Node, reason: str) -> None:
        if node.health is Health.UP:
            node.health = Health.DOWN
            emit(_log, "node-down", level=logging.WARNING, node=node.name, reason=reason)

    async def run(self) -> None:
        """Probe what is down until cancelled."""
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            for node in self._cluster:
                if node.health is Health.DOWN and not self._is_going(node) and await self._dialer.probe(node.spec):
                    node.health = Health.UP
                    self._going.pop(node.name, None)
                    emit(_log, "node-up", node=node.name)
                    self._on_up(node)

    def _is_going(self, node: Node) -> bool:
        going = self._going.get(node.name)
        return going is not None and trio.current_time() - going.last < GOING_SECONDS
