"""What is acknowledged (XEP-0198) on a stream that the proxy adds to and takes from.

Everything that the proxy says as a stanza of its own, and every stanza that it keeps from the other side, goes through
here, so that :mod:`cxfr_proxy.xmpp.stream_management` knows of it. From then on the acknowledgements of both directions
are looked at; a stream that was left alone, which is the rule, passes unseen.

Two promises follow from the counts. What the node did not acknowledge before it went is not acknowledged by anybody,
nor answered: the client will send it again, and once is right. And a stream whose counts differ is not left to be
resumed by those who don't know: it is ended on the node, unless the id that the client has for it is the proxy's own.
"""

from __future__ import annotations

from cxfr_proxy.session.commands import Reason, Shifted, Side
from cxfr_proxy.session.core import Farewell, SessionCore


class Acknowledged(SessionCore):
    """A session whose stanzas are counted, or may be."""

    __slots__ = ()

    def _inject_down(self, data: bytes) -> None:
        """A stanza of the proxy's to the client, at the node's last boundary."""
        self._negotiation.management.injected_down(self._down.stanzas)
        self._send(Side.CLIENT, data)
        self._note_shift()

    def _inject_up(self, data: bytes) -> None:
        self._negotiation.management.injected_up(self._up.stanzas)
        self._send(Side.NODE, data)
        self._note_shift()

    def _swallow_down(self, position: int) -> None:
        """The node's stanza at that position is kept from the client."""
        self._negotiation.management.swallowed_down(position)
        self._note_shift()

    def _swallow_up(self, position: int) -> None:
        self._negotiation.management.swallowed_up(position)
        self._note_shift()

    def _note_shift(self) -> None:
        self._choose_reading()
        management = self._negotiation.management
        if management.resumable and management.counters is not None and not self._ended:
            self._report(Shifted(management.counters))

    def _choose_reading(self) -> None:
        super()._choose_reading()
        shifted = self._negotiation.management.shifted
        self._down.note_acks(shifted)
        self._up.note_acks(shifted)

    def _give_up(self, reason: Reason) -> None:
        if self._node_out and self._negotiation.management.shifted:
            self._end_node_stream(cleanly=not self.can_be_resumed)
        super()._give_up(reason)

    def _close_node_first(self, farewell: Farewell) -> None:
        management = self._negotiation.management
        if self._node_out and management.on:
            # The answer is the last that the client hears of its stanzas.
            self._send(Side.NODE, f"<r xmlns='{management.namespace}'/>".encode())
        super()._close_node_first(farewell)

    def _say_last_ack(self) -> None:
        """The client asks, and there is no node any more to answer."""
        header = self._header_of_node
        if header is not None and not self._down.cutting:
            self._send(Side.CLIENT, self._negotiation.management.last_ack(self._down.ack, header.context) or b"")
