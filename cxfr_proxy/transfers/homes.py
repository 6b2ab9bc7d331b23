"""Decide whether a session is where its user belongs, and where it should go if not.

A session on another node stays there if that is the right one when its turn comes, or if the node is being emptied or
is down: then something else moves it.
"""

from __future__ import annotations

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.session.session import Session
from cxfr_proxy.session.tables import State
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import user_of


class Homes:
    """Answers by the node list and the sessions as they are at the moment."""

    def __init__(self, cluster: Cluster, registry: Registry, placement: Placement) -> None:
        self._cluster = cluster
        self._registry = registry
        self._placement = placement

    def is_misplaced(self, session: Session) -> bool:
        """Return whether its user has a home, and it is elsewhere."""
        user = user_of(session)
        home = self._home(user, session) if user is not None else None
        return home is not None and home.name != session.node

    def may_move(self, session: Session) -> bool:
        """Return whether the session may be moved merely to a better place."""
        stays = session.node in self._cluster and self._cluster.get(session.node).usable
        return stays and session.state is State.BOUND and not session.node_lost

    def node_for(self, session: Session, planned: str | None) -> Node | None:
        """Return the node where it belongs by now; ``None``: where it is.

        ``planned``: the node to which it was to go to even the load, if its user has no home.
        """
        user = user_of(session)
        if user is None:
            return None
        home = self._home(user, session)
        if home is not None or planned is None or not self._placement.floats(user, session.domain):
            return home
        source = self._cluster.get(session.node)
        usable = self._placement.usable(session.domain)
        return next((node for node in usable if node.name == planned and self._evens(source, node)), None)

    def _home(self, user: str, session: Session) -> Node | None:
        return self._placement.home(user, session.domain, self._registry.sessions_by_node())

    def _evens(self, source: Node, target: Node) -> bool:
        """Return whether the load gets no less even by moving one session from the one to the other."""
        sessions = self._registry.sessions_by_node()
        return (sessions[source.name] - 1) * target.weight >= sessions.get(target.name, 0) * source.weight
