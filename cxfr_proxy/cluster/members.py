"""The live list of nodes.

Two axes never mix: what the operator wants (:class:`~.nodes.AdminState`) and what checks see (:class:`~.nodes.Health`).
A node whose line is gone stays, ``removed``, for as long as sessions live on it.

Nobody looks through ten thousand nodes to find the one that has changed. :meth:`Cluster.watch` reports each change of a
node's state, whatever caused it, and what follows from the whole list is computed once for each of its versions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from cxfr_proxy.cluster.nodes import AdminState, Health, NodeSpec, SessionOutlook
from cxfr_proxy.cluster.words import did_you_mean
from cxfr_proxy.errors import ConfigError

_SHOWN_NAMES: Final = 50
"""Known nodes that an error names: a longer list helps nobody."""
_DOMAINS_KEPT: Final = 64
"""Domains for which the candidates are kept: clients make up any number of domains."""
_TOLD: Final = frozenset(
    ("admin_state", "features", "health", "removed", "session_outlook", "spec", "to_restart", "warm_up")
)
"""The attributes of a node whose change is reported."""
_READY: Final = AdminState.READY
_UP: Final = Health.UP


class UnknownNode(ConfigError):
    """A name that no node has."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = list(known)
        shown = ", ".join(names[:_SHOWN_NAMES]) + (
            f" and {more} more" if (more := len(names) - _SHOWN_NAMES) > 0 else ""
        )
        super().__init__(f"no node '{name}'{did_you_mean(name, names)}; known: {shown or 'none'}")
        self.name = name


def _nobody() -> None:
    pass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check, for people. ``text``: ``ok``, or the fault in a few words; ``at`` is when it was over, by
    the checks' clock, and ``seconds`` how long it took."""

    text: str
    at: float
    seconds: float


class Node:
    """One node as it stands now. Checks set ``health``; the operator sets ``admin_state`` by :meth:`set_admin_state`.

    ``changed`` is called behind each change of its state (:data:`_TOLD`)."""

    __slots__ = (
        "_changed",
        "admin_state",
        "check",
        "checks_failed",
        "features",
        "health",
        "health_since",
        "key",
        "removed",
        "session_outlook",
        "spec",
        "to_restart",
        "warm_up",
    )

    def __init__(self, spec: NodeSpec, changed: Callable[[], None] = _nobody) -> None:
        object.__setattr__(self, "_changed", _nobody)  # what is set at first is no change
        self.spec = spec
        self.key = spec.name.encode()
        """Its name, as draws take it (:mod:`.placement`)."""
        self.admin_state = spec.admin_state
        self.health = Health.UP
        self.health_since: float | None = None
        """By the checks' clock; ``None``: from the beginning."""
        self.session_outlook = SessionOutlook.GOOD
        """The outlook of the sessions that it has; see :mod:`.health`."""
        self.check: CheckResult | None = None
        """The last check; ``None``: there was none yet."""
        self.checks_failed = 0
        self.removed = False
        """Its line is gone; it is kept while sessions live on it."""
        self.features: Mapping[str, bytes] = {}
        """The stream features with which it last greeted a client that has not logged in, by domain, as the node
        wrote them, in the default namespaces of the usual header; empty before the first check. Replaced, never
        changed."""
        self.warm_up = 1.0
        """How much of its weight counts, 0 to 1, during its warm-up."""
        self.to_restart = False
        """It has still to be restarted in a roll (:mod:`.roll`): users are placed on it only if no other node of its
        priority takes them."""
        self._changed: Callable[[], None] = changed

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _TOLD:
            object.__setattr__(self, name, value)
        elif getattr(self, name, None) != value:
            object.__setattr__(self, name, value)
            self._changed()

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.admin_state}, {self.health}{', removed' if self.removed else ''}>"

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def weight(self) -> float:
        """Return its share of users relative to the other nodes', now."""
        return self.spec.weight * self.warm_up

    @property
    def leaving(self) -> bool:
        """Return whether its sessions have to leave."""
        return self.removed or self.admin_state is not _READY

    @property
    def accepts_new(self) -> bool:
        """Return whether the operator lets users be placed here, whether it is up or down."""
        return not self.leaving and self.spec.weight > 0

    @property
    def usable(self) -> bool:
        return self.accepts_new and self.health is _UP

    def set_admin_state(self, admin_state: AdminState) -> None:
        """Set the admin state at run time: it holds until the node's ``state=`` is changed in its source."""
        self.admin_state = admin_state

    def read(self, spec: NodeSpec) -> None:
        """Take over a new reading of the line; a node that is back after removal starts from what it says."""
        if self.removed or spec.admin_state is not self.spec.admin_state:
            self.admin_state = spec.admin_state
        if spec.address != self.spec.address:
            self.health = Health.UP  # what was seen at the old address says nothing about the new one
            self.health_since = self.check = None
            self.session_outlook = SessionOutlook.GOOD
            self.features, self.warm_up = {}, 1.0
        self.spec = spec
        self.removed = False


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes by a new list, by names; a node may appear in several fields. False if nothing changed."""

    added: tuple[str, ...] = ()
    """New, or back after removal."""
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Nodes with another address or other options, ``state=`` included."""
    emptied: tuple[str, ...] = ()
    """Nodes that became drain, maint or removed: their sessions have to leave now."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.emptied)


PlacementBasis = frozenset[tuple[str, int, int, tuple[str, ...]]]
"""See :meth:`Cluster.placement_basis`."""


class Cluster:
    """The live list, in the order of the source; removed nodes at the end."""

    def __init__(self, specs: Iterable[NodeSpec] = ()) -> None:
        self._nodes: dict[str, Node] = {}
        self.version = 0
        """The list's version: one more with each change of a node or of the list."""
        self.list_version = 0
        """One more with each change of which nodes there are, and in which order."""
        self._watchers: list[Callable[[str], None]] = []
        self._removed: list[Node] = []
        self._worked_out = 0  # the version that what follows is of
        self._candidates: dict[str | None, tuple[list[Node], list[Node]]] = {}
        self._placement_basis: PlacementBasis | None = None
        self._rolling: bool | None = None
        self.apply(specs)

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call ``changed`` with the name of each node that changes, comes, or is forgotten."""
        self._watchers.append(changed)

    def _relist(self) -> None:
        self.list_version += 1
        self.version += 1
        self._removed = [node for node in self._nodes.values() if node.removed]

    def _note(self, name: str) -> None:
        self.version += 1
        for changed in self._watchers:
            changed(name)

    def __iter__(self) -> Iterator[Node]:
        return iter(tuple(self._nodes.values()))

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    @property
    def removed(self) -> Sequence[Node]:
        """Return the nodes whose line is gone."""
        return self._removed

    def get(self, name: str) -> Node:
        """Return the node of that name, removed ones included. Raises :class:`UnknownNode`."""
        try:
            return self._nodes[name]
        except KeyError:
            raise UnknownNode(name, self._nodes) from None

    def down_of(self, names: Iterable[str]) -> list[str]:
        """Return those of the nodes that are down; one that is not known is not."""
        return [name for name in names if name in self._nodes and self._nodes[name].health is Health.DOWN]

    def apply(self, specs: Iterable[NodeSpec]) -> Changes:
        """Make the list be ``specs``. Raises :class:`ValueError`, and changes nothing, for a name twice."""
        specs = tuple(specs)
        listed = {spec.name: spec for spec in specs}
        if len(listed) != len(specs):
            raise ValueError("a name is there twice")
        before = {name: (node.removed, node.admin_state) for name, node in self._nodes.items()}
        added = tuple(name for name in listed if name not in before or before[name][0])
        removed = tuple(name for name, (gone, _) in before.items() if name not in listed and not gone)
        new = frozenset(added)
        changed = tuple(n for n, spec in listed.items() if n not in new and _differs(spec, self._nodes[n].spec))
        self._take_over(listed)
        emptied = tuple(
            node.name
            for node in self
            if node.name in before and node.leaving and (node.removed, node.admin_state) != before[node.name]
        )
        return Changes(added=added, removed=removed, changed=changed, emptied=emptied)

    def _take_over(self, listed: Mapping[str, NodeSpec]) -> None:
        old, self._nodes = self._nodes, {}
        for name, spec in listed.items():
            node = old.pop(name, None)
            if node is None:
                self._nodes[name] = Node(spec, partial(self._note, name))
                self._note(name)
            else:
                self._nodes[name] = node
                node.read(spec)
        for node in old.values():
            self._nodes[node.name] = node
            node.removed = True
        self._relist()

    def forget(self, name: str) -> None:
        """Drop a removed node that has become empty.

        Raises :class:`UnknownNode`, and :class:`ValueError` where the node is still listed.
        """
        if not self.get(name).removed:
            raise ValueError(f"node '{name}' is still listed")
        del self._nodes[name]
        self._relist()
        self._note(name)

    def placement_basis(self) -> PlacementBasis:
        """Return what decides where users belong, warm-up apart: each usable node's name, priority, weight, domains.

        Two equal ones place every user alike; one that differs is a reason to look at everybody's place again.
        """
        self._forget_what_was()
        if self._placement_basis is None:
            self._placement_basis = frozenset(
                (node.name, node.spec.priority, node.spec.weight, node.spec.domain) for node in self if node.usable
            )
        return self._placement_basis

    @property
    def rolling(self) -> bool:
        """Return whether a roll goes on, or has stopped on its way: nobody is moved to where they belong meanwhile."""
        self._forget_what_was()
        if self._rolling is None:
            self._rolling = any(node.to_restart for node in self)
        return self._rolling

    def unserved_without(self, name: str, domains: Sequence[str] = ()) -> tuple[str, ...] | None:
        """Return the domains whose logins nobody would take if that node took none; empty: all domains.

        ``domains`` are the keys of those that the proxy serves, none if it serves any. ``None``: other nodes would take
        all logins, or this node takes none as it is.
        """
        node = self.get(name)
        if not node.accepts_new:
            return None
        others = [other for other in self if other.usable and other is not node]
        if not others:
            return ()
        served = node.spec.domain or domains
        unserved = tuple(domain for domain in served if not any(other.spec.serves(domain) for other in others))
        return unserved or None

    def candidates(self, exclude: Collection[str] = (), *, domain: str | None = None) -> list[Node]:
        """Return the nodes on which a user of that domain may be placed, in the source's order; ``None``: of any
        domain.

        If none of them is up, those that are down but would be welcome: better to try than to refuse.
        """
        usable, welcome = self._candidates_of(domain)
        if exclude:
            usable = [node for node in usable if node.name not in exclude]
            welcome = [node for node in welcome if node.name not in exclude] if not usable else welcome
        return list(usable or welcome)

    def _candidates_of(self, domain: str | None) -> tuple[list[Node], list[Node]]:
        """Return the nodes that are up, and all that would be welcome."""
        self._forget_what_was()
        known = self._candidates.get(domain)
        if known is None:
            welcome = [node for node in self._nodes.values() if node.accepts_new and node.spec.serves(domain)]
            known = [node for node in welcome if node.usable], welcome
            if len(self._candidates) >= _DOMAINS_KEPT:
                self._candidates.clear()
            self._candidates[domain] = known
        return known

    def _forget_what_was(self) -> None:
        if self._worked_out != self.version:
            self._worked_out = self.version
            self._candidates.clear()
            self._placement_basis = self._rolling = None


def _differs(spec: NodeSpec, other: NodeSpec) -> bool:
    return spec is not other and spec != other
