"""The last things between node and client, before the proxy ends a stream that both would have gone on with.

Ending the node's stream at once leaves something open. So the question is asked first, and from then on nothing more of
the client's goes up: it is answered with ``wait``, or left unacknowledged.

*Without XEP-0198*, what the node still owes. A node need not have answered what it took in when it reads the end of the
stream (ejabberd handles the end before answers that are due from elsewhere in it), and a client would send again what
was neither answered nor acted upon. A ping's answer comes behind all others; then the stream is ended.

*With XEP-0198*, what the client has. What it has not acknowledged when the stream ends, the node takes for undelivered,
and gives back, stores or sends elsewhere (XEP-0198 section 5); what it did get then comes twice. So it is asked, what
the node sends meanwhile is withheld, and its answer is the last word: the node's stream is ended right behind it. What
was withheld is dropped then, since the node knows, by a count, that it did not arrive.

Who doesn't answer in time is not waited for: the client gets all that was withheld, and the stream is ended.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.session.acks import Acknowledged
from cxfr_proxy.session.commands import Side
from cxfr_proxy.session.core import Farewell
from cxfr_proxy.session.state import Settlement
from cxfr_proxy.xmpp import connection_transfer, stanza
from cxfr_proxy.xmpp.framing.framer import STANZAS
from cxfr_proxy.xmpp.stream_management import MODULUS, read_h

_HALF: Final = MODULUS // 2


class Settling(Acknowledged):
    """A session whose node's stream can be ended in good order."""

    __slots__ = ()

    @property
    def _node_listens(self) -> bool:
        """What the client sends may go to the node."""
        return self._node_out and self._settlement is None

    @property
    def _withholds(self) -> bool:
        """Stanzas of the node's are kept, as the client's last word on what it has is asked for or was said."""
        return self._settlement is not None and self._settlement.ping is None

    def _settle_and_close(self, farewell: Farewell) -> None:
        """Ask, and end the node's stream when there is an answer; then say farewell."""
        can_ask = self._node_out and self._node_in and self._client_out
        if not can_ask or self._down.cutting or self._settlement is not None:
            self._close_node_first(farewell)
            return
        self._farewell = farewell
        counters, timeouts = self._negotiation.management.counters, self._policy.timeouts
        if counters is not None:
            self._settlement = Settlement(h=counters.down.receivers_count(self._down.stanzas))
            self._send(Side.CLIENT, f"<r xmlns='{self._negotiation.management.namespace}'/>".encode())
            self._wait_to_close(timeouts.see_other_host_timeout)
        else:
            ping = connection_transfer.new_id(self._policy.token())
            self._settlement = Settlement(ping)
            self._send(Side.NODE, stanza.ping(ping, to=self._domain))
            self._wait_to_close(timeouts.node_close_timeout)
        self._choose_reading()

    def _settled(self, *, answered: bool) -> None:
        settlement, farewell = self._settlement, self._farewell
        assert settlement is not None
        assert farewell is not None
        if answered:
            settlement.over = True
            settlement.withheld.clear()
        else:
            self._release()
        self._close_node_first(farewell)

    def _release(self) -> None:
        """There is no last word: what was withheld is the client's."""
        settlement = self._settlement
        if settlement is not None and not settlement.over:
            self._settlement = None
            self._pass_down(b"".join(settlement.withheld))

    def _end_client(self, farewell: Farewell) -> None:
        self._release()
        super()._end_client(farewell)

    def _choose_reading(self) -> None:
        super()._choose_reading()
        if self._settlement is not None:
            self.fast[Side.NODE] = None
        self._down.note_every(self._withholds)

    def _withhold(self, name: str, data: bytes) -> bool:
        """Whether that element of the node's is kept from the client, for now or for good."""
        settlement = self._settlement
        if settlement is None or not self._withholds or name.rpartition(":")[2] not in STANZAS:
            return False
        if not settlement.over:
            settlement.withheld.append(data)
        return True

    def _is_pong(self, data: bytes, context: bytes) -> bool:
        """Whether an IQ of the node's, which may hold an id of ours, is the answer that is waited for."""
        if self._settlement is None or self._settlement.ping is None or self._settlement.over:
            return False
        try:
            answer = connection_transfer.answer(stanza.parse(data, context))
        except stanza.MalformedElement:
            return False
        return answer is not None and answer.id == self._settlement.ping

    def _covers(self, data: bytes, context: bytes) -> bool:
        """Whether an ``<a/>`` of the client's is the last word that is waited for."""
        settlement = self._settlement
        if settlement is None or not self._withholds or settlement.over:
            return False
        try:
            h = read_h(stanza.parse(data, context))
        except stanza.MalformedElement:
            return False
        return h is not None and (h - settlement.h) % MODULUS < _HALF
