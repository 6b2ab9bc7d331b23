"""Choose the node for a user: a pure function of the user and the nodes.

A user with a name has a home, by weighted rendezvous hashing. Every pair of user and node draws a number that is the
same everywhere and for ever, and the smallest draw wins. A node that goes takes only its own draws away, so only its
users move; a node that comes wins some users from each of the others, and nobody moves between those. There is no state
and no ring, and proxies have to agree on nothing but the list of names and weights.

The draw is the logarithmic one. With ``h`` uniform in (0, 1), ``-ln(h) / weight`` is exponentially distributed with the
rate ``weight``, and of independent exponentials the one of rate ``w`` is the smallest with probability ``w / sum of all
w``: exactly the share that a weight stands for.

A client without a name (yet) has no home, and goes where there are the fewest sessions per weight.

With any policy, a node that is full takes no new users while another one has room. Its users
go to the next node in their own order; users who come later, when there is room again, go to it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import Health, Resume
from cxfr_proxy.spellings import domain_key, user_key

_DRAW_BITS: Final = 52
"""One less than a float's mantissa: ``n + 0.5`` is exact then, and the draw never 0 or 1."""


class PlacementPolicy(StrEnum):
    """The rule by which the users of a domain are placed."""

    RENDEZVOUS = "rendezvous"
    """Each user has a home node, by weighted rendezvous hashing."""
    LEAST_SESSIONS = "least-sessions"
    """The node with the fewest sessions for its weight; users have no home."""
    FIRST_AVAILABLE = "first-available"
    """The first node in the source's order that is not full; users have no home."""


_RENDEZVOUS: Final = PlacementPolicy.RENDEZVOUS


@dataclass(frozen=True, slots=True)
class PlacementPolicies:
    """Policies. ``by_domain`` is by :func:`~cxfr_proxy.spellings.domain_key`; all other domains have the ``usual``
    one."""

    usual: PlacementPolicy = PlacementPolicy.RENDEZVOUS
    by_domain: Mapping[str, PlacementPolicy] = field(default_factory=dict)

    def of(self, domain: str) -> PlacementPolicy:
        return self.by_domain.get(domain, self.usual)


_DRAWS_KEPT: Final = 8
"""Users whose draws are kept: those who are logging in."""
_NOBODY_ANYWHERE: Final[Mapping[str, int]] = MappingProxyType({})


def _nobody(user: str) -> str | None:
    return None


class Placement:
    """Where users belong, as the list of nodes stands now: the one answer for logins, moves and plans.

    ``assigned`` returns the node's name of a user (a bare JID) whose place is not left to the policy, ``None`` for all
    others. That node comes first as long as it is in the list, takes users of the domain, and has room.
    """

    def __init__(
        self,
        cluster: Cluster,
        policies: PlacementPolicies | None = None,
        assigned: Callable[[str], str | None] = _nobody,
    ) -> None:
        self._cluster = cluster
        self._policies = policies if policies is not None else PlacementPolicies()
        self._assigned = assigned
        self._drawn: BoundedDict[tuple[str, str], list[Node]] = BoundedDict(_DRAWS_KEPT)
        self._drawn_of = -1  # the version of the cluster

    def set_policies(self, policies: PlacementPolicies) -> None:
        """Place users by these from now on."""
        self._policies = policies

    def rank(
        self,
        user: str | None,
        domain: str,
        sessions: Mapping[str, int],
        *,
        exclude: Collection[str] = (),
        up_only: bool = False,
    ) -> list[Node]:
        """Return the nodes on which ``user`` (a bare JID; ``None``: not known) of that domain may be placed, best
        first.

        ``sessions`` counts by node name. ``up_only``: rather nowhere than on a node that is down.
        """
        domain = domain_key(domain)
        policy = self._policies.of(domain)
        ranked: list[Node] = []
        if policy is _RENDEZVOUS and user is not None:
            ranked = self._draws(user, domain)
            if exclude:
                ranked = [node for node in ranked if node.name not in exclude]
        if not ranked:
            candidates = self._cluster.candidates(exclude, domain=domain)
            if policy is PlacementPolicy.FIRST_AVAILABLE:
                ranked = candidates
            else:
                ranked = rank(user if policy is _RENDEZVOUS else None, candidates, sessions)
        if up_only and ranked and not ranked[0].usable:
            return []  # candidates are all up, or none is
        name = self._assigned(user) if user is not None else None
        return _by_rules(ranked, name, sessions)

    def _draws(self, user: str, domain: str) -> list[Node]:
        """Rank by draws alone. A login asks for the same user's several times, and ten thousand of them take a
        while."""
        if self._drawn_of != self._cluster.version:
            self._drawn_of = self._cluster.version
            self._drawn.clear()
        ranked = self._drawn.get((user, domain))
        if ranked is None:
            ranked = self._drawn[user, domain] = rank(user, self._cluster.candidates(domain=domain), {})
        return ranked

    def home(self, user: str, domain: str, sessions: Mapping[str, int] = _NOBODY_ANYWHERE) -> Node | None:
        """Return the node where that user belongs.

        ``None`` if users of the domain have no home, no node is up that could be it, or it is full (``sessions`` counts
        by node name): then nobody is sent there, and users elsewhere may stay.
        """
        home = next(iter(self.rank(user, domain, _NOBODY_ANYWHERE, up_only=True)), None)
        if home is None or is_full(home, sessions):
            return None
        has_one = self._policies.of(domain_key(domain)) is _RENDEZVOUS or self._assigned(user) == home.name
        return home if has_one else None

    def floats(self, user: str, domain: str) -> bool:
        """Return whether that user has no home, and goes where the sessions are fewest."""
        return self._policies.of(domain_key(domain)) is PlacementPolicy.LEAST_SESSIONS and self._assigned(user) is None

    def usable(self, domain: str) -> list[Node]:
        """Return the nodes that a user of that domain could be moved to now, in the source's order."""
        return [node for node in self._cluster.candidates(domain=domain_key(domain)) if node.usable]


def rank(user: str | None, candidates: Sequence[Node], sessions: Mapping[str, int]) -> list[Node]:
    """Return the candidates, best first.

    ``user`` is a bare JID in any spelling, ``None`` if it is not known. ``sessions`` counts by node name, a missing
    name is 0, and it matters only for ``None``. A node of weight 0 comes last: nobody who has a choice is placed there.
    """
    if user is None:
        return sorted(candidates, key=lambda node: _load(node, sessions.get(node.name, 0)))
    # NUL separates: it can be in neither part, so no two pairs share their bytes.
    key = user_key(user).encode("utf-8", "surrogatepass") + b"\0"
    # By name where draws are equal, so that the order of the list never decides about a home.
    return [node for _, _, node in sorted([(_draw(key, node), node.key, node) for node in candidates])]


def _by_rules(ranked: Sequence[Node], name: str | None, sessions: Mapping[str, int]) -> list[Node]:
    """Return those with room first, of these the one of that name, then those that don't stand by, and of these last
    the ones that have still to be restarted; otherwise in their order. So nodes that stand by are tried if none of the
    others can be reached."""
    plain = not any(node.spec.priority or node.to_restart or node.spec.max_sessions is not None for node in ranked)
    if name is None and plain:
        return list(ranked)
    return sorted(
        ranked, key=lambda node: (is_full(node, sessions), node.name != name, node.spec.priority, node.to_restart)
    )


def is_full(node: Node, sessions: Mapping[str, int]) -> bool:
    """Return whether it has as many sessions as it may have; ``sessions`` counts by node name."""
    return node.spec.max_sessions is not None and sessions.get(node.name, 0) >= node.spec.max_sessions


def rank_to_resume(ranked: Sequence[Node], holder: Node) -> list[Node]:
    """Rank the candidates for a client whose session ``holder`` has, or had (XEP-0198): best first.

    The holder comes first as long as it is up and keeps its sessions, wherever its user belongs; else one that shares
    sessions with it, if there is any.
    """
    if not holder.leaving and holder.health is Health.UP:
        return [holder, *(node for node in ranked if node is not holder)]
    if holder.spec.resume is Resume.SHARED:
        return sorted(ranked, key=lambda node: node.spec.resume is not Resume.SHARED)
    return list(ranked)


def _load(node: Node, sessions: int) -> float:
    return sessions / node.weight if node.weight else math.inf


def _draw(key: bytes, node: Node) -> float:
    """Return the draw of a user and a node; the smallest wins."""
    weight = node.weight
    if not weight:
        return math.inf
    digest = hashlib.blake2b(key + node.key, digest_size=8).digest()
    uniform = ((int.from_bytes(digest, "big") >> (64 - _DRAW_BITS)) + 0.5) / (1 << _DRAW_BITS)
    return -math.log(uniform) / weight
