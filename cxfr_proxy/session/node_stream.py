"""Read the node's stream.

In use, it passes unseen. An element wants a look if it may be a connection transfer, which only the proxy may send, so
that a forged one is kept back; if it answers something that the proxy has asked; or if it is about the stream itself.
:mod:`.node_end` has the ends of the stream.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.errors import NodeError
from cxfr_proxy.session import client_stream, climbing, ending, exchanging, injecting, node_end, standing_in
from cxfr_proxy.session.commands import BoundTo, Forged, Reason, Resumable, Warned
from cxfr_proxy.session.opening import Opening
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import Features, State, Where
from cxfr_proxy.xmpp import connection_transfer, stanza
from cxfr_proxy.xmpp.framing.framer import (
    MAX_EVENTS_PER_SCAN,
    STANZAS,
    USUAL,
    StreamEnd,
    StreamFault,
    StreamStart,
    WholeElement,
    may_be_watched,
)
from cxfr_proxy.xmpp.framing.lane import Piece
from cxfr_proxy.xmpp.names import StanzaCondition, StreamCondition
from cxfr_proxy.xmpp.opening.header import StreamHeader, read_header
from cxfr_proxy.xmpp.opening.verdict import Bound, ElementVerdict

_DUE: Final = Features.DUE
_PROXYS: Final = Features.PROXYS
_ONLY_THE_SERVER: Final = "only the server may move a connection"


# --- reading


def read(parts: Parts) -> None:
    """Read what was fed, as :func:`.client_stream.read` does."""
    node = parts.node
    looks_left = MAX_EVENTS_PER_SCAN
    while node.wanted and (parts.negotiating is not None or not node.lane.opened):
        # Stepwise as long as an element may begin a new stream; the node's elements may be many, so this call looks at
        # a bounded number.
        piece = node.lane.next() if looks_left else None
        if piece is None:
            return
        looks_left -= 1
        _on_piece(parts, piece)
        if piece.last and parts.negotiating is not None:
            return
    data = node.lane.take_unread()
    if node.wanted:
        if data:
            on_scanned(parts, node.lane.scan(data))
        do_what_is_due(parts)


def do_what_is_due(parts: Parts) -> None:
    """Send the client what has waited for a boundary, if there is one behind the last chunk from the node."""
    climbing.send_request_if_due(parts)
    standing_in.answer_if_due(parts)


def on_scanned(parts: Parts, ready: bytes) -> None:
    """Go through what the node's lane has released, and any events among it."""
    node = parts.node
    for piece in node.lane.pieces(ready):
        if node.wanted:  # or the stream is over, or was exchanged for another node's in the middle of this chunk
            _on_piece(parts, piece)


def _on_piece(parts: Parts, piece: Piece) -> None:
    match piece.event:
        case WholeElement() as element:  # Python 3.11 takes 150 ns longer to take its fields out by a pattern
            _on_element(parts, element.name, piece, element.stanzas)
        case None:
            if not exchanging.drops_beginning(parts) and not standing_in.drops_beginning(parts):
                parts.pass_stanza_down(piece.data)
        case StreamStart():
            _on_header(parts, piece.data)
        case StreamEnd():
            node_end.on_end(parts)
        case StreamFault(condition=condition, text=text):
            node_end.on_fault(parts, NodeError(condition, text))


def _on_header(parts: Parts, raw: bytes) -> None:
    try:
        header = read_header(raw, NodeError)
    except NodeError as error:
        node_end.on_fault(parts, error)
        return
    parts.node.greet(header)
    # A client that was greeted by the proxy has got a header already, and must not get another.
    if parts.opening is None or parts.opening.features is not _PROXYS:
        parts.client.show(header)
        parts.pass_down(header.raw)


def _on_element(parts: Parts, name: str, piece: Piece, position: int) -> None:
    header = parts.node.header
    assert header is not None, "a framer reports the header first"
    local = name.rpartition(":")[2]
    is_stanza = local in STANZAS
    # In front of all that follows: a stanza that comes again was looked at when it came first.
    if (parts.exchange is not None or parts.stand_in is not None) and _is_between(
        parts, local, piece.data, position, is_stanza=is_stanza
    ):
        return
    if not piece.whole:
        _on_cut_through(parts, name, piece.data, header)
    elif local == "iq" and may_be_watched(piece.data) and _on_watched_iq(parts, piece.data, header, position):
        return
    elif is_stanza and parts.withholds:
        parts.pass_stanza_down(piece.data)
    elif parts.negotiating is None and name in USUAL and name != "a":
        parts.pass_down(piece.data)
    else:
        _on_stream_element(parts, name, piece.data, header, position)
        if local == "a":
            exchanging.on_node_ack(parts, piece.data, position)
        if parts.replay is not None:
            standing_in.on_node_answered(parts)


def _is_between(parts: Parts, local: str, data: bytes, position: int, *, is_stanza: bool) -> bool:
    """Return whether an element is between the proxy and the node: an answer to what was asked for the session, a
    stanza that must not reach the client (again), or one of XEP-0198."""
    if parts.where is Where.RESUMING:
        _on_resumption(parts, data, position)
        return True
    if is_stanza:
        return exchanging.drops(parts, position) or standing_in.drops(parts, position)
    stand_in = parts.stand_in
    if stand_in is None or not standing_in.on_node_element(parts, stand_in, data, position):
        return False
    if local == "a":
        exchanging.on_node_ack(parts, data, position)
    return True


def _on_resumption(parts: Parts, data: bytes, position: int) -> None:
    """Read what a node says that was asked for the session."""
    if not exchanging.on_element(parts, data, position):
        node_end.on_no_resumption(parts)


def _on_stream_element(parts: Parts, name: str, data: bytes, header: StreamHeader, position: int) -> None:
    """Deal with an element that is about the stream itself, or is part of its opening."""
    try:
        verdict = parts.negotiation.from_node(data, header, parts.domain, position)
    except stanza.MalformedElement:
        if parts.negotiating is not None:
            node_end.on_fault(parts, NodeError(StreamCondition.BAD_NAMESPACE_PREFIX, "an undeclared prefix"))
            return
        parts.report(Warned("it sent an element that can't be read, which was dropped"))
        if name.rpartition(":")[2] in STANZAS:
            injecting.swallow_down(parts, position)
        return
    if verdict.greets and parts.opening is not None:
        _on_greeting(parts.opening, verdict)
    if verdict.forward:
        _fit_to_header(parts, verdict, header)
    _pass(parts, verdict)


def _on_greeting(opening: Opening, verdict: ElementVerdict) -> None:
    # The client was held until the node greets, so that no login goes to a node that says nothing.
    if opening.early is not None:
        verdict.hold_client = False  # the login that was held back for a node that greets may go now
    if opening.features is _PROXYS:
        opening.see_features()
        verdict.forward = b""


def _fit_to_header(parts: Parts, verdict: ElementVerdict, header: StreamHeader) -> None:
    """Rewrite an element for a client that has got another header than the node's: prefixes that are declared in the
    node's mean nothing to it."""
    shown = parts.client.shown
    if shown is not None and header is not shown and header.context != shown.context:
        verdict.forward = stanza.serialize(stanza.parse(verdict.forward, header.context))


# --- transfers that are forged, answers that are ours


def _on_watched_iq(parts: Parts, data: bytes, header: StreamHeader, position: int) -> bool:
    """Return whether an IQ with the watched bytes is not for the client: an answer to us, or a forged transfer."""
    question = parts.closing.question if parts.closing is not None else None
    if question is not None and question.is_pong(data, header.context):
        injecting.swallow_down(parts, position)
        ending.on_last_answer(parts)
        return True
    return _is_forged(parts, data, header, position)


def _is_forged(parts: Parts, data: bytes, header: StreamHeader, position: int) -> bool:
    """Return whether an element with the watched bytes tells the client to move. Only this proxy may do that, so the
    element is kept back and its sender is answered."""
    try:
        element = stanza.parse(data, header.context)
    except stanza.MalformedElement:
        # Too deep for the parser, or with an undeclared prefix. It may be a transfer for a client with another parser,
        # so it is kept back; but a stranger may have sent it, so the stream goes on.
        reply = None
    else:
        if not connection_transfer.is_transfer(element):
            return False
        reply = stanza.error_reply(element, StanzaCondition.NOT_ALLOWED, "cancel", _ONLY_THE_SERVER)
    parts.report(Forged())
    if parts.withholds:
        injecting.swallow_down(parts, position)  # the stream is about to end, so nobody will look at its counts
    else:
        # If the node gets no more of the client's stanzas, it would count a reply as one of them.
        injecting.replace_down(parts, position, reply if parts.node_listens else None)
    return True


def _on_cut_through(parts: Parts, name: str, data: bytes, header: StreamHeader) -> None:
    """Deal with the end of an element that was too long to be held back and wanted a look: most of it is with the
    client."""
    local = name.rpartition(":")[2]
    if local in ("message", "presence"):
        parts.pass_stanza_down(data)  # no client acts on a transfer in a message or a presence
        return
    begun = stanza.start_tag(parts.node.lane.cut_head, header.context)
    if name == "iq" and begun is not None and not connection_transfer.is_request(begun):
        parts.pass_stanza_down(data)
        return
    # It could be a forged transfer, or a redirect, stretched beyond the limit. The client has not got its end yet, so
    # it can't have acted on it, and it never will.
    if local == "iq":
        parts.report(Forged())
    ending.give_up(parts, Reason.NODE_FAULT)


# --- the opening


def _pass(parts: Parts, verdict: ElementVerdict) -> None:
    if verdict.ends is not None:
        _report_warnings(parts)
        node_end.on_error(parts, verdict.ends, verdict)
        return
    parts.pass_down(verdict.forward)
    if verdict.failed is not None:
        parts.report(verdict.failed)
    if parts.opening is not None:
        _open(parts, parts.opening, verdict)
    if verdict.resumable:
        _on_resumable(parts)
    if parts.negotiation.warnings:
        _report_warnings(parts)
    # During an exchange the client is held for another reason. Reading on comes last: it may end the session.
    if verdict.hold_client is False and parts.client.held and parts.exchange is None:
        parts.client.hold(False)
        parts.choose_reading()
        client_stream.read(parts)


def _open(parts: Parts, opening: Opening, verdict: ElementVerdict) -> None:
    """Go on with the opening, behind an element of the node's."""
    opening.note_node(verdict, parts.now, parts.negotiation)
    if verdict.greets:
        # The time for a greeting is over; from here on the whole login has its limit.
        parts.wait_until(opening.bind_by)
    if opening.features is _DUE:
        opening.see_features()
        answer = opening.take_answer()
        if answer:
            parts.pass_down(answer)
            verdict.hold_client = False
    if verdict.restart and parts.negotiating is not None:
        parts.restart()
    if verdict.bound is not None and parts.negotiating is not None:
        _on_bound(parts, verdict.bound)


def _report_warnings(parts: Parts) -> None:
    for warning in parts.negotiation.take_warnings():
        parts.report(Warned(warning))


def _on_resumable(parts: Parts) -> None:
    parts.choose_reading()
    management = parts.accounting.management
    if management.id is not None and management.node_id is not None and parts.state is not State.CLOSED:
        parts.report(Resumable(management.id, management.node_id, management.counters))


def _on_bound(parts: Parts, bound: Bound) -> None:
    parts.come_into_use()
    standing_in.begin(parts)
    parts.report(BoundTo(bound.full_jid, bound.resumed))
