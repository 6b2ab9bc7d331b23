"""Plan which sessions are on the wrong node, and where they belong: a snapshot in, moves out.

Users with a home belong there, so exactly those who are elsewhere are moved. Of the other users, who go where the
sessions are fewest for the weight, as few are moved as even the load. Even means: if a session ended and began again,
it would come to no node with a lower load than its own has without it, so

    (sessions of a - 1) / weight of a  <=  sessions of b / weight of b

for any two nodes ``a`` and ``b`` that could both serve it. While that fails for some pair, a session is moved from the
``a`` with the highest left side to the ``b`` with the lowest right side. No node gives away what it has taken, because
what is left to a giver is more than the lowest load, which only rises. A test compares it with all other sets of moves,
for small cases: none is smaller. That holds if the nodes of two domains are the same or have none in common. If they
overlap, the load is evened between any two nodes of one domain, directly.

Where several processes serve, each plans for its own sessions. All know how many there are by node, so all find the
same surplus; their order decides which part of it is whose, and the parts add up (:class:`NodeShare`).

Of several sessions that could go, those whose clients are known to come back go first. A session whose client is known
not to, and that would have to go, is in the plan, but is not moved: a place that is only better is worth no session. If
the proxy can take the session there itself, its client notices nothing, and need not come back.

Nobody is moved off a node that is not usable: a drain moves the sessions that have to leave, the checks those whose
node is down, and a node of weight 0 keeps the sessions it has. Users who are placed by
:attr:`~.placement.PlacementPolicy.FIRST_AVAILABLE` stay where they are.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.cluster.plan import Placed, ProposedMove, order_of_leaving


@dataclass(frozen=True, slots=True)
class NodeShare:
    """One process's part of a node's sessions: its ``own``, with those of the processes ``before`` it, of ``all``."""

    own: int
    before: int
    all: int

    def of(self, number: int) -> range:
        """Return which of ``number`` things that are to be done with the node's sessions this process has to do.

        The ranges of all processes join up, whatever the number is.
        """
        if not self.all:
            return range(0)
        return range(number * self.before // self.all, number * (self.before + self.own) // self.all)

    def scaled(self, own: int) -> int:
        """Return how many there are in all, if every process has as many of its sessions as this one has of its own."""
        return round(own * self.all / self.own) if self.own else 0


@dataclass(slots=True)
class RebalanceForecast:
    """The sum of a rebalance: sessions by source and target. ``stay_down`` are none of them: those that would be
    moved, but are left alone since their clients are known not to come back. ``held`` are among them, but wait:
    their clients were moved too lately, and in ``held_seconds`` all of them may be moved again."""

    moves: dict[str, dict[str, int]] = field(default_factory=dict)
    inactive: int = 0
    stay_down: int = 0
    held: int = 0
    held_seconds: float = 0.0

    @property
    def sessions(self) -> int:
        return sum(sum(targets.values()) for targets in self.moves.values())

    def add(self, move: ProposedMove) -> None:
        if move.stays_down:
            self.stay_down += 1
        elif move.target is not None:
            self._count(move.source, move.target, 1)
            self.inactive += move.inactive

    def hold(self, seconds: float) -> None:
        """Note that the move that was added last has to wait so long."""
        self.held += 1
        self.held_seconds = max(self.held_seconds, seconds)

    def include(self, other: RebalanceForecast) -> None:
        """Add the forecast of another process."""
        self.inactive += other.inactive
        self.stay_down += other.stay_down
        self.held += other.held
        self.held_seconds = max(self.held_seconds, other.held_seconds)
        for source, targets in other.moves.items():
            for target, sessions in targets.items():
                self._count(source, target, sessions)

    def _count(self, source: str, target: str, sessions: int) -> None:
        targets = self.moves.setdefault(source, {})
        targets[target] = targets.get(target, 0) + sessions


def plan_rebalance(
    snapshot: Iterable[Placed],
    cluster: Cluster,
    placement: Placement,
    *,
    everywhere: Mapping[str, int] | None = None,
    before: Mapping[str, int] | None = None,
    max_share: float | None = None,
    migrates: bool = False,
) -> Iterator[ProposedMove | None]:
    """Yield the sessions of ``snapshot`` to move, in the order of leaving; and ``None`` now and then, so that the
    caller can do something else meanwhile: there may be many.

    ``everywhere`` counts all processes' sessions by node, ``before`` those of the processes before this one; ``None``
    if this is the only one. ``max_share``: at most so many percent of each node's sessions are moved; ``None``: all.
    Several processes together may stay below it, by less than one session each. ``migrates``: the proxy takes sessions
    to other nodes itself where it can.
    """
    sessions = sorted(order_of_leaving(snapshot), key=lambda session: session.stays_down)
    own = Counter(session.node for session in sessions)
    counts = dict(everywhere) if everywhere is not None else dict(own)
    parts = {
        name: NodeShare(number, (before or {}).get(name, 0), max(counts.get(name, 0), number))
        for name, number in own.items()
    }
    usable = {node.name for node in cluster if node.usable}
    sharing = {node.name for node in cluster if migrates and node.spec.migrates}
    plan = _Plan(placement, parts, counts, sharing)
    for session in sessions:
        if session.node in usable and session.user is not None:
            plan.look_at(session, session.user)
        yield None
    yield from plan.even_out()
    share = max_share if max_share is not None else 100.0
    allowed = {name: len(part.of(int(share * part.all / 100))) for name, part in parts.items()}
    for session in sessions:
        move = plan.move_of(session)
        if move is None or not (move.stays_down or allowed[session.node]):
            yield None
            continue
        allowed[session.node] -= not move.stays_down
        yield move


class _Plan:
    """``counts`` are all processes' sessions by node; ``targets`` what comes out, by session. ``sharing``: the nodes,
    by name, between which the proxy takes sessions itself."""

    def __init__(
        self,
        placement: Placement,
        parts: Mapping[str, NodeShare],
        counts: Mapping[str, int],
        sharing: Set[str],
    ) -> None:
        self._placement = placement
        self._sharing = sharing
        self._parts = parts
        self._everywhere = counts
        self._projected = Counter(counts)  # with those that are sent there: a node may be full by then
        self._load = _Load(counts)
        self.targets: dict[int, str] = {}
        self._sent: Counter[tuple[str, str]] = Counter()  # those with a place of their own, by source and target
        self._pools: dict[tuple[str, ...], _Pool] = {}
        self._pool_of: dict[str, _Pool] = {}  # by domain

    def look_at(self, session: Placed, user: str) -> None:
        home = self._placement.home(user, session.domain, self._projected)
        if home is not None:
            if home.name != session.node:
                self.targets[session.session_id] = home.name
                if not self._move(session, home.name).stays_down:
                    self._projected[home.name] += 1
                    self._sent[session.node, home.name] += 1
        elif self._placement.floats(user, session.domain):
            self._pool(session.domain).waiting[session.node].append(session.session_id)

    def move_of(self, session: Placed) -> ProposedMove | None:
        """Return its move; ``None``: it stays where it is."""
        target = self.targets.get(session.session_id)
        return self._move(session, target) if target is not None else None

    def _move(self, session: Placed, target: str) -> ProposedMove:
        return session.move_to(target, unnoticed={session.node, target} <= self._sharing)

    def _pool(self, domain: str) -> _Pool:
        """Return the pool of a domain: one for all domains with the same nodes, since there may be thousands."""
        pool = self._pool_of.get(domain)
        if pool is None:
            nodes = self._placement.usable(domain)
            pool = self._pools.setdefault(tuple(node.name for node in nodes), _Pool(nodes))
            self._pool_of[domain] = pool
        return pool

    def even_out(self) -> Iterator[None]:
        """Choose among those without a place; the others count as moved."""
        for (source, target), number in self._sent.items():
            self._load.move(source, target, self._parts[source].scaled(number))
        for pool in self._pools.values():
            pool.left = {name: self._floating(pool, name) for name in {*pool.waiting, *pool.names}}
        while steps := [step for pool in self._pools.values() if (step := pool.best_step(self._load)) is not None]:
            step = max(steps)
            step.pool.take(step, self._load)
            yield None
        for pool in self._pools.values():
            for source, targets in pool.moves.items():
                part = self._parts[source].of(len(targets)) if source in self._parts else ()
                for session_id, index in zip(pool.waiting.get(source, ()), part, strict=False):
                    self.targets[session_id] = targets[index]

    def _floating(self, pool: _Pool, name: str) -> int:
        """Return how many of that node's sessions may be anywhere in the pool, in all processes. A process with none of
        them assumes that all may: if it left them out, it would come to another plan than the others."""
        part = self._parts.get(name)
        return part.scaled(len(pool.waiting.get(name, ()))) if part is not None else self._everywhere.get(name, 0)


class _Load:
    def __init__(self, sessions: Mapping[str, int]) -> None:
        self.sessions = Counter(sessions)

    def move(self, source: str, target: str, number: int = 1) -> None:
        self.sessions[source] -= number
        self.sessions[target] += number

    def with_one_less(self, node: Node) -> float:
        return (self.sessions[node.name] - 1) / node.weight

    def of(self, node: Node) -> float:
        return self.sessions[node.name] / node.weight


@dataclass(frozen=True, slots=True, order=True)
class _Step:
    """One session of a pool's from ``source`` to ``target``; the one with the greatest ``gain`` first."""

    gain: float
    source: str
    target: str
    pool: _Pool = field(compare=False)


class _Pool:
    """Sessions that may each be on any of ``nodes``."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._takers = [node for node in nodes if node.weight]
        self.waiting: defaultdict[str, list[int]] = defaultdict(list)
        """By node, in the order of leaving."""
        self.left: dict[str, int] = {}
        """How many there are in all processes, and are not to move yet, by node."""
        self.moves: defaultdict[str, list[str]] = defaultdict(list)
        """The targets of those that are, by node."""

    @property
    def names(self) -> Iterable[str]:
        return self._nodes

    def best_step(self, load: _Load) -> _Step | None:
        """Return the best next move; ``None``: none would make anything better."""
        givers = [name for name, left in self.left.items() if left > 0]
        if not givers or not self._takers:
            return None
        target = min(self._takers, key=lambda node: (load.of(node), node.name))
        gain, source = max((self._gain(name, target, load), name) for name in givers)
        return _Step(gain, source, target.name, self) if gain > 0 else None

    def _gain(self, source: str, target: Node, load: _Load) -> float:
        node = self._nodes.get(source)
        if node is None:
            return math.inf  # its domain is not served there: it goes in any case, and first
        return load.with_one_less(node) - load.of(target) if node.weight else 0.0

    def take(self, step: _Step, load: _Load) -> None:
        load.move(step.source, step.target)
        self.left[step.source] -= 1
        self.moves[step.source].append(step.target)
