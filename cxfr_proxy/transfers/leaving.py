"""The sessions that have to leave, and their orders: of nodes that are emptied, of nodes that are down, of a worker
that goes.

A session that is to leave for a drain stays where it is if no other node can take it, or if the drain is not at the
stage for it (:mod:`.drain_stages`). A session whose node is gone can't stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.config.choices import OnNodeDown
from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.session import Session
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.orders import Orders
from cxfr_proxy.transfers.relayed import Relayed


@dataclass(slots=True)
class FollowedDrain:
    """A drain in a process that carries it out, which is told its stage."""

    stage: Stage
    late: bool = False
    """It may not be over at its deadline: what is left then is closed, which clients notice more than being held."""
    waiting_reason: str | None = None
    """Why no session can be moved, as their turns have shown; ``None`` while there is no reason."""


class Leaving:
    """Decides which sessions leave, and by which orders. ``on_node_down``: what the operator wants for nodes that are
    down."""

    def __init__(self, cluster: Cluster, orders: Orders, on_node_down: OnNodeDown) -> None:
        self._cluster = cluster
        self._orders = orders
        self.on_node_down = on_node_down
        self.drains: dict[str, FollowedDrain] = {}
        """By node."""
        self.down: set[str] = set()
        """Nodes whose sessions leave because checks find them down."""
        self.everybody: Trigger | None = None
        """The trigger by which all sessions leave, on whatever node they are; ``None``: they don't."""

    def follow(self, node: str, stage: Stage, *, late: bool = False) -> FollowedDrain:
        """Have that node's drain at that stage, whether it was known or not; ``late``: see :class:`FollowedDrain`."""
        drain = self.drains.get(node)
        if drain is None:
            drain = self.drains[node] = FollowedDrain(stage)
        drain.stage, drain.late, drain.waiting_reason = stage, late, None
        return drain

    def in_a_hurry(self, node: str) -> bool:
        """Return whether sessions of that node have to leave as fast as they can, even if clients are held for longer:
        it is down, or its drain is late."""
        return node in self.down or self.is_late(node)

    def is_late(self, node: str) -> bool:
        """Return whether that node's drain is late."""
        drain = self.drains.get(node)
        return drain is not None and drain.late

    def concerns(self, session: Session) -> bool:
        """Return whether the session has to leave its node, which still serves it."""
        # A node that is not listed any more was forgotten while it was empty; this session was being dialled then.
        leaving = session.node not in self._cluster or self._cluster.get(session.node).leaving
        leaving = leaving or session.node in self.down or self.everybody is not None
        return leaving and not session.node_lost

    def order_for(self, relayed: Relayed, now: float) -> Order | None:
        """Return the order for a session that has to leave and whose turn has come; ``None``: it stays for now."""
        session = relayed.session
        if not self.concerns(session):
            return None
        if self.everybody is not None:
            return Order(self.everybody)
        if session.node in self.down:
            return self.order_from_down(relayed, now)
        drain = self.drains.get(session.node)
        return self._order_by_stage(relayed, now, drain if drain is not None else FollowedDrain(Stage.ALL))

    def order_from_down(self, relayed: Relayed, now: float) -> Order | None:
        """Return the order for a session whose node checks find down; ``None``: it stays."""
        session = relayed.session
        if session.node not in self.down or session.node_lost:
            return None
        order = self._orders.away(relayed, Trigger.NODE_DOWN, now)
        if order.target is None:
            return None
        return replace(order, hurried=True, server=None) if self.on_node_down is OnNodeDown.CLOSE else order

    def order_for_the_rest(self, relayed: Relayed, now: float) -> Order | None:
        """Return the order that closes a session at its drain's deadline; ``None`` if no other node can take it: then
        its client is better off where it is."""
        order = self._orders.away(relayed, Trigger.DRAIN, now, hurried=True)
        return order if order.target is not None else None

    def _order_by_stage(self, relayed: Relayed, now: float, drain: FollowedDrain) -> Order | None:
        if not drain.stage.moves:
            return None
        if drain.stage is Stage.AWAKE and relayed.session.inactive:
            drain.waiting_reason = "those that are left are inactive, and not asked before half of the deadline"
            return None
        # A session that was bound after the deadline gets no more time than the others.
        order = self._orders.away(relayed, Trigger.DRAIN, now, hurried=drain.stage is Stage.REST)
        if order.target is None:
            drain.waiting_reason = "no other node is ready to take its clients"
            return None
        return order
