"""Send the list of nodes to a worker: what has changed, in pieces.

A worker's copy of the list is kept true and never sent again as a whole; otherwise ten thousand nodes that each go down
would be sent ten thousand times. :class:`NodeUpdates`, one for each worker, remembers which nodes the worker has to be
told of, and nothing of what has happened to them: a node that has changed five times before its turn comes is sent
once, as it is then. So what is sent is always a state. A worker that has just begun is told of all nodes.

A *batch* is everything that there was to send at one moment, in as many :class:`~cxfr_proxy.ipc.messages.Nodes` as it
takes, the last of them marked. The worker's end (``Mirror``) takes it over as a whole: nobody is placed by half a list.

Stream features are long, and usually the same on all nodes: they are sent once, and referred to by a hash. Both ends
forget one as soon as no node refers to it any more. It goes by what it has sent, so it never assumes features
that the other end has forgotten.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final, TypeVar

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.ipc.messages import Nodes, NodeState
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.drains import Drain
from cxfr_proxy.transfers.rebalances import RebalanceTerms

STATES_A_PIECE: Final = 100
"""Nodes per piece: some 45 kB, and a fraction of a millisecond at either end."""
NAMES_A_PIECE: Final = 1000
"""Names per piece of the list."""

_T = TypeVar("_T")


def digest(features: bytes) -> str:
    """Return the hash by which features are referred to."""
    return hashlib.blake2b(features, digest_size=16).hexdigest()


class NodeStates:
    """The nodes as workers have to know them, worked out once for all workers. ``drains`` are those that are kept, by
    node.

    :meth:`changed` has to be called for each node that has changed, or whose stage has.
    """

    def __init__(self, cluster: Cluster, drains: Mapping[str, Drain]) -> None:
        self._cluster = cluster
        self._drains = drains
        self._states: dict[str, NodeState] = {}
        self._names: tuple[str, ...] = ()
        self._names_version = -1  # the version of the list
        self.rebalance: RebalanceTerms | None = None
        """The rebalance that is running."""

    def changed(self, name: str) -> None:
        self._states.pop(name, None)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all listed nodes, in the source's order; the same object as long as they are the same."""
        if self._names_version != self._cluster.list_version:
            self._names_version = self._cluster.list_version
            names = tuple(node.name for node in self._cluster if not node.removed)
            if names != self._names:
                self._names = names
        return self._names

    def of(self, name: str) -> NodeState | None:
        """Return the node's state; ``None``: there is no such node any more."""
        state = self._states.get(name)
        if state is None and name in self._cluster:
            state = self._states[name] = self._state(self._cluster.get(name))
        return state

    def _state(self, node: Node) -> NodeState:
        drain = self._drains.get(node.name)
        return NodeState(
            node.spec,
            node.admin_state,
            node.health,
            node.removed,
            drain.stage if drain is not None else Stage.ALL,  # without a drain there is no reason to wait for anything
            node.session_outlook,
            node.warm_up,
            {domain: digest(features) for domain, features in node.features.items()},
            node.to_restart,
            drain is not None and drain.late,
        )

    def text(self, name: str, domain: str) -> str:
        """Return that node's features for that domain."""
        return self._cluster.get(name).features[domain].decode()


class NodeUpdates:
    """The changes that still have to be sent to one worker; see the module."""

    def __init__(self, states: NodeStates) -> None:
        self._states = states
        self._stale: dict[str, None] = dict.fromkeys(states.names)
        self._sent: dict[str, NodeState] = {}
        self._held: Counter[str] = Counter()  # by digest: how many of the sent states refer to it
        self._names: tuple[str, ...] = ()
        self._rebalance: RebalanceTerms | None = None
        self._begun = False

    def changed(self, name: str) -> None:
        """Note that the node has changed since it was sent."""
        self._stale[name] = None

    @property
    def up_to_date(self) -> bool:
        """Return whether everything was sent."""
        # "is": the names are one object as long as they are the same, and may be ten thousand.
        same = self._names is self._states.names and self._rebalance == self._states.rebalance
        return self._begun and same and not self._stale

    def batch(self) -> Iterator[Nodes]:
        """Yield everything that is to be sent now, in pieces, each as things stand when it is asked for. Nothing if
        the worker is up to date; what changes meanwhile belongs to the next batch."""
        if self.up_to_date:
            return
        stale, self._stale, self._begun = list(self._stale), {}, True
        listed = self._states.names
        names = () if listed is self._names else listed
        self._names = listed
        pieces = list(zip_longest(_cut(stale, STATES_A_PIECE), _cut(names, NAMES_A_PIECE), fillvalue=()))
        sent = 0
        try:
            for sent, (part, names_part) in enumerate(pieces or [((), ())], start=1):
                yield self._piece(part, tuple(names_part), last=sent >= len(pieces))
        finally:  # the receiver may stop early, if the worker ends: what was not sent belongs to the next batch
            for part, _ in pieces[sent:]:
                self._stale.update(dict.fromkeys(part))

    def _piece(self, changed: Sequence[str], names: tuple[str, ...], *, last: bool) -> Nodes:
        states: list[NodeState] = []
        features: dict[str, str] = {}
        for name in changed:
            state = self._states.of(name)
            if state is not None:
                states.append(state)
                # Before _note() counts this state, or all features would be held already.
                new = {known: domain for domain, known in state.features.items() if not self._held[known]}
                features |= {known: self._states.text(name, domain) for known, domain in new.items()}
            self._note(name, state)
        forgotten = tuple(name for name in changed if name not in self._sent)
        if last:
            self._rebalance = self._states.rebalance
        return Nodes(tuple(states), forgotten, names, features, self._rebalance, last)

    def _note(self, name: str, state: NodeState | None) -> None:
        before = self._sent.pop(name, None)
        if state is not None:
            self._sent[name] = state
            self._held.update(state.features.values())
        for known in before.features.values() if before is not None else ():
            self._held[known] -= 1
            if not self._held[known]:
                del self._held[known]


def _cut(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[at : at + size] for at in range(0, len(items), size))
