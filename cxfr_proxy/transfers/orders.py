"""Make the orders of sessions: the node to which each goes, and the address that its client is told.

The target is chosen at the moment at which the order is given, since minutes may have gone by while the session waited.
"""

from __future__ import annotations

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import NodeSpec, Resume, SessionOutlook
from cxfr_proxy.cluster.placement import Placement, rank_to_resume
from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.session import Session
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import Relayed, user_of
from cxfr_proxy.xmpp.connection_transfer import Server


class Orders:
    """Makes orders from the node list and the sessions as they are at the moment. ``migrates``: the proxy has a
    certificate with which it can take sessions to other nodes."""

    def __init__(self, cluster: Cluster, registry: Registry, placement: Placement, *, migrates: bool = False) -> None:
        self._cluster = cluster
        self._registry = registry
        self._placement = placement
        self.migrates = migrates

    def away(self, relayed: Relayed, trigger: Trigger, now: float, *, hurried: bool = False) -> Order:
        """Return the order that sends a session to the node that suits its user best, other than its own.

        It has no target if no node can take the session: its client then reconnects to the domain, and finds what there
        is. ``hurried``: it is closed without being asked.
        """
        session = relayed.session
        ranked = self._placement.rank(
            user_of(session),
            session.domain,
            self._registry.sessions_by_node(),
            exclude=(session.node,),
            up_only=trigger in (Trigger.DRAIN, Trigger.NODE_DOWN),  # these sessions are served: a down node is worse
        )
        source = self._source(session)
        if source is not None:
            ranked = [node for node in rank_to_resume(ranked, source) if node is not source]
        if ranked:
            return self.to(ranked[0], relayed, trigger, now, hurried=hurried)
        return Order(trigger, hurried=hurried, node_dead=_is_dead(source))

    def to(self, node: Node, relayed: Relayed, trigger: Trigger, now: float, *, hurried: bool = False) -> Order:
        """Return the order that sends a session to that node."""
        source, target = self._source(relayed.session), node.spec
        server, url = self._address(target, relayed, now)
        return Order(
            trigger,
            target=target.name,
            server=server,
            url=url,
            hurried=hurried,
            resumes=source is not None
            and source.spec.resume is target.resume is Resume.SHARED
            and not _is_dead(source),
            node_dead=_is_dead(source),
            migrates=target.migrates and self.may_migrate(relayed),
        )

    def may_migrate(self, relayed: Relayed) -> bool:
        """Return whether the proxy could take the session to another node itself, if that node lets it."""
        source = self._source(relayed.session)
        serves = source is not None and source.spec.migrates and not _is_dead(source)
        return self.migrates and serves and relayed.session.can_migrate

    def _source(self, session: Session) -> Node | None:
        """Return the session's node; ``None``: its line is gone, and it was forgotten while it was empty and this
        session was being dialled."""
        return self._cluster.get(session.node) if session.node in self._cluster else None

    def _address(self, target: NodeSpec, relayed: Relayed, now: float) -> tuple[Server | None, str | None]:
        """Return the address that the client is told, and its URL if it is on WebSocket; ``None``: to come back to
        where it was.

        There may be another proxy at that address, which sees it otherwise and sends the client back. So a user is told
        an address only once in a while, and only if they would be recognised the next time.
        """
        public, url = (target.public_ws, str(target.public_ws)) if relayed.is_websocket else (target.public, None)
        user = user_of(relayed.session)
        if public is None or user is None or self._registry.memory.redirected_lately(user, now):
            return None, None
        return Server(public.host, public.port), url


def _is_dead(source: Node | None) -> bool:
    return source is not None and source.session_outlook is SessionOutlook.DEAD
