"""What the node's stream brings, and what it means when the node goes.

A node that says it is going away (``system-shutdown``, ``reset``, ``see-other-host``), or that dies without a word, is
not the client's end: its words are held back, and the client is told to move instead. Only where the operator trusts
nodes to redirect does the client hear of ``see-other-host``, and only over TLS and of addresses that are allowed.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.errors import NodeError
from cxfr_proxy.session.client_side import ClientSide
from cxfr_proxy.session.commands import (
    BoundTo,
    Drop,
    Forged,
    LoginFailed,
    NodeLost,
    Outcome,
    Reason,
    Redirected,
    Reroute,
    Resumable,
    Side,
    Warned,
)
from cxfr_proxy.session.core import Farewell
from cxfr_proxy.session.node_owes import End, Owes, Turn
from cxfr_proxy.session.state import State
from cxfr_proxy.xmpp import connection_transfer, jid, stanza
from cxfr_proxy.xmpp.connection_transfer import Server, TransferSyntaxError
from cxfr_proxy.xmpp.framing.framer import (
    MAX_NOTES,
    STANZAS,
    USUAL,
    Element,
    Failure,
    Header,
    StreamEnd,
    may_be_watched,
)
from cxfr_proxy.xmpp.framing.lane import Piece
from cxfr_proxy.xmpp.names import StanzaCondition, StreamCondition
from cxfr_proxy.xmpp.opening.header import StreamHeader, read_header
from cxfr_proxy.xmpp.opening.passage import Bound, Passage

_GOING_AWAY: Final = frozenset((StreamCondition.SYSTEM_SHUTDOWN, StreamCondition.RESET, StreamCondition.SEE_OTHER_HOST))
"""Stream errors by which a node says that its client should be elsewhere. They are held back, and replaced."""


_ITS_OWN_FAULTS: Final = frozenset(
    (
        StreamCondition.INTERNAL_SERVER_ERROR,
        StreamCondition.RESOURCE_CONSTRAINT,
        StreamCondition.REMOTE_CONNECTION_FAILED,
        StreamCondition.SYSTEM_SHUTDOWN,
        StreamCondition.RESET,
    )
)
"""Stream errors that say of a login that the node can't serve it, whoever it is. All others may be about the client."""

_MOST_SILENT: Final = 2
"""Nodes that a client has waited for in vain before it is told so."""
_ONLY_THE_SERVER: Final = "only the server may move a connection"

_HINTS: Final[dict[str, str]] = {
    StreamCondition.NOT_WELL_FORMED: ": does its listener know the PROXY header that send-proxy= sends?",
    StreamCondition.HOST_UNKNOWN: ": is the client's domain one of its domains?",
}
"""What an operator may have to look at when a node ends a login so."""


class NodeSide(ClientSide):
    """A session that hears its node."""

    __slots__ = ()

    def _read_node(self) -> None:
        """Read what was fed, as :meth:`_read_client` does."""
        looks_left = MAX_NOTES
        while self.wants(Side.NODE) and self._reads_stepwise():
            piece = self._down.next() if looks_left else None
            if piece is None:
                return
            looks_left -= 1
            self._on_node_piece(piece)
        data = self._down.take_unread()
        if self.wants(Side.NODE):
            self._scan_node(data)
            self._settle_down()

    def _reads_stepwise(self) -> bool:
        return self.state is State.NEGOTIATING or not self._down.opened

    def _scan_node(self, data: bytes) -> None:
        if data:
            for piece in self._down.pieces(self._down.scan(data)):
                self._on_node_piece(piece)

    def _on_node_piece(self, piece: Piece) -> None:
        if not self._node_in:
            return  # the end of a stream that has said it is over
        match piece.note:
            case None:
                self._pass_down(piece.data)
            case Header():
                self._on_node_header(piece.data)
            case StreamEnd():
                self._on_node_end(Reason.NODE_CLOSED)
            case Failure(condition=condition, text=text):
                self._on_node_fault(NodeError(condition, text))
            case Element(name=name, stanzas=position):
                self._on_node_element(name, piece, position)

    def _on_node_header(self, raw: bytes) -> None:
        try:
            header = self._header_of_node = read_header(raw, NodeError)
        except NodeError as error:
            self._on_node_fault(error)
            return
        if self._greeted:
            return
        self._header_to_client = header
        if self._client_out:
            self._header_due = False
        self._pass_down(header.raw)

    def _on_node_element(self, name: str, piece: Piece, position: int) -> None:
        header = self._header_of_node
        assert header is not None, "a framer reports the header first"
        if not piece.whole:
            self._on_cut_through(name, piece.data, header)
            return
        if _is_iq(name) and may_be_watched(piece.data) and self._is_pong(piece.data, header.context):
            self._swallow_down(position)
            self._settled(answered=True)
            return
        if _is_iq(name) and may_be_watched(piece.data) and self._is_forged(piece.data, header, position):
            return
        if self._withhold(name, piece.data):
            return
        if self.state is not State.NEGOTIATING and name in USUAL and name != "a":
            self._pass_down(piece.data)
            return
        try:
            passage = self._negotiation.from_node(piece.data, header, self._domain, position)
        except stanza.MalformedElement:
            if self.state is State.NEGOTIATING:
                self._on_node_fault(NodeError(StreamCondition.BAD_NAMESPACE_PREFIX, "an undeclared prefix"))
            else:
                self._report(Warned("it sent an element that can't be read, which was dropped"))
                if name.rpartition(":")[2] in STANZAS:
                    self._swallow_down(position)
            return
        if passage.greets and self._chosen is not None:
            passage.hold_client = False
        if passage.greets and self._greeted:
            self._greeted = False
            passage.forward = b""
        elif passage.forward and header is not self._header_to_client:
            self._fit_to_header(passage, header)
        self._pass_node(passage)

    def _fit_to_header(self, passage: Passage, header: StreamHeader) -> None:
        """The client has got another header than the node's: its prefixes, if they differ, mean nothing to it."""
        if self._header_to_client is not None and header.context != self._header_to_client.context:
            passage.forward = stanza.serialize(stanza.parse(passage.forward, header.context))

    def _on_cut_through(self, name: str, data: bytes, header: StreamHeader) -> None:
        """The end of an element too long to be held back, with something about it that wanted a look: too late."""
        if name in ("message", "presence"):
            self._pass_down(data)  # they may say what they like
            return
        begun = stanza.start_tag(self._down.cut_head, header.context)
        if name == "iq" and begun is not None and not connection_transfer.is_request(begun):
            self._pass_down(data)
            return
        # It could be a forged transfer, or a redirect, stretched beyond the limit. The client hasn't got its end yet,
        # so it can't have acted on it, and it never will.
        if _is_iq(name):
            self._report(Forged())
        self._give_up(Reason.NODE_FAULT)

    def _is_forged(self, data: bytes, header: StreamHeader, position: int) -> bool:
        """Whether an element with the watched bytes tells the client to move. Only this proxy may do that: it is kept
        back, and its sender is answered."""
        try:
            element = stanza.parse(data, header.context)
        except stanza.MalformedElement:
            # Some stranger's: too deep for the parser, or with an undeclared prefix. Only this one is kept back.
            reply = None
        else:
            if not connection_transfer.is_transfer(element):
                return False
            reply = stanza.error_reply(element, StanzaCondition.NOT_ALLOWED, "cancel", _ONLY_THE_SERVER)
        self._report(Forged())
        if self._withholds:
            self._swallow_down(position)  # a stream that is about to end needs no right counts
        else:
            # Behind stanzas of the client's that were not passed on, a reply would be counted as one of them.
            self._replace_down(position, reply if self._node_listens else None)
        return True

    def _pass_node(self, passage: Passage) -> None:
        if passage.ends is not None:
            self._report_warnings()
            self._on_node_error(passage.ends, passage)
            return
        if self._turn is not None:
            self._note_node_turn(self._turn, passage)
        self._pass_down(passage.forward)
        if passage.failed is not None:
            self._report(passage.failed)
        if self._features_due:
            self._features_due = False
            self._give_answer_due(passage)
        negotiating = self.state is State.NEGOTIATING
        if passage.restart and negotiating:
            self._node_open = False
            self._up.restart()
            self._down.restart()
            self._header_due = self._features_due = True
            self._greeted, self._chosen = False, None
        if passage.bound is not None and negotiating:
            self._on_bound(passage.bound)
        if passage.resumable:
            self._on_resumable()
        self._report_warnings()
        if passage.hold_client is False and self._hold_client:
            self._hold_client = False
            self._choose_reading()
            self._read_client()

    def _note_node_turn(self, turn: Turn, passage: Passage) -> None:
        if passage.greets:
            turn.greeted(self._now)
            self.deadline = self._login_by
        elif passage.restart:
            turn.accepted(self._now, restarts=True)
        elif passage.hold_client is False and self._negotiation.proved:
            turn.accepted(self._now, restarts=False)
        elif passage.hold_client is False:
            turn.answered(challenges=passage.failed is None)
        elif turn.owes is Owes.RESOURCE:
            turn.answered()

    def _give_answer_due(self, passage: Passage) -> None:
        answer, self._answer_due = self._answer_due, b""
        if answer:
            self._pass_down(answer)
            passage.hold_client = False

    def _report_warnings(self) -> None:
        for warning in self._negotiation.warnings:
            self._report(Warned(warning))
        self._negotiation.warnings = ()

    def _on_resumable(self) -> None:
        self._choose_reading()
        management = self._negotiation.management
        if management.id is not None and management.node_id is not None and not self._ended:
            self._report(Resumable(management.id, management.node_id, management.counters))

    def _on_bound(self, bound: Bound) -> None:
        limits = self._policy.limits
        self.deadline = None
        self._up.limit_elements(limits.max_element_up)
        self._down.limit_elements(None)
        self._down.max_held = limits.max_element_down
        self._chosen = self._negotiation.attempt = self._turn = None
        self._header_to_node = self._header_to_node.in_use
        if self._header_to_client is not None and self._header_of_node is not None:
            self._header_to_client = self._header_to_client.in_use
            self._header_of_node = self._header_of_node.in_use
        self._move(State.BOUND)
        self._report(BoundTo(bound.full_jid, bound.resumed))

    def _on_node_error(self, condition: str, error: Passage) -> None:
        self._node_in = False
        redirect = self._trusted_redirect(error.redirect)
        if self._farewell is not None:
            self._say_farewell()  # the node's own reason comes too late to matter
        elif self.state is State.CLOSING:
            self._finish_if_over()
        elif redirect is not None:
            self._reason = Reason.NODE_REDIRECTED
            self._settle_transfer(Outcome.MOVED)
            self._report(Redirected())
            self._end_client(Farewell(StreamCondition.SEE_OTHER_HOST, content=str(redirect)))
        elif condition in _GOING_AWAY and self.state is not State.NEGOTIATING:
            # Held back; what follows is the end of the node's stream, said or unsaid.
            redirected = condition == StreamCondition.SEE_OTHER_HOST
            self._lose_node(Reason.NODE_REDIRECTED if redirected else Reason.NODE_SHUTDOWN)
        else:
            self._reason, self._condition = Reason.NODE_CLOSED, condition
            if self.state is State.NEGOTIATING:
                if error.forward:
                    said = f" ({error.ends_text})" if error.ends_text else ""
                    hint = _HINTS.get(condition, "")
                    self._report(Warned(f"it ended a login by the stream error {condition}{said}{hint}"))
                if condition in _ITS_OWN_FAULTS and self._turn is not None and not self._turn.odd:
                    self._report(LoginFailed(condition))
            self._settle_transfer(Outcome.MOVED)
            # Before bind nothing can be moved, and a redirect would lead around the proxy.
            if condition == StreamCondition.SEE_OTHER_HOST:
                farewell = Farewell(StreamCondition.RESET, "reconnect")
            elif error.forward:
                farewell = Farewell(verbatim=error.forward)
            else:
                farewell = Farewell(condition, "the server can't be used at the moment")
            self._end_client(farewell)

    def _trusted_redirect(self, address: str | None) -> Server | None:
        """Where the node sends the client, if it is believed and may; the proxy says it in words of its own.

        Not twice in a while, as the proxy itself: another node may send the client back. Before there is a user nobody
        can tell, and how often it follows is for the client to say.
        """
        policy, user = self._policy, jid.bare(self.full_jid) if self.full_jid is not None else None
        if address is None or not (policy.trust_node_redirects and self._tls):
            return None
        if policy.redirected_lately(user, self._now):
            return None
        try:
            server = Server.parse(address)
        except TransferSyntaxError:
            return None
        return server if policy.redirect_targets.allow(server.host) else None

    def _on_node_end(self, reason: Reason) -> None:
        """The node's stream is over, by ``</stream:stream>``."""
        self._node_in = False
        self._blame(End.STREAM_END)
        if self._farewell is not None:
            self._say_farewell()
        elif self.state is State.TRANSFERRING:
            self._lose_node(reason)
        elif self.state is not State.CLOSING:
            self._reason = reason
            self._close_node_first(Farewell())
        self._finish_if_over()

    def _on_node_eof(self) -> None:
        if self.state is State.CLOSED:
            return
        if not self._node_in:
            self._finish_if_over()
            return
        self._node_in = False
        if self._farewell is not None:
            self._say_farewell()
        elif self.state is State.NEGOTIATING:
            self._on_login_lost()
        elif self.state is not State.CLOSING:
            self._lose_node(Reason.NODE_LOST)
        self._finish_if_over()

    def _on_login_lost(self) -> None:
        if self._header_of_node is None:
            self._report(Warned("it closed a connection without a word: does it expect a PROXY header (send-proxy=)?"))
        self._blame(End.HANG_UP)
        self._on_client_unserved()

    def _on_no_greeting(self) -> None:
        """Another one is tried, where neither side has heard a word of the other."""
        turn = self._turn
        assert turn is not None, "not bound yet"
        self._report(Warned("it does not greet a client within node-greeting-timeout"))
        if not turn.odd:
            self._report(LoginFailed(End.SILENCE.value))
        if turn.spoken or not (self._header_due or self._chosen) or len(self._silent) >= _MOST_SILENT:
            self._on_client_unserved()
            return
        self._reason = Reason.REROUTED
        self._end_node_stream(cleanly=True)
        self._end(Reroute(self._header_to_node, self._up, self._chosen, (*self._silent, self.node)))

    def _on_client_unserved(self) -> None:
        """The node went away before there was a session worth moving."""
        self._reason, self._condition = Reason.NODE_LOST, StreamCondition.REMOTE_CONNECTION_FAILED
        self._end_client(Farewell(StreamCondition.REMOTE_CONNECTION_FAILED, "the server went away, try again"))

    def _on_node_fault(self, error: NodeError) -> None:
        """The node's bytes can't be followed any further; what came before them is whole."""
        self._node_in = False
        self._condition = error.condition
        self._report(Warned(f"the node broke its stream: {error}"))
        if self._farewell is not None:
            self._say_farewell()
        elif self.state is State.NEGOTIATING:
            self._blame(End.GARBAGE)
            self._on_client_unserved()
        elif self._down.cutting:
            self._give_up(Reason.NODE_FAULT)  # the client's stream is broken as well
        elif self.state is State.CLOSING:
            self._finish_if_over()
        else:
            self._lose_node(Reason.NODE_FAULT)

    def _give_up_node(self) -> bool:
        """Checks find it dead: nothing is waited for, and what it does not take may hold up nobody. Whether the client
        is still here."""
        if self._node_out:
            self._node_in = False
            self._lose_node(Reason.NODE_DOWN)
            if self.state is State.CLOSED:
                return False
            self._out.append(Drop(Side.NODE))
        return True

    def _lose_node(self, reason: Reason) -> None:
        """The client is still here: tell it to move, or go on telling it."""
        self._reason = reason
        if self._down.cutting:
            self._give_up(reason)  # in the middle of an element nothing can be said any more
            return
        self._end_node_stream(cleanly=reason is not Reason.NODE_LOST)
        self._end_node_output()
        self._choose_reading()
        if self._transfer is not None:
            self._transfer.recalled = False  # nobody can stay here
        if self.state is State.BOUND:
            self._report(NodeLost(reason))


def _is_iq(name: str) -> bool:
    """Whether a tag, as written, is an IQ's, whatever its prefix."""
    return name.rpartition(":")[2] == "iq"
