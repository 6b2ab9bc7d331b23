"""Tell all processes to which node a client is sent, before the client can come back to one of them.

So an order with a place waits until all processes were told. A client on the same machine was seen to be bound again,
by another worker, nine milliseconds after it had left.
"""

from __future__ import annotations

from typing import Protocol

from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.tables import State
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import Relayed


class Announcer(Protocol):
    """Informs the other processes of what this one's mover does."""

    def announce(self, relayed: Relayed, order: Order) -> None:
        """Tell them that this client is to be sent to a certain node: it may come back to one of them.

        :meth:`Announcements.made` is called when all of them were told.
        """

    def withdraw(self, relayed: Relayed, order: Order) -> None:
        """Tell them that it is not, after all."""

    def progressed(self) -> None:
        """Note that a rebalance was planned, or has got further without anybody having been asked."""


class Announcements:
    """The orders that wait until the others were told. ``announcer``: ``None`` if there are no others."""

    def __init__(self, registry: Registry, announcer: Announcer | None) -> None:
        self._registry = registry
        self._announcer = announcer
        self._pending: dict[int, tuple[Relayed, Order]] = {}

    def __contains__(self, session_id: int) -> bool:
        """Return whether that session waits for its order."""
        return session_id in self._pending

    def count(self, trigger: Trigger) -> int:
        """Return how many sessions wait for an order with that trigger."""
        return sum(order.trigger is trigger for _, order in self._pending.values())

    def send(self, relayed: Relayed, order: Order, now: float) -> None:
        """Give that session its order, which has a place, as soon as all processes know."""
        full_jid = relayed.session.full_jid
        assert full_jid is not None, "without it nobody knows the place"
        assert order.place is not None
        self._registry.memory.about_to_be_asked(full_jid, relayed.client_address, order.place, now)
        self._pending[relayed.id] = relayed, order
        if self._announcer is not None:
            self._announcer.announce(relayed, order)
        else:
            self.made(relayed.id)

    def made(self, session_id: int) -> None:
        """Give that session its order: all processes know where its client is to go."""
        relayed, order = self._pending.pop(session_id, (None, None))
        if relayed is None or order is None:
            return
        if self._registry.get(session_id) is relayed and relayed.session.state is State.BOUND:
            relayed.transfer(order)
        else:
            self._take_back(relayed, order)

    def _take_back(self, relayed: Relayed, order: Order) -> None:
        """Withdraw the order: something else has moved the session meanwhile, or ended it."""
        full_jid = relayed.session.full_jid
        if full_jid is not None and order.place is not None:
            self._registry.memory.stayed(full_jid, relayed.client_address, order.place)
        if self._announcer is not None:
            self._announcer.withdraw(relayed, order)
            self._announcer.progressed()
