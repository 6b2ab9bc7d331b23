"""Who has to move, and where to: a snapshot in, moves out.

A plan is made at one instant and carried out over minutes, so its targets are a forecast: they show the
operator where the load will go, and the mover asks placement again when a session's turn comes. Nothing here
waits, paces or sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from cxfr_proxy.cluster import placement
from cxfr_proxy.cluster.nodes import Cluster


@dataclass(frozen=True, slots=True)
class Placed:
    """One session as a snapshot shows it. ``user`` is a bare JID, ``None`` where it is not known (yet)."""

    session_id: int
    user: str | None
    node: str
    idle_seconds: float


@dataclass(frozen=True, slots=True)
class Move:
    """One session to move between two nodes, by name; ``target`` is ``None`` where no node can take it."""

    session_id: int
    source: str
    target: str | None


def plan_drain(snapshot: Iterable[Placed], node: str, cluster: Cluster) -> list[Move]:
    """Every session of ``node``, longest idle first: who is typing right now is disturbed last.

    ``snapshot`` holds the sessions of all nodes: those that stay count as the load of the nodes that could
    take more, and so does every move that this plan has made already.

    Raises :class:`~cxfr_proxy.cluster.nodes.UnknownNode`.
    """
    cluster.get(node)
    placed = list(snapshot)
    candidates = cluster.candidates(exclude=(node,))
    sessions = Counter(session.node for session in placed)
    moves: list[Move] = []
    # The id breaks ties, so that one snapshot makes one plan.
    for session in sorted(placed, key=lambda session: (-session.idle_seconds, session.session_id)):
        if session.node != node:
            continue
        target = next((best.name for best in placement.rank(session.user, candidates, sessions)), None)
        if target is not None:
            sessions[target] += 1
        moves.append(Move(session.session_id, source=node, target=target))
    return moves
