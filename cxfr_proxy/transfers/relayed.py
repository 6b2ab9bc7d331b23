"""A live session as its relay offers it to the code that keeps, counts or moves sessions."""

from __future__ import annotations

from typing import Final, Protocol

from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.session.commands import Outcome, Reason, Side, Transferred
from cxfr_proxy.session.ladder import Order, Rung
from cxfr_proxy.session.session import Session
from cxfr_proxy.spellings import user_key
from cxfr_proxy.xmpp import jid

_LEAVES_RESUMABLE: Final = frozenset((Reason.CLIENT_LOST, Reason.TRANSFERRED, Reason.STALLED, Reason.STOPPED))
"""Ends of a session after which its client may come back for it."""


class Relayed(Protocol):
    """A live session as its relay offers it. Times are the relay's clock, in seconds.

    There is one, :class:`cxfr_proxy.relay.live_session.LiveSession`. Its room stands above this one and has sockets;
    here only this much of it is known, and tests need no more.
    """

    id: int
    session: Session
    opened: float

    @property
    def client_address(self) -> str: ...

    @property
    def client_port(self) -> int | None: ...

    @property
    def last_active(self) -> float: ...

    @property
    def tls_version(self) -> str | None: ...

    @property
    def is_websocket(self) -> bool: ...

    @property
    def transport_name(self) -> str: ...

    @property
    def arrival(self) -> Arrival:
        """How its client has come here."""

    def unsent(self, side: Side) -> int:
        """Return how many bytes wait for that side to read."""

    def transfer(self, order: Order) -> None:
        """Have its client told to move."""

    def recall(self) -> None:
        """Take the order back: tell its client nothing more, if it was told to move."""

    def kick(self) -> None:
        """End the session in good order: an operator wants it."""

    def stop(self) -> None:
        """End the session."""


class Addressed:
    """The clients that a JID names, however it is written: a user's, or with a resource the one that has it."""

    def __init__(self, address: str) -> None:
        user, _, self._resource = address.partition("/")
        self._user = user_key(user)

    def includes(self, session: Session) -> bool:
        if session.full_jid is None:
            return False
        user, _, resource = session.full_jid.partition("/")
        return user_key(user) == self._user and (not self._resource or resource == self._resource)


def user_of(session: Session) -> str | None:
    """Return the bare JID of its client, once it is known for certain."""
    return jid.bare(session.full_jid) if session.full_jid is not None else None


def may_come_back(session: Session, reason: Reason) -> bool:
    """Return whether the client of a session that ended so may want to resume it."""
    return reason in _LEAVES_RESUMABLE and session.can_be_resumed


def sent_to(transfer: Transferred) -> str | None:
    """Return the one node for which the client has left; ``None``: any that placement chooses, or the client is still
    there."""
    rung, outcome = transfer.tried[-1]
    return transfer.order.place if outcome is Outcome.MOVED and rung is not Rung.MIGRATE else None
