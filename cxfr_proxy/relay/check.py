"""What sessions tell about their nodes, and seeing that a node is back.

* A node to which a connection failed is down at once; the session tries the next one.
* A node that says to its sessions that it is going away is down as well, although it may go on accepting connections
  for a while (measured: ejabberd does while it stops). One session's word is not enough, unless it is the only one
  there: a stream error can be meant for one client.
* Every node is probed every :data:`INTERVAL_SECONDS`, the way a session would be connected: with its PROXY header, and
  with TLS as far as the name in its certificate is known. One that was up is down after :data:`FALL` failures in a row,
  one that was down is up after one success; one that said it was going is not asked before :data:`GOING_SECONDS` have
  passed. A node that is new at a reload is down until it has answered: nobody is moved onto a typing error.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import Health, NodeSpec
from cxfr_proxy.events import emit
from cxfr_proxy.relay.probe import Look

INTERVAL_SECONDS: Final = 2.0
"""HAProxy's ``inter``."""
FALL: Final = 2
"""Failures in a row: one may be a lost packet or a full backlog."""
CHECK_SECONDS: Final = 2.0
"""As long as between two checks: who takes longer is not well."""
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


class Informed(Protocol):
    """Who wants to know what sessions learn about their nodes."""

    def connect_failed(self, node: Node, reason: str) -> None:
        """A session could not be connected to it."""

    def said_it_was_going(self, node: Node, *, sessions: int) -> None:
        """One of its ``sessions`` (this one included) was told so by a stream error."""

    def served(self, domain: str) -> None:
        """A client has logged in for that domain."""


class Looking(Protocol):
    """:func:`~cxfr_proxy.relay.probe.look`, by a certain dialer."""

    def __call__(self, spec: NodeSpec, domain: str | None, *, seconds: float) -> Awaitable[Look]: ...


class Checks:
    """Keeps the nodes' health. ``on_up`` is called when a node can be used again, ``on_down`` when one can't."""

    def __init__(
        self,
        cluster: Cluster,
        look: Looking,
        on_up: Callable[[Node], None],
        on_down: Callable[[Node], None] | None = None,
        *,
        on_features: Callable[[], None] = lambda: None,
        domains: Sequence[str] = (),
    ) -> None:
        self._cluster = cluster
        self._look = look
        self._on_up = on_up
        self._on_down = on_down
        self._on_features = on_features
        self._domains = tuple(domains)  # that are served; none: wait for a client to name one
        self._going: dict[str, _Going] = {}
        self._failures: Counter[str] = Counter()
        self._now_please = trio.Event()

    def connect_failed(self, node: Node, reason: str) -> None:
        """A session could not be connected to it."""
        self._mark_down(node, reason)

    def served(self, domain: str) -> None:
        """A client has logged in for that domain. What it says before may be any nonsense."""
        if not self._domains:
            self._domains = (domain,)
            self._now_please.set()

    def expect(self, node: Node) -> None:
        """A node that has just appeared: not to be used before it was seen, which is tried at once."""
        node.health = Health.DOWN
        self._now_please.set()

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
            if self._on_down is not None:
                self._on_down(node)

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            self._now_please = trio.Event()
            async with trio.open_nursery() as probes:
                for node in self._cluster:
                    if not self._is_going(node):
                        probes.start_soon(self._probe, node)
            with trio.move_on_after(INTERVAL_SECONDS):
                await self._now_please.wait()

    async def _probe(self, node: Node) -> None:
        fault: str | None = None
        for domain in node.spec.domain or self._domains or (None,):
            seen = await self._look(node.spec, domain, seconds=CHECK_SECONDS)
            fault = fault or seen.reason
            if domain is not None:
                self._keep_features(node, domain, seen.features)
        if fault is not None:
            self._failures[node.name] += 1
            if self._failures[node.name] >= FALL:
                self._mark_down(node, fault)
            return
        del self._failures[node.name]
        # Sessions may have been told meanwhile that it is going: their word counts more.
        if node.health is Health.DOWN and not self._is_going(node):
            node.health = Health.UP
            self._going.pop(node.name, None)
            emit(_log, "node-up", node=node.name)
            self._on_up(node)

    def _keep_features(self, node: Node, domain: str, features: bytes | None) -> None:
        """What it was last seen to greet with stands while it can't be seen."""
        if features is not None and node.features.get(domain) != features:
            node.features[domain] = features
            self._on_features()

    def _is_going(self, node: Node) -> bool:
        going = self._going.get(node.name)
        return going is not None and trio.current_time() - going.last < GOING_SECONDS
