"""Counts of sessions and their moves: by node, by rung and outcome, and in total.

A client that is *asked* is counted once, by whichever rung it is asked first. The outcome is counted for each rung:
*refused* and *silent* rungs are followed by another one, and with *moved* or *failed* the transfer is over. The process
that sees all logins counts the clients that have *returned* (:mod:`.returns`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.session.client_software import Software
from cxfr_proxy.session.commands import (
    Answered,
    Asked,
    BoundTo,
    Ended,
    Event,
    Forged,
    NodeRegained,
    Outcome,
    Transferred,
)
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.relayed import Relayed
from cxfr_proxy.transfers.statistics import Totals, count_outcome
from cxfr_proxy.xmpp.opening.attempt import FailedLogin

RECENT_TRANSFERS: Final = 1000
"""Most transfers that ``show transfers`` lists: the last ten seconds at the default rate."""


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """A transfer that is over. ``ended`` is the relay's clock."""

    session: int
    full_jid: str | None
    source: str
    target: str | None
    trigger: Trigger
    tried: tuple[tuple[Rung, Outcome], ...]
    ended: float
    seconds: float
    software: Software


@dataclass(slots=True)
class NodeCounts:
    """Counts of one node's sessions. All of them only grow, except ``sessions`` and ``logins_waiting``."""

    sessions: int = 0
    asked: int = 0
    moved: int = 0
    refused: int = 0
    silent: int = 0
    failed: int = 0
    connect_failures: int = 0
    forged: int = 0
    returned: int = 0
    """Clients that have moved and logged in again; the process that sees all logins counts them."""
    logins_waiting: int = 0
    """Logins that wait for their turn, or for the node to accept them."""
    entered: int = 0
    """Sessions that have come there, by a login or from another node; those that are not there any more have left."""

    def include(self, other: NodeCounts) -> None:
        """Add the counts of another process. ``returned`` is counted by one process for all."""
        self.sessions += other.sessions
        self.asked += other.asked
        self.moved += other.moved
        self.refused += other.refused
        self.silent += other.silent
        self.failed += other.failed
        self.connect_failures += other.connect_failures
        self.forged += other.forged
        self.logins_waiting += other.logins_waiting
        self.entered += other.entered


class SessionCounts:
    """Counts of one process's sessions."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeCounts] = {}
        self._touched: set[str] = set()  # nodes whose counts may have changed
        self.rebalanced = NodeCounts()
        """Transfers to even the load, of all nodes; without ``sessions``."""
        self._evening: set[int] = set()  # sessions whose clients were asked to move to even the load
        self.recent: deque[TransferRecord] = deque(maxlen=RECENT_TRANSFERS)
        self.totals = Totals()

    def of_node(self, name: str) -> NodeCounts:
        """Return the node's counts, to read and to change."""
        self._touched.add(name)
        counts = self.nodes.get(name)
        if counts is None:
            counts = self.nodes[name] = NodeCounts()
        return counts

    def take_touched(self) -> dict[str, NodeCounts]:
        """Return the counts of the nodes whose counts may have changed since this was asked last."""
        touched, self._touched = self._touched, set()
        return {name: self.nodes[name] for name in touched}

    def note(self, relayed: Relayed, event: Event, now: float) -> None:
        """Count what happened to a session."""
        match event:
            case BoundTo():
                waited = now - relayed.arrival.accepted
                self.totals.count_login(relayed.transport_name, waited, tls=relayed.tls_version is not None)
            case Asked(_, order, first):
                if first and order.trigger is Trigger.REBALANCE:
                    self._evening.add(relayed.id)
                for each in self._counted(relayed, relayed.session.node):
                    each.asked += first
            case Answered(outcome=outcome):
                self._count(self._counted(relayed, relayed.session.node), outcome)
            case Transferred():
                self._note_transfer(relayed, event, now)
            case Forged():
                self.of_node(relayed.session.node).forged += 1
            case NodeRegained():
                self.totals.regained += 1
            case FailedLogin(condition=condition):
                self.totals.count_failed_login(condition)
            case Ended(reason, _, late, _):
                self.totals.count_ended(reason)
                self.totals.late += late
            case _:
                pass

    def forget(self, session_id: int) -> None:
        """Forget a session that has ended."""
        self._evening.discard(session_id)

    def _note_transfer(self, relayed: Relayed, event: Transferred, now: float) -> None:
        session, order = relayed.session, event.order
        self._count(self._counted(relayed, event.source), event.tried[-1][1])
        self._evening.discard(relayed.id)
        self.recent.append(
            TransferRecord(
                relayed.id,
                session.full_jid,
                event.source,
                order.target,
                order.trigger,
                event.tried,
                now,
                event.seconds,
                session.software,
            )
        )

    @staticmethod
    def _count(where: Iterable[NodeCounts], outcome: Outcome) -> None:
        for counts in where:
            count_outcome(counts, outcome)

    def _counted(self, relayed: Relayed, node: str) -> tuple[NodeCounts, ...]:
        """Return the counts that a client belongs to which leaves that node. If it was asked to even the load, it is
        counted there too, even if something more urgent moves it in the end."""
        counts = self.of_node(node)
        return (counts, self.rebalanced) if relayed.id in self._evening else (counts,)
