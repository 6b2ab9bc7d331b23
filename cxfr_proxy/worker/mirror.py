"""A worker's copy of the list of nodes, kept true by what :mod:`cxfr_proxy.supervisor.workers.node_states` sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.ipc.messages import BadMessage, Nodes, NodeState
from cxfr_proxy.transfers.rebalances import RebalanceTerms


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was taken over: nodes that have changed, by name; those that are gone; the rebalance that goes
    on."""

    changed: dict[str, NodeState]
    forgotten: tuple[str, ...]
    rebalance: RebalanceTerms | None


class Mirror:
    """A worker's copy of the list, kept in ``cluster``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pieces: list[Nodes] = []
        self._states: dict[str, NodeState] = {}
        self._names: tuple[str, ...] = ()
        self._features: dict[str, bytes] = {}

    def apply(self, piece: Nodes) -> Batch | None:
        """Take over the batch whose last piece this is; ``None``: there is more of it. Raises :class:`BadMessage`."""
        self._pieces.append(piece)
        if not piece.last:
            return None
        pieces, self._pieces = self._pieces, []
        changed = {state.spec.name: state for each in pieces for state in each.states}
        forgotten = tuple(name for each in pieces for name in each.forgotten)
        names = tuple(name for each in pieces for name in each.names)
        for each in pieces:
            self._features |= {known: text.encode() for known, text in each.features.items()}
        relisted = any(_is_listed_anew(state, self._states.get(name)) for name, state in changed.items())
        self._states |= changed
        for name in forgotten:
            self._states.pop(name, None)
        self._names = names or self._names
        # Health and stages change often, the list seldom: only the list makes placement work everything out anew.
        if names or forgotten or relisted:
            # Before the states are followed: they are about nodes that may be new.
            self._cluster.apply(self._specs())
        for state in changed.values():
            self._follow(state)
        for name in forgotten:
            if name in self._cluster:
                self._cluster.forget(name)
        if any(each.states or each.forgotten for each in pieces):
            self._forget_features()
        return Batch(changed, forgotten, piece.rebalance)

    def _specs(self) -> Iterator[NodeSpec]:
        """Put the listed nodes in order. Their order may come a batch later than they do."""
        for name in dict.fromkeys((*self._names, *self._states)):
            state = self._states.get(name)
            if state is not None and not state.removed:
                yield state.spec

    def _follow(self, state: NodeState) -> None:
        if state.spec.name in self._cluster:  # else its line was gone before this worker began
            node = self._cluster.get(state.spec.name)
            node.set_admin_state(state.admin_state)
            node.health, node.session_outlook, node.warm_up = state.health, state.session_outlook, state.warm_up
            node.to_restart = state.to_restart
            try:
                node.features = {domain: self._features[known] for domain, known in state.features.items()}
            except KeyError:
                raise BadMessage(f"features of '{node.name}' that were not told") from None

    def _forget_features(self) -> None:
        known = {each for state in self._states.values() for each in state.features.values()}
        self._features = {each: text for each, text in self._features.items() if each in known}


def _is_listed_anew(state: NodeState, before: NodeState | None) -> bool:
    return before is None or (state.spec, state.removed) != (before.spec, before.removed)
