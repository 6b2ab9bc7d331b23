"""Keep the counts true while the proxy adds to a stream and takes from it (XEP-0198), and count what was not delivered.

Every stanza that the proxy sends as its own, and every stanza that it keeps from the other side, is noted here, so that
:mod:`cxfr_proxy.xmpp.stream_management` knows of it. From then on the acknowledgements of both directions are looked
at. As a rule a stream is left alone, and passes unseen.

A stranger can leave no trace in the counts. A forged transfer is not taken out but *replaced* by a ping of the proxy's,
and its sender is answered at once; the client's answer to the ping makes up for that. So each direction has as many
stanzas as before.
"""

from __future__ import annotations

from collections.abc import Callable

from cxfr_proxy.session.commands import Shifted
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.connection_transfer import TransferAnswer, new_id
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.stream_management import StreamManagement


class Accounting:
    """``management`` follows what client and node say of their counts.

    ``late``: stanzas of the client's that could be neither forwarded nor answered. ``undelivered``: bytes of the node's
    that found no client any more.
    """

    __slots__ = ("_ping_id", "_pongs_due", "late", "management", "undelivered")

    def __init__(self, management: StreamManagement) -> None:
        self.management = management
        self.late = 0
        self.undelivered = 0
        self._ping_id = ""  # of the pings that stand for what was kept from the client; none yet
        self._pongs_due = 0

    @property
    def can_be_resumed(self) -> bool:
        """Whether the client may resume this stream elsewhere, and will find its counts right there."""
        management = self.management
        return management.resumable and (not management.shifted or management.id != management.node_id)

    @property
    def shift(self) -> Shifted | None:
        """The report that is due once something was put in or taken out; ``None`` if nobody could resume with it."""
        management = self.management
        if management.resumable and management.counters is not None:
            return Shifted(management.counters)
        return None

    def miss(self, stanzas: int) -> None:
        """Count stanzas of the client's that came too late."""
        self.late += stanzas

    def lose(self, size: int) -> None:
        """Count bytes of the node's that found no client."""
        self.undelivered += size

    def ping(self, domain: str, full_jid: str | None, token: Callable[[], str]) -> bytes:
        """Return the ping that goes to the client in the place of a stanza that is kept from it.

        All these pings have the same id: the answers only have to be recognised as answers to ours.
        """
        self._ping_id = self._ping_id or new_id(token())
        return stanza.ping(self._ping_id, from_=domain, to=full_jid)

    def expect_pong(self) -> None:
        """Note that a reply of the proxy's went to the node: one answer of the client's to a ping makes up for it."""
        self._pongs_due += 1

    def take_pong(self, answer: TransferAnswer) -> bool:
        """Return whether that answer of the client's makes up for a reply of the proxy's. Then the node must not see
        it."""
        if not self._pongs_due or answer.id != self._ping_id:
            return False
        self._pongs_due -= 1
        return True

    def request(self) -> bytes:
        """Return ``<r/>``, which asks either side how far it is."""
        return f"<r xmlns='{self.management.namespace}'/>".encode()

    def last_ack(self, lane: Lane, context: bytes) -> bytes:
        """Return the answer to a client that asks for an acknowledgement when its node is gone; empty if there is none
        to give.

        ``lane`` is the node's, and ``context`` its stream's.
        """
        return self.management.last_ack(lane.ack, context) or b""
