"""Nodes, as an operator sees them; and clients that an operator sends to one."""

from __future__ import annotations

import logging
from typing import Final

import trio

from cxfr_proxy.admin.console.parts import Drainer, Sessions
from cxfr_proxy.admin.rows.rows import NodeRow
from cxfr_proxy.cluster.members import CheckResult, Cluster, Node
from cxfr_proxy.cluster.nodes import Health
from cxfr_proxy.errors import ConfigError, NoSuchSession
from cxfr_proxy.events import emit
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drains import Drain
from cxfr_proxy.xmpp import jid

ROWS_AT_A_TIME: Final = 500
"""Between two checkpoints: some milliseconds."""

_log = logging.getLogger(__name__)


class NodeControl:
    def __init__(self, cluster: Cluster, sessions: Sessions, drainer: Drainer) -> None:
        self._cluster = cluster
        self._sessions = sessions
        self._drainer = drainer

    async def rows(self) -> list[NodeRow]:
        """Return all nodes in the list's order."""
        await self._sessions.refresh()
        return await self.known_rows()

    async def known_rows(self) -> list[NodeRow]:
        """Return them with the counts that workers have reported by themselves: none is asked."""
        rows, drains = [], self._drainer.drains
        for number, node in enumerate(self._cluster, start=1):
            rows.append(node_row(node, self._sessions.of_node(node.name), drains.get(node.name)))
            if number % ROWS_AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return rows

    async def move(self, address: str, node: str) -> int:
        """Send the clients of that JID, bare or full, to ``node`` at once; return how many were told.

        Raises :class:`ConfigError` for a node that is not listed or can't take them, and :class:`NoSuchSession` where
        there is no such client that is elsewhere.
        """
        target = self._cluster.get(node)
        if target.leaving or target.health is Health.DOWN:
            raise ConfigError(f"node '{node}' can't take anybody now: it is {_condition(target)}")
        domain = jid.domain(address)
        if not target.spec.serves(domain_key(domain)):
            raise ConfigError(f"node '{node}' does not serve {domain}")
        moved = await self._sessions.move(address, node)
        if not moved:
            raise NoSuchSession(f"{address} has no client that could be moved to '{node}'")
        emit(_log, "move", jid=address, node=node, sessions=moved)
        return moved


def _condition(node: Node) -> str:
    if node.removed:
        return "no longer in the nodes file"
    return "down" if node.health is Health.DOWN else f"in state {node.admin_state}"


def node_row(node: Node, counts: NodeCounts, drain: Drain | None = None) -> NodeRow:
    """Return the row of a node; ``drain`` is that of the node, ``None`` where there is none."""
    check, now = node.check, trio.current_time()
    return NodeRow(
        name=node.name,
        address=str(node.spec.address),
        public=str(node.spec.public) if node.spec.public is not None else None,
        public_ws=str(node.spec.public_ws) if node.spec.public_ws is not None else None,
        admin_state="removed" if node.removed else str(node.admin_state),
        health=str(node.health),
        weight=node.spec.weight,
        sessions=counts.sessions,
        entered=counts.entered,
        moved=counts.moved,
        connect_failures=counts.connect_failures,
        forged=counts.forged,
        asked=counts.asked,
        refused=counts.refused,
        silent=counts.silent,
        failed=counts.failed,
        returned=counts.returned,
        usable=node.usable,
        waiting=counts.logins_waiting,
        health_seconds=now - node.health_since if node.health_since is not None else None,
        check=_check_text(check) if check is not None else None,
        check_seconds_ago=now - check.at if check is not None else None,
        check_duration_seconds=check.seconds if check is not None else None,
        checks_failed=node.checks_failed,
        warm_up=node.warm_up,
        priority=node.spec.priority,
        drain=_drain_text(drain, now) if drain is not None else None,
        drain_reason=drain.waiting_reason if drain is not None else None,
    )


def _drain_text(drain: Drain, now: float) -> str:
    if drain.done:
        return "done"
    return "settling" if drain.settling_seconds(now) is not None else str(drain.stage)


def _check_text(check: CheckResult) -> str:
    return f"ok {check.seconds * 1000:.0f} ms" if check.text == "ok" else check.text
