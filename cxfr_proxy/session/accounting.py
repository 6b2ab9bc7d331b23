"""What is counted while the proxy adds to a stream and takes from it (XEP-0198), and what could not be delivered.

Everything that the proxy says as a stanza of its own, and every stanza that it keeps from the other side, is told here,
so that :mod:`cxfr_proxy.xmpp.stream_management` knows of it. From then on the acknowledgements of both directions are
looked at; a stream that was left alone, which is the rule, passes unseen.

What a stranger can bring about leaves no trace in the counts: a forged transfer is not taken out but *replaced*, by a
ping of the proxy's, and its sender is answered at once, which the client's answer to the ping makes up for. So each
direction has as many stanzas as before.
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
        """Whether the client may take this stream up again elsewhere, and finds its counts to be right there."""
        management = self.management
        return management.resumable and (not management.shifted or management.id != management.node_id)

    @property
    def shift(self) -> Shifted | None:
        """What to report once something was put in or taken out; ``None`` where nobody could resume by it."""
        management = self.management
        if management.resumable and management.counters is not None:
            return Shifted(management.counters)
        return None

    def miss(self, stanzas: int) -> None:
        """So many stanzas of the client's came too late."""
        self.late += stanzas

    def lose(self, size: int) -> None:
        """So many bytes of the node's found no client."""
        self.undelivered += size

    def ping(self, domain: str, full_jid: str | None, token: Callable[[], str]) -> bytes:
        """Return what goes to the client in the place of a stanza that is kept from it.

        All have one id; that they are ours is all that has to be known.
        """
        self._ping_id = self._ping_id or new_id(token())
        return stanza.ping(self._ping_id, from_=domain, to=full_jid)

    def expect_pong(self) -> None:
        """A reply of the proxy's went to the node, and the client's answer to the ping makes up for it."""
        self._pongs_due += 1

    def take_pong(self, answer: TransferAnswer) -> bool:
        """Whether that answer of the client's makes up for a reply of the proxy's: the node must not see it."""
        if not self._pongs_due or answer.id != self._ping_id:
            return False
        self._pongs_due -= 1
        return True

    def request(self) -> bytes:
        """Return ``<r/>``, which asks either side how far it is."""
        return f"<r xmlns='{self.management.namespace}'/>".encode()

    def last_ack(self, lane: Lane, context: bytes) -> bytes:
        """Return what the client is told when it asks and the node is gone; empty where nothing can be said.

        ``lane`` is the node's, and ``context`` its stream's.
        """
        return self.management.last_ack(lane.ack, context) or b""
