"""Read the client's stream.

In use, it passes unseen. While the stream is negotiated, while a transfer runs and once the node is gone, it is read
element by element. An answer to one of our own IQs is kept from the node, which never saw the question. A stanza for
which there is no node any more is answered with an error of type ``wait``, or stays unacknowledged (XEP-0198): none
vanishes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from cxfr_proxy.errors import ClientError, RemoteError
from cxfr_proxy.session import climbing, ending, exchanging, injecting, standing_in
from cxfr_proxy.session.closing import Farewell
from cxfr_proxy.session.commands import Awakened, Outcome, Reason, Reroute, Side, Upgrade
from cxfr_proxy.session.node_owes import End
from cxfr_proxy.session.opening import Opening
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import Features, Incoming, State, Transition
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.xmpp import connection_transfer, stanza
from cxfr_proxy.xmpp.connection_transfer import TransferAnswer
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
from cxfr_proxy.xmpp.opening import client_identity
from cxfr_proxy.xmpp.opening.header import read_header
from cxfr_proxy.xmpp.opening.verdict import ElementVerdict
from cxfr_proxy.xmpp.stream_management import is_request

_NEGOTIATING: Final = State.NEGOTIATING
_READ: Final = Incoming.READ
_CLIENT: Final = Side.CLIENT
_NOT_DELIVERED: Final = "not delivered: the connection is being moved, try again"


# --- reading


def read(parts: Parts) -> None:
    """Read what was fed, step by step while negotiating, since a restart may come. A bound keeps one call from looking
    at everything, if that is much."""
    client = parts.client
    looks_left = MAX_EVENTS_PER_SCAN
    while looks_left and client.incoming is _READ:
        opening = parts.negotiating
        # Nothing is negotiated any more: what is left goes through the faster way.
        if opening is None and client.lane.opened:
            data = client.lane.take_unread()
            if data:
                on_scanned(parts, client.lane.scan(data))
            return
        if opening is not None and opening.header_may_repeat and client.lane.skip(client.header.raw):
            continue  # QXmpp's second header, see Opening
        piece = client.lane.next()
        if piece is None:
            return
        looks_left -= 1
        if opening is not None and opening.header_may_repeat and piece.event is not None:
            opening.note_piece()
        _on_piece(parts, piece)
        if piece.last:
            return


def on_scanned(parts: Parts, ready: bytes) -> None:
    """Go through what the client's lane has released, and any events among it."""
    for piece in parts.client.lane.pieces(ready):
        _on_piece(parts, piece)
    if parts.exchange is not None:
        exchanging.settle_if_ready(parts, parts.exchange)


def _on_piece(parts: Parts, piece: Piece) -> None:
    match piece.event:
        case WholeElement() as element:  # Python 3.11 takes 150 ns longer to take its fields out by a pattern
            _on_element(parts, element.name, piece, element.stanzas)
        case None:
            parts.pass_up(piece.data)
        case StreamStart():
            _on_header(parts, piece.data)
        case StreamEnd():
            _on_end(parts)
        case StreamFault(condition=condition, text=text):
            on_fault(parts, ClientError(condition, text))


def _on_header(parts: Parts, raw: bytes) -> None:
    try:
        header = read_header(raw, ClientError)
        # The node, and the certificate, were chosen by the domain of the first header.
        if header.to != parts.domain and domain_key(header.to or "") != domain_key(parts.domain):
            raise ClientError(StreamCondition.HOST_UNKNOWN, "the domain changed at the stream's restart")
    except ClientError as error:
        on_fault(parts, error)
        return
    parts.client.begin(header)
    parts.node.open(header)
    if parts.opening is not None:
        parts.opening.turn.opened(parts.now)
    parts.pass_up(header.raw)


def _on_element(parts: Parts, name: str, piece: Piece, position: int) -> None:
    client, data = parts.client, piece.data
    local = name.rpartition(":")[2]
    is_stanza = local in STANZAS
    if not client.writable:
        # With XEP-0198 the stanza stays unacknowledged, so the client knows that it did not arrive.
        parts.accounting.miss(is_stanza and not parts.accounting.management.on)
        return
    if parts.negotiating is not None:
        _on_stream_element(parts, local, piece, position)
        return
    if client.looks_left:
        _get_to_know(parts, local, data)
    stand_in = parts.stand_in
    if stand_in is not None and standing_in.on_client_element(parts, stand_in, local, data, position):
        return
    # The node has to see acknowledgements with its own counts, so <a/> is no ordinary stanza here. A stanza with a
    # prefix is counted as one (XEP-0198), so it has to be treated as one.
    usual = is_stanza or (name in USUAL and name != "a")
    if usual or not parts.node.writable:
        _on_stanza(parts, local, data, position)
    else:
        _on_stream_element(parts, local, piece, position)


def _on_stream_element(parts: Parts, local: str, piece: Piece, position: int) -> None:
    """Deal with an element that is about the stream itself, or is part of its opening."""
    negotiation, client = parts.negotiation, parts.client
    was_inactive = negotiation.inactive
    try:
        verdict = negotiation.from_client(piece.data, client.header, position, piece.note)
    except ClientError as error:
        on_fault(parts, error)
        return
    opening = parts.negotiating
    if opening is None:
        # After bind nothing is negotiated that could begin a new stream.
        verdict.hold_client, verdict.start_tls = None, False
    # Looked at before anything is forwarded: the node of the wrong user must not see the login.
    elif opening.early is not None and _belongs_elsewhere(parts, opening, verdict):
        _reroute(parts, opening, piece)
        return
    if parts.opening is not None and verdict.forward:
        parts.opening.note_client(verdict, parts.now, negotiation)
    _pass(parts, verdict, is_stanza=local in STANZAS)
    standing_in.on_client_asked(parts)
    if local == "a":
        _on_ack(parts, piece.data)
    if was_inactive and not negotiation.inactive:
        parts.report(Awakened())


def _on_ack(parts: Parts, data: bytes) -> None:
    question = parts.closing.question if parts.closing is not None else None
    exchanging.on_client_ack(parts, data)
    if question is not None and question.is_covered(data, parts.client.header.context):
        ending.on_last_answer(parts)


def _pass(parts: Parts, verdict: ElementVerdict, *, is_stanza: bool) -> None:
    # The client's socket goes back to its connection for the handshake (RFC 6120 section 5.4.2.3). The node's stream
    # was opened for the plain one, and a new one follows.
    if verdict.start_tls:
        parts.because(Reason.STARTTLS)
        ending.end_node_stream(parts)
        ending.end_node_output(parts)
        ending.end(parts, Upgrade())
        return
    if is_stanza and parts.node.writable:
        parts.pass_stanza_up(verdict.forward)
    else:
        parts.pass_up(verdict.forward)
    if verdict.failed is not None:
        parts.report(verdict.failed)
    if verdict.answer:
        _answer(parts, verdict)
    if verdict.hold_client:
        parts.client.hold(True)
        parts.choose_reading()


def _answer(parts: Parts, verdict: ElementVerdict) -> None:
    opening = parts.opening
    if opening is not None and opening.features is Features.DUE:
        # It asked before it had a header; an answer in front of the header would not be XML of any stream.
        opening.postpone(verdict.answer)
        verdict.hold_client = True
    else:
        parts.send(_CLIENT, verdict.answer)


# --- another node


def _belongs_elsewhere(parts: Parts, opening: Opening, verdict: ElementVerdict) -> bool:
    """Return whether the node was chosen for somebody else than the user who logs in now, and is not that user's
    node."""
    login = verdict.begins
    if login is None:
        if verdict.forward and not verdict.hold_client:
            opening.settle_for_node()
        return False
    return opening.name(login) and parts.policy.surroundings.is_elsewhere(login, parts.domain, parts.node.name)


def _reroute(parts: Parts, opening: Opening, piece: Piece) -> None:
    """End this session in front of a login. Another session, with another node, takes that up."""
    early, client = opening.early, parts.client
    assert early is not None, "or no login is looked at"
    assert client.shown is not None, "a client is held until it is greeted"
    # The login is read again, by the next session: it may be a password, and this node must not see it.
    client.lane.put_back(piece, piece.note)
    parts.because(Reason.REROUTED)
    ending.end_node_stream(parts)
    ending.end_node_output(parts)
    # Only the form of the header is kept, which the client has got: its id and addresses are of no use to the next
    # session.
    again = replace(early, changes_left=early.changes_left - 1, shown=client.shown.in_use)
    ending.end(parts, Reroute(client.header, client.lane, again))


# --- stanzas


def _get_to_know(parts: Parts, name: str, data: bytes) -> None:
    """Look for the client's capabilities, until they are found or the time for it is over."""
    client, caps = parts.client, None
    if name == "presence" and client_identity.may_have_caps(data):
        with suppress(stanza.MalformedElement):  # it goes to the node all the same, which will judge it
            caps = client_identity.caps(stanza.parse(data, client.header.context))
    client.look(caps)
    if not client.looks_left:
        parts.choose_reading()


def _on_stanza(parts: Parts, name: str, data: bytes, position: int) -> None:
    """Deal with a stanza that wants a look: it holds the watched bytes, or a transfer runs, or the node is gone."""
    if may_be_watched(data) and _take_answer(parts, data, position):
        return
    asks = name == "r" and is_request(data, parts.client.header.context)
    if parts.node_listens and asks:
        parts.pass_request_up(data)
    elif parts.node_listens and name in STANZAS:
        parts.pass_stanza_up(data)
    elif parts.node_listens:
        parts.pass_up(data)
    elif not parts.accounting.management.on:
        _answer_undelivered(parts, data)
    elif asks:
        _say_last_ack(parts)


def _take_answer(parts: Parts, data: bytes, position: int) -> bool:
    """Return whether the stanza answers one of our own IQs. The node never saw that, so it must not see the answer."""
    client, transfer = parts.client, parts.transfer
    try:
        element = stanza.parse(data, client.header.context)
    except stanza.MalformedElement:
        return False
    # A disco#info result to anybody tells as well: it goes on to whoever has asked.
    if connection_transfer.mentions_support(element):
        client.show_support(True)
        if connection_transfer.mentions_support(element, client.caps):
            climbing.learn(parts, True)
        return False
    answer = connection_transfer.answer(element)
    if answer is None or not connection_transfer.fits(element, parts.domain, parts.negotiation.full_jid):
        return False
    # An answer that is late, to a request of an earlier transfer, or to the ping that replaced a forged one.
    if transfer is None or answer.id != transfer.iq_id:
        return injecting.takes_pong(parts, answer, position)
    injecting.swallow_up(parts, position)
    if transfer.is_question:
        _on_answer(parts, answer)
    return True


def _on_answer(parts: Parts, answer: TransferAnswer) -> None:
    """Act on the client's answer to the request by which it is asked to move."""
    client, transfer = parts.client, parts.transfer
    assert transfer is not None
    if answer.accepted:
        if not transfer.accepted:  # answering again must not extend the deadline
            parts.wait(parts.policy.timeouts.cxfr_timeout)
            ending.note_redirect(parts, transfer)  # now: it may arrive there before it leaves here
        transfer.accept()
        client.show_support(True)
        climbing.learn(parts, True)
        return
    client.refuse(client_identity.words(answer.text))
    if answer.unknown_to_it:
        client.show_support(False)
        climbing.learn(parts, False)
    climbing.try_next_rung(parts, transfer, Outcome.REFUSED)


def _answer_undelivered(parts: Parts, data: bytes) -> None:
    try:
        element = stanza.parse(data, parts.client.header.context)
    except stanza.MalformedElement:
        return
    # Type "wait": the client may send the same again (RFC 6120 section 8.3.2), and should, on its next stream.
    reply = stanza.error_reply(element, StanzaCondition.RECIPIENT_UNAVAILABLE, "wait", _NOT_DELIVERED)
    if parts.cuts_client:
        parts.accounting.miss(1)  # an answer would land in the middle of an element of the node's
    elif reply is not None and parts.accounting.management.counting and parts.node.writable:
        # A client that has asked for XEP-0198 counts already. If the node still says yes, the client sends again by
        # itself what was not acknowledged; an answer would make it come twice.
        kept = parts.close().keep_answer(reply, parts.policy.limits.max_unacknowledged)
        parts.accounting.miss(not kept)
    elif reply is not None:
        parts.send(_CLIENT, reply)


def _say_last_ack(parts: Parts) -> None:
    """Answer a client that asks for an acknowledgement when its node is gone."""
    header, lane = parts.node.header, parts.node.lane
    if header is not None and not parts.cuts_client:
        parts.send(_CLIENT, parts.accounting.last_ack(lane, header.context))


# --- ends


def _on_end(parts: Parts) -> None:
    """Act on ``</stream:stream>`` from the client: nothing follows from it, and it may still get what the node
    sends."""
    if parts.client.over:
        return  # an element in front of it, in the same chunk, was a fault
    ending.blame_node(parts, End.SILENCE)
    if parts.state is not State.CLOSING:
        parts.because(Reason.CLIENT_CLOSED)
    parts.client.receive(Incoming.ENDED)
    # Before settle_transfer(), which forgets it.
    if parts.transfer is not None and parts.transfer.unanswered:
        climbing.learn(parts, True)  # it left because it was asked to, so it understood
    ending.settle_transfer(parts, Outcome.MOVED)
    if parts.client.writable and standing_in.ends_on_node(parts):
        ending.ask_and_close(parts, Farewell())  # a node that is told how far its client is owes it nothing behind that
    elif parts.client.writable:
        ending.close_node_first(parts, Farewell())
    ending.finish_if_over(parts)


def on_eof(parts: Parts) -> None:
    """Act on the end of the client's connection, with or without the end of its stream."""
    if parts.state is State.CLOSED:
        return
    client, was_over = parts.client, parts.client.over
    client.receive(Incoming.GONE)
    if parts.state is not State.CLOSING and not was_over:
        ending.blame_node(parts, End.SILENCE)
        parts.because(Reason.CLIENT_LOST)
    ending.settle_transfer(parts, Outcome.MOVED)
    if was_over:
        ending.finish_if_over(parts)  # it had ended its stream, and may still be reading
        return
    if client.writable:
        ending.end_client_output(parts)  # it is gone, so nothing can be said to it any more
    if parts.node.writable:
        # With XEP-0198 the node keeps the session of a stream that is cut; without, nobody comes back for it.
        if not parts.accounting.can_be_resumed:
            ending.end_node_stream(parts)
        ending.end_node_output(parts)
    parts.go(Transition.ENDS)
    ending.await_others(parts, parts.policy.timeouts.node_close_timeout)


def on_broken_carrier(parts: Parts, error: ClientError) -> None:
    """Act on a client that has broken what carries its stream. Behind the stream's end it does not matter."""
    if parts.state is not State.CLOSED and not parts.client.over:
        on_fault(parts, error)


def on_fault(parts: Parts, error: RemoteError, reason: Reason = Reason.CLIENT_FAULT) -> None:
    """End the client's stream by an error, and the node's in good order: the client's can't be read on."""
    parts.because(reason, error.condition)
    if not parts.client.over:
        parts.client.receive(Incoming.FAILED)
    ending.settle_transfer(parts, Outcome.MOVED)
    ending.end_client(parts, Farewell(error.condition, error.text))


def dismiss(parts: Parts) -> None:
    """End the session because an operator wants it. A stream in use is ended so that nothing is lost; before that, and
    while the node's leg is exchanged, there is nobody who could be asked what is due."""
    error = ClientError(StreamCondition.POLICY_VIOLATION, "ended by an operator")
    if parts.state is _NEGOTIATING or parts.exchange is not None:
        on_fault(parts, error, Reason.KICKED)
        return
    ending.settle_transfer(parts, Outcome.CUT_OFF)
    parts.because(Reason.KICKED, error.condition)
    parts.go(Transition.ENDS)
    ending.ask_and_close(parts, Farewell(error.condition, error.text))
