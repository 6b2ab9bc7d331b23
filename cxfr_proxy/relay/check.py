"""Seeing that a node is back.

A node to which a session's connection failed is down at once. Those that are down are probed until they accept a
connection again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from cxfr_proxy.cluster.nodes import Cluster, Health, Node
from cxfr_proxy.relay.dial import Dialer

INTERVAL_SECONDS: Final = 2.0
"""HAProxy's ``inter``."""


async def probe_down_nodes(cluster: Cluster, dialer: Dialer, on_up: Callable[[Node], None]) -> None:
    """Probe until cancelled; ``on_up`` is called when a node has become up."""
    while True:
        await trio.sleep(INTERVAL_SECONDS)
        for node in cluster:
            if node.health is Health.DOWN and await dialer.probe(node.spec):
                node.health = Health.UP
                on_up(node)
