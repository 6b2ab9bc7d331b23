"""What is acknowledged (XEP-0198) on a stream that the proxy adds to and takes from.

Everything that the proxy says as a stanza of its own, and every stanza that it keeps from the other side, goes through
here, so that :mod:`cxfr_proxy.xmpp.stream_management` knows of it. From then on the acknowledgements of both directions
are looked at; a stream that was left alone, which is the rule, passes unseen.

What a stranger can bring about leaves no trace in the counts: a forged transfer is not taken out but *replaced*, by a
ping of the proxy's, and its sender is answered at once, which the client's answer to the ping makes up for. So each
direction has as many stanzas as before.

Two promises follow from the counts. What the node did not acknowledge before it went is not acknowledged by anybody,
nor answered: the client will send it again, and once is right. And a stream whose counts differ is not left to be
resumed by those who don't know: it is ended on the node, unless the id that the client has for it is the proxy's own.
"""

from __future__ import annotations

from cxfr_proxy.session.commands import Reason, Shifted, Side
from cxfr_proxy.session.core import Farewell, SessionCore
from cxfr_proxy.session.state import State
from cxfr_proxy.xmpp import connection_transfer, stanza
from cxfr_proxy.xmpp.connection_transfer import Answer


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

    def _replace_down(self, position: int, reply: bytes | None) -> None:
        """The node's stanza at that position is kept from the client; ``reply``, if there is one, answers it."""
        counted = self._negotiation.management.counting and self.state is not State.NEGOTIATING
        if counted and self._client_out:
            self._send(Side.CLIENT, self._ping())
        else:
            self._swallow_down(position)
        if reply is not None and self._node_out:
            # Without a reply the client's answer goes to the node, which has no use for it, but counts it.
            self._pongs_due += counted
            self._inject_up(reply)

    def _ping(self) -> bytes:
        """All have one id; that they are ours is all we need."""
        self._ping_id = self._ping_id or connection_transfer.new_id(self._policy.token())
        return stanza.ping(self._ping_id, from_=self._domain, to=self.full_jid)

    def _takes_pong(self, answer: Answer, position: int) -> bool:
        """Whether the client's stanza at that position makes up for a reply of the proxy's."""
        if not self._pongs_due or answer.id != self._ping_id:
            return False
        self._pongs_due -= 1
        self._swallow_up(position)
        if self._node_out and self._negotiation.management.on:
            self._ask_for_ack()  # from then on nobody has to know that anything happened
        return True

    def _ask_for_ack(self) -> None:
        self._send(Side.NODE, f"<r xmlns='{self._negotiation.management.namespace}'/>".encode())

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
        if self._node_out and self._negotiation.management.on:
            self._ask_for_ack()  # the answer is the last that the client hears of its stanzas
        super()._close_node_first(farewell)

    def _say_last_ack(self) -> None:
        """The client asks, and there is no node any more to answer."""
        header = self._header_of_node
        if header is not None and not self._down.cutting:
            self._send(Side.CLIENT, self._negotiation.management.last_ack(self._down.ack, header.context) or b"")
