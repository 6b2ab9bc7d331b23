"""What the client's stream brings.

In use, it passes unseen. While it is negotiated, while a transfer runs and once the node is gone it is read element by
element: an answer to our own IQ is kept from the node, which never saw the question, and a stanza for which there is no
node any more gets an error of type ``wait``, or stays unacknowledged (XEP-0198): it never vanishes.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from cxfr_proxy.errors import ClientError, RemoteError
from cxfr_proxy.session.commands import Awakened, Outcome, Reason, Reroute, Side, Upgrade
from cxfr_proxy.session.core import Farewell
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.session.moving import Moving
from cxfr_proxy.session.node_owes import End, Turn
from cxfr_proxy.session.state import State
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.xmpp import connection_transfer, stanza
from cxfr_proxy.xmpp.framing.framer import MAX_NOTES, USUAL, Element, Failure, Header, StreamEnd, may_be_watched
from cxfr_proxy.xmpp.framing.lane import Piece
from cxfr_proxy.xmpp.names import StanzaCondition, StreamCondition
from cxfr_proxy.xmpp.opening import client_identity
from cxfr_proxy.xmpp.opening.header import read_header
from cxfr_proxy.xmpp.opening.login import read_login
from cxfr_proxy.xmpp.opening.passage import Passage

_NOT_DELIVERED: Final = "not delivered: the connection is being moved, try again"
_STANZAS: Final = (b"<message", b"<presence", b"<iq")


class ClientSide(Moving):
    """A session that hears its client."""

    __slots__ = ()

    def _read_client(self) -> None:
        """Read what was fed: while negotiating step by step, for a restart may come. Not all at once, if it is much."""
        looks_left = MAX_NOTES
        while looks_left and not (self._client_over or self._hold_client or self.state is State.CLOSED):
            if self.state is not State.NEGOTIATING and self._up.opened:
                self._scan_client(self._up.take_unread())
                return
            if self._header_may_repeat and self._up.skip(self._header_to_node.raw):
                continue
            piece = self._up.next()
            if piece is None:
                return
            looks_left -= 1
            if piece.note is not None:
                self._header_may_repeat = False
            self._on_client_piece(piece)

    def _scan_client(self, data: bytes) -> None:
        if data:
            for piece in self._up.pieces(self._up.scan(data)):
                self._on_client_piece(piece)

    def _on_client_piece(self, piece: Piece) -> None:
        match piece.note:
            case None:
                self._pass_up(piece.data)
            case Header():
                self._on_client_header(piece.data)
            case StreamEnd():
                self._on_client_end()
            case Failure(condition=condition, text=text):
                self._on_client_fault(ClientError(condition, text))
            case Element(name=name, stanzas=position):
                self._on_client_element(name, piece, position)

    def _on_client_header(self, raw: bytes) -> None:
        try:
            header = read_header(raw, ClientError)
            if domain_key(header.to or "") != domain_key(self._domain):
                raise ClientError(StreamCondition.HOST_UNKNOWN, "the domain changed at the stream's restart")
        except ClientError as error:
            self._on_client_fault(error)
            return
        self._header_to_node = header
        self._node_open = True
        if self._turn is not None:
            self._turn.opened(self._now)
        self._pass_up(header.raw)

    def _on_client_element(self, name: str, piece: Piece, position: int) -> None:
        data = piece.data
        if not self._client_out:
            # With XEP-0198 it was not acknowledged, and the client knows.
            self._late += data.startswith(_STANZAS) and not self.stream_management
            return
        if self._looks_left and self.state is not State.NEGOTIATING:
            self._get_to_know(name, data)
        usual = name in USUAL and name != "a"
        if self.state is not State.NEGOTIATING and (usual or not self._node_out):
            self._on_client_stanza(name, data, position)
            return
        was_inactive = self.inactive
        try:
            passage = self._negotiation.from_client(data, self._header_to_node, position)
        except ClientError as error:
            self._on_client_fault(error)
            return
        if self.state is not State.NEGOTIATING:
            # After bind nothing is negotiated that could begin a new stream.
            passage.hold_client, passage.start_tls = None, False
        elif self._chosen is not None and self._belongs_elsewhere(passage):
            self._reroute(piece)
            return
        if self._turn is not None and passage.forward:
            self._note_turn(self._turn, passage)
        self._pass_client(passage)
        if name == "a" and self._covers(data, self._header_to_node.context):
            self._settled(answered=True)
        if was_inactive and not self.inactive:
            self._report(Awakened())

    def _note_turn(self, turn: Turn, passage: Passage) -> None:
        if not passage.asks:
            turn.odd = True
        elif passage.hold_client and passage.begins is None:
            turn.responded(self._now)
        else:
            turn.asked(self._now, proved=self._negotiation.proved)

    def _get_to_know(self, name: str, data: bytes) -> None:
        """Look for the client's capabilities, until they are found or the time for it is over."""
        self._looks_left -= 1
        if name == "presence" and client_identity.may_have_caps(data):
            with suppress(stanza.MalformedElement):  # the node's to judge
                self._caps = client_identity.caps(stanza.parse(data, self._header_to_node.context))
        if self._caps is not None:
            self._looks_left = 0
        if not self._looks_left:
            self._choose_reading()

    def _belongs_elsewhere(self, passage: Passage) -> bool:
        """Whether the node was chosen for somebody else than who logs in now, and has nothing to do with him."""
        chosen = self._chosen
        assert chosen is not None
        if passage.begins is None:
            if passage.forward and not passage.hold_client:
                self._chosen = None  # what is no part of a login waits for this node's answer
            return False
        login = read_login(passage.begins, self._domain)
        if login == chosen.login or not chosen.changes_left:
            return False
        self._chosen = replace(chosen, login=login)
        return self._policy.elsewhere(login, self._domain, self.node)

    def _reroute(self, piece: Piece) -> None:
        """End this session in front of a login, which another one with another node takes up."""
        chosen, shown = self._chosen, self._header_to_client
        assert chosen is not None, "or no login is looked at"
        assert shown is not None, "a client is held until it is greeted"
        self._up.put_back(piece)
        self._reason = Reason.REROUTED
        self._end_node_stream(cleanly=True)
        self._end_node_output()
        again = replace(chosen, changes_left=chosen.changes_left - 1, shown=shown.in_use)
        self._end(Reroute(self._header_to_node, self._up, again))

    def _pass_client(self, passage: Passage) -> None:
        if passage.start_tls:
            self._reason = Reason.STARTTLS
            self._end_node_stream(cleanly=True)
            self._end_node_output()
            self._end(Upgrade())
            return
        self._pass_up(passage.forward)
        if passage.failed is not None:
            self._report(passage.failed)
        if passage.answer and self._features_due:
            # It asked before it was told anything; an answer in front of the header would be none.
            self._answer_due, passage.hold_client = passage.answer, True
        else:
            self._send(Side.CLIENT, passage.answer)
        if passage.hold_client:
            self._hold_client = True
            self._choose_reading()

    def _on_client_stanza(self, name: str, data: bytes, position: int) -> None:
        """A stanza that is looked at: it holds the watched bytes, or a transfer runs, or the node is gone."""
        if may_be_watched(data) and self._take_answer(data, position):
            return
        if self._node_listens:
            self._send(Side.NODE, data)
        elif not self.stream_management:
            self._answer_undelivered(data)
        elif name == "r":
            self._say_last_ack()

    def _take_answer(self, data: bytes, position: int) -> bool:
        """Whether it answers one of our own IQs, which the node never saw, and so it must not see the answer."""
        try:
            element = stanza.parse(data, self._header_to_node.context)
        except stanza.MalformedElement:
            return False
        if connection_transfer.mentions_support(element):
            self._knows_cxfr = True
            if connection_transfer.mentions_support(element, self._caps):
                self._learn(True)
            return False
        answer, transfer = connection_transfer.answer(element), self._transfer
        if answer is None or not connection_transfer.fits(element, self._domain, self.full_jid):
            return False
        if transfer is None or answer.id != transfer.iq_id:
            return self._takes_pong(answer, position)
        self._swallow_up(position)
        if transfer.rung is Rung.CXFR:
            if answer.accepted:
                if not transfer.accepted:  # saying it again gains no time
                    self.deadline = self._now + self._policy.timeouts.cxfr_timeout
                    self._note_redirect(transfer)  # it may be there before it has left here
                self._knows_cxfr = transfer.accepted = True
                self._learn(True)
            else:
                self._refusal = client_identity.words(answer.text)
                if answer.unknown_to_it:
                    self._knows_cxfr = False
                    self._learn(False)
                self._next_rung(Outcome.REFUSED)
        return True

    def _answer_undelivered(self, data: bytes) -> None:
        try:
            element = stanza.parse(data, self._header_to_node.context)
        except stanza.MalformedElement:
            return
        reply = stanza.error_reply(element, StanzaCondition.RECIPIENT_UNAVAILABLE, "wait", _NOT_DELIVERED)
        if self._down.cutting:
            self._late += 1  # in the middle of an element nothing can be said
        elif reply is not None:
            self._send(Side.CLIENT, reply)

    def _on_client_end(self) -> None:
        """``</stream:stream>`` from the client: it has said its last word, and may still get the node's."""
        self._blame(End.SILENCE)
        if self.state is not State.CLOSING:
            self._reason = Reason.CLIENT_CLOSED
        self._client_over = self._client_ended = True
        if self._waits_for_answer:
            self._learn(True)  # going is an answer as well
        self._settle_transfer(Outcome.MOVED)
        if self._client_out:
            self._close_node_first(Farewell())
        self._finish_if_over()

    def _on_client_eof(self) -> None:
        if self.state is State.CLOSED:
            return
        self._client_in = False
        if self.state is not State.CLOSING and not self._client_over:
            self._blame(End.SILENCE)
            self._reason = Reason.CLIENT_LOST
        self._settle_transfer(Outcome.MOVED)
        if self._client_over:
            self._finish_if_over()  # it had said its last word, and may still be reading
            return
        if self._client_out:
            self._end_client_output()  # it is gone, so nothing can be said to it any more
        if self._node_out:
            # With XEP-0198 the node keeps a cut session for resumption; without, nobody comes back for it.
            self._end_node_stream(cleanly=not self.can_be_resumed)
            self._end_node_output()
        self._move(State.CLOSING)
        self._await_others(self._policy.timeouts.node_close_timeout)

    def _on_client_fault(self, error: RemoteError) -> None:
        """The client's stream can't go on: the error, the end, and a clean end for the node."""
        self._reason, self._condition = Reason.CLIENT_FAULT, error.condition
        self._client_over = True
        self._settle_transfer(Outcome.MOVED)
        self._end_client(Farewell(error.condition, error.text))
