"""Tell all processes to which node a client is sent, before the client can come back to one of them.

So an order with a place waits until all processes were told. A client on the same machine was seen to be bound again,
by another worker, nine milliseconds after it had left.
"""

from __future__ import annotations

from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.tables import State
from cxfr_proxy.transfers.client_news import Moved, Stayed
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import Relayed


class Announcements:
    """The orders that wait until the others were told."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pending: dict[int, tuple[Relayed, Order]] = {}

    def __contains__(self, session_id: int) -> bool:
        """Return whether that session waits for its order."""
        return session_id in self._pending

    def count(self, trigger: Trigger) -> int:
        """Return how many sessions wait for an order with that trigger."""
        return sum(order.trigger is trigger for _, order in self._pending.values())

    @property
    def migrating(self) -> int:
        """How many of them the proxy will take to another node itself."""
        return sum(order.migrates for _, order in self._pending.values())

    def send(self, relayed: Relayed, order: Order, now: float) -> None:
        """Give that session its order, which has a place, as soon as all processes know."""
        full_jid = relayed.session.full_jid
        assert full_jid is not None, "without it nobody knows the place"
        assert order.place is not None
        self._pending[relayed.id] = relayed, order
        self._registry.spread(Moved(relayed.id, full_jid, relayed.client_address, order.place), now)

    def made(self, session_id: int, now: float) -> None:
        """Give that session its order: all processes know where its client is to go."""
        relayed, order = self._pending.pop(session_id, (None, None))
        if relayed is None or order is None:
            return
        # It may have ended while the others were told, or an order that could not wait may have moved it.
        if self._registry.get(session_id) is relayed and relayed.session.state is State.BOUND:
            relayed.transfer(order)
        else:
            self._take_back(relayed, order, now)

    def _take_back(self, relayed: Relayed, order: Order, now: float) -> None:
        """Withdraw the order: something else has moved the session meanwhile, or ended it."""
        full_jid = relayed.session.full_jid
        if full_jid is not None and order.place is not None:
            self._registry.spread(Stayed(full_jid, relayed.client_address, order.place), now)
        self._registry.changed()
