"""Plan who has to move, in which order, and where to: a snapshot in, moves out.

A drain is carried out over minutes, so the targets of its plan are a forecast: they show the operator where the load
would go, and the mover asks placement when a session's turn comes. Nothing here waits, paces or sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement


@dataclass(frozen=True, slots=True)
class Placed:
    """One session as a snapshot shows it. ``user`` is a bare JID, ``None`` where it is not known (yet); ``inactive``:
    its client has said that nobody looks at it; ``domain`` is the one it asked for. ``stays_down``: its client is known
    not to come back once its stream has ended. ``can_migrate``: the proxy could resume it on another node, if the nodes
    allow that."""

    session_id: int
    user: str | None
    node: str
    idle_seconds: float
    inactive: bool = False
    domain: str = ""
    stays_down: bool = False
    can_migrate: bool = False

    def move_to(self, target: str | None, *, unnoticed: bool) -> ProposedMove:
        """Return its move there. ``unnoticed``: the nodes allow the proxy to take it there, if it can."""
        migrates = unnoticed and self.can_migrate
        stays_down = self.stays_down and not migrates
        return ProposedMove(self.session_id, self.node, target, self.inactive, stays_down, migrates)


@dataclass(frozen=True, slots=True)
class ProposedMove:
    """One session to move between two nodes, by name; ``target`` is ``None`` where no node can take it.

    ``migrates``: the proxy can take it there, and its client notices nothing. ``stays_down``: its client is known not
    to come back from this move.
    """

    session_id: int
    source: str
    target: str | None
    inactive: bool = False
    stays_down: bool = False
    migrates: bool = False


@dataclass(slots=True)
class DrainForecast:
    """The sum of a plan. ``targets`` counts sessions by node; ``unplaced`` are those that no node can take,
    ``stay_down`` those of them all whose clients are known not to come back, ``migrate`` those that the proxy can take
    to their node, so that their clients notice nothing."""

    sessions: int = 0
    inactive: int = 0
    unplaced: int = 0
    targets: dict[str, int] = field(default_factory=dict)
    stay_down: int = 0
    migrate: int = 0

    def add(self, move: ProposedMove) -> None:
        self.sessions += 1
        self.migrate += move.migrates
        self.inactive += move.inactive
        self.stay_down += move.stays_down
        if move.target is None:
            self.unplaced += 1
        else:
            self.targets[move.target] = self.targets.get(move.target, 0) + 1

    def include(self, other: DrainForecast) -> None:
        """Add the plan of another process for the same node."""
        self.sessions += other.sessions
        self.inactive += other.inactive
        self.stay_down += other.stay_down
        self.migrate += other.migrate
        self.unplaced += other.unplaced
        for target, sessions in other.targets.items():
            self.targets[target] = self.targets.get(target, 0) + sessions

    def seconds(
        self,
        rate: float,
        *,
        grace: float | None = None,
        deadline: float | None = None,
        paced_rate: float | None = None,
    ) -> float:
        """Return about how long it takes to ask all clients that can be moved, at ``rate`` sessions a second.

        ``paced_rate``: the most of those that the proxy can take to another node; ``None``: as many as of the others.
        ``grace`` and ``deadline`` are seconds from the drain's beginning. Inactive clients have to wait for half of the
        deadline; at its end all are told at once.
        """
        if paced_rate is not None and paced_rate < rate and self.sessions:
            rate = self.sessions / (self.migrate / paced_rate + (self.sessions - self.migrate) / rate)
        inactive = 0 if self.unplaced else self.inactive  # no node takes some: then none takes anybody
        active = self.sessions - self.unplaced - inactive
        end = (grace or 0.0) + active / rate
        if inactive:
            end = max(end, (deadline or 0.0) / 2) + inactive / rate
        return end if deadline is None else min(end, deadline)


def order_of_leaving(snapshot: Iterable[Placed]) -> list[Placed]:
    """Order by idle time, the longest first: clients that are typing right now are disturbed last, and behind all of
    them come those that would have to be woken."""
    # The id breaks ties, so that one snapshot makes one order.
    return sorted(snapshot, key=lambda session: (session.inactive, -session.idle_seconds, session.session_id))


def plan_drain(
    snapshot: Iterable[Placed], node: str, cluster: Cluster, placement: Placement, *, migrates: bool = False
) -> Iterator[ProposedMove]:
    """Yield every session of ``node`` in the order of leaving, one at a time: there may be many, and others wait.

    ``snapshot`` holds the sessions of all nodes: those that stay count as the load of the nodes that could take more,
    and so does every move that this plan has made already. Nobody is moved onto a node that is down. ``migrates``: the
    proxy takes sessions to other nodes itself where it can. Raises :class:`~cxfr_proxy.cluster.members.UnknownNode`, at
    once.
    """
    source = cluster.get(node)
    placed = list(snapshot)
    sessions = Counter(session.node for session in placed)
    leaving = order_of_leaving(session for session in placed if session.node == node)
    return _moves(leaving, source, placement, sessions, migrates=migrates)


def _moves(
    leaving: Iterable[Placed], source: Node, placement: Placement, sessions: Counter[str], *, migrates: bool
) -> Iterator[ProposedMove]:
    for session in leaving:
        ranked = placement.rank(session.user, session.domain, sessions, exclude=(source.name,), up_only=True)
        target = ranked[0] if ranked else None
        if target is None:
            yield session.move_to(None, unnoticed=False)
            continue
        sessions[target.name] += 1
        yield session.move_to(target.name, unnoticed=migrates and source.spec.migrates and target.spec.migrates)
