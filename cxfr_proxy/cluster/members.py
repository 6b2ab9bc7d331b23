"""The live list of nodes.

Two axes that never mix: what the operator wants (:class:`~.nodes.Wish`) and what checks see (:class:`~.nodes.Health`).
A node whose line is gone stays, ``removed``, for as long as sessions live on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from cxfr_proxy.cluster.nodes import Health, NodeSpec, Wish
from cxfr_proxy.cluster.words import did_you_mean
from cxfr_proxy.errors import ConfigError


class UnknownNode(ConfigError):
    """A name that no node bears."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = list(known)
        super().__init__(f"no node '{name}'{did_you_mean(name, names)}; known: {', '.join(names) if names else 'none'}")
        self.name = name


class Node:
    """One node as it stands now. Checks set ``health``; the operator sets the wish by :meth:`set_wish`."""

    __slots__ = ("features", "health", "ramp", "removed", "spec", "wish")

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.wish = spec.wish
        self.health = Health.UP
        self.removed = False
        """Its line is gone; it is kept while sessions live on it."""
        self.features: dict[str, bytes] = {}
        """By domain: the stream features with which it last greeted a client that has not logged in, as it wrote them,
        in the default namespaces of the usual header; none where nobody has looked."""
        self.ramp = 1.0
        """How much of its weight counts, 0 to 1: a node that has come back is filled slowly."""

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.wish}, {self.health}{', removed' if self.removed else ''}>"

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def weight(self) -> float:
        """Its share of users against the other nodes', now."""
        return self.spec.weight * self.ramp

    @property
    def leaving(self) -> bool:
        """Whether its sessions have to leave."""
        return self.removed or self.wish is not Wish.READY

    @property
    def accepts_new(self) -> bool:
        """Whether the operator lets users be placed here, be it up or down."""
        return not self.leaving and self.spec.weight > 0

    @property
    def usable(self) -> bool:
        return self.accepts_new and self.health is Health.UP

    def set_wish(self, wish: Wish) -> None:
        """The operator's order at run time: holds until the node's ``state=`` is changed in its source."""
        self.wish = wish

    def read(self, spec: NodeSpec) -> None:
        """Take over a new reading of the line; a node that is back after removal starts from what it says."""
        if self.removed or spec.wish is not self.spec.wish:
            self.wish = spec.wish
        if spec.address != self.spec.address:
            self.health = Health.UP  # what was seen at the old address says nothing about the new one
        self.spec = spec
        self.removed = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new list changed, by names; a node may stand in several. False where nothing did."""

    added: tuple[str, ...] = ()
    """New, or back after removal."""
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Another address or other options, ``state=`` included."""
    emptied: tuple[str, ...] = ()
    """Became drain, maint or removed: their sessions have to leave now."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.emptied)


class Cluster:
    """The live list, in the order of the source; removed nodes at the end."""

    def __init__(self, specs: Iterable[NodeSpec] = ()) -> None:
        self._nodes: dict[str, Node] = {}
        self.apply(specs)

    def __iter__(self) -> Iterator[Node]:
        return iter(tuple(self._nodes.values()))

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def get(self, name: str) -> Node:
        """The node of that name, removed ones included. Raises :class:`UnknownNode`."""
        try:
            return self._nodes[name]
        except KeyError:
            raise UnknownNode(name, self._nodes) from None

    def apply(self, specs: Iterable[NodeSpec]) -> Changes:
        """Make the list be ``specs``. Raises :class:`ValueError`, and changes nothing, for a name twice."""
        specs = tuple(specs)
        listed = {spec.name: spec for spec in specs}
        if len(listed) != len(specs):
            raise ValueError("a name is there twice")
        before = {name: (node.removed, node.wish) for name, node in self._nodes.items()}
        added = tuple(name for name in listed if name not in before or before[name][0])
        removed = tuple(name for name, (gone, _) in before.items() if name not in listed and not gone)
        changed = tuple(n for n, spec in listed.items() if n not in added and spec != self._nodes[n].spec)
        self._take_over(listed)
        emptied = tuple(
            node.name
            for node in self
            if node.name in before and node.leaving and (node.removed, node.wish) != before[node.name]
        )
        return Changes(added=added, removed=removed, changed=changed, emptied=emptied)

    def _take_over(self, listed: Mapping[str, NodeSpec]) -> None:
        old, self._nodes = self._nodes, {}
        for name, spec in listed.items():
            node = old.pop(name, None)
            if node is None:
                node = Node(spec)
            else:
                node.read(spec)
            self._nodes[name] = node
        for node in old.values():
            node.removed = True
            self._nodes[node.name] = node

    def forget(self, name: str) -> None:
        """Drop a removed node that has become empty.

        Raises :class:`UnknownNode`, and :class:`ValueError` where the node is still listed.
        """
        if not self.get(name).removed:
            raise ValueError(f"node '{name}' is still listed")
        del self._nodes[name]

    def candidates(self, exclude: Collection[str] = (), *, domain: str | None = None) -> list[Node]:
        """The nodes a user of that domain may be placed on, in the source's order; ``None``: of any domain.

        Where none of them is up, those that are down but would be welcome: better to try than to refuse.
        """
        welcome = [node for node in self if node.accepts_new and node.name not in exclude and node.spec.serves(domain)]
        return [node for node in welcome if node.usable] or welcome
