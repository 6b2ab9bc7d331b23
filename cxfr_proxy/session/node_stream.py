"""What the node's stream brings, and what it means when the node goes.

A node that says it is going away (``system-shutdown``, ``reset``, ``see-other-host``), or that dies without a word, is
not the client's end: its words are held back, and the client is told to move instead. Only where the operator trusts
nodes to redirect does the client hear of ``see-other-host``, and only over TLS and of addresses that are allowed. What
follows from what is a table, :data:`~.tables.NODE_REACTIONS`; :func:`_react` carries it out.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.errors import NodeError
from cxfr_proxy.session import client_stream, climbing, ending, exchanging
from cxfr_proxy.session.closing import Farewell
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
from cxfr_proxy.session.legs import NodeLeg
from cxfr_proxy.session.node_owes import End
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import NODE_REACTIONS, Features, Incoming, NodeDid, Outgoing, Reaction, State, Where
from cxfr_proxy.xmpp import connection_transfer, jid, stanza
from cxfr_proxy.xmpp.connection_transfer import Server, TransferSyntaxError
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

_ONLY_THE_SERVER: Final = "only the server may move a connection"

_HINTS: Final[dict[str, str]] = {
    StreamCondition.NOT_WELL_FORMED: ": does its listener know the PROXY header that send-proxy= sends?",
    StreamCondition.HOST_UNKNOWN: ": is the client's domain one of its domains?",
}
"""What an operator may have to look at when a node ends a login so."""


# --- reading


def read(parts: Parts) -> None:
    """Read what was fed, as :func:`.client_stream.read` does."""
    node = parts.node
    looks_left = MAX_EVENTS_PER_SCAN
    while node.wanted and (parts.state is State.NEGOTIATING or not node.lane.opened):
        piece = node.lane.next() if looks_left else None
        if piece is None:
            return
        looks_left -= 1
        _on_piece(parts, node, piece)
    data = node.lane.take_unread()
    if node.wanted:
        if data:
            on_scanned(parts, node.lane.scan(data))
        climbing.send_request_if_due(parts)


def on_scanned(parts: Parts, ready: bytes) -> None:
    """The node's lane has let this out, and may have met something to look at in it."""
    node = parts.node
    for piece in node.lane.pieces(ready):
        _on_piece(parts, node, piece)


def _on_piece(parts: Parts, node: NodeLeg, piece: Piece) -> None:
    if not node.wanted:
        return  # the end of a stream that has said it is over, or of one that was exchanged for another
    match piece.event:
        case None:
            if not exchanging.drops_beginning(parts):
                parts.pass_down(piece.data)
        case StreamStart():
            _on_header(parts, piece.data)
        case StreamEnd():
            _on_end(parts)
        case StreamFault(condition=condition, text=text):
            _on_fault(parts, NodeError(condition, text))
        case WholeElement(name=name, stanzas=position):
            _on_element(parts, name, piece, position)


def _on_header(parts: Parts, raw: bytes) -> None:
    try:
        header = read_header(raw, NodeError)
    except NodeError as error:
        _on_fault(parts, error)
        return
    parts.node.greet(header)
    if parts.opening is None or parts.opening.features is not Features.PROXYS:
        parts.client.show(header)
        parts.pass_down(header.raw)


def _on_element(parts: Parts, name: str, piece: Piece, position: int) -> None:
    header = parts.node.header
    assert header is not None, "a framer reports the header first"
    is_stanza = name.rpartition(":")[2] in STANZAS
    if parts.where is Where.RESUMING:
        _on_resumption(parts, piece.data, position)
    elif is_stanza and exchanging.drops(parts, position):
        return
    elif not piece.whole:
        _on_cut_through(parts, name, piece.data, header)
    elif _is_iq(name) and may_be_watched(piece.data) and _on_watched_iq(parts, piece.data, header, position):
        return
    elif parts.withholds and is_stanza:
        assert parts.closing is not None
        assert parts.closing.question is not None
        parts.closing.question.withhold(piece.data)
    elif parts.state is not State.NEGOTIATING and name in USUAL and name != "a":
        parts.pass_down(piece.data)
    else:
        _on_stream_element(parts, name, piece.data, header, position)
        if name == "a":
            exchanging.on_node_ack(parts, piece.data, position)


def _on_stream_element(parts: Parts, name: str, data: bytes, header: StreamHeader, position: int) -> None:
    """An element that is about the stream itself, or is part of its opening."""
    try:
        verdict = parts.negotiation.from_node(data, header, parts.domain, position)
    except stanza.MalformedElement:
        if parts.state is State.NEGOTIATING:
            _on_fault(parts, NodeError(StreamCondition.BAD_NAMESPACE_PREFIX, "an undeclared prefix"))
            return
        parts.report(Warned("it sent an element that can't be read, which was dropped"))
        if name.rpartition(":")[2] in STANZAS:
            parts.swallow_down(position)
        return
    opening = parts.opening
    if verdict.greets and opening is not None and opening.early is not None:
        verdict.hold_client = False
    if verdict.greets and opening is not None and opening.features is Features.PROXYS:
        opening.see_features()
        verdict.forward = b""
    elif verdict.forward:
        _fit_to_header(parts, verdict, header)
    _pass(parts, verdict)


def _fit_to_header(parts: Parts, verdict: ElementVerdict, header: StreamHeader) -> None:
    """The client may have got another header than the node's: its prefixes, if they differ, mean nothing to it."""
    shown = parts.client.shown
    if shown is not None and header is not shown and header.context != shown.context:
        verdict.forward = stanza.serialize(stanza.parse(verdict.forward, header.context))


# --- transfers that are forged, answers that are ours


def _on_watched_iq(parts: Parts, data: bytes, header: StreamHeader, position: int) -> bool:
    """Whether an IQ with the watched bytes is not for the client: an answer to us, or a transfer that is forged."""
    question = parts.closing.question if parts.closing is not None else None
    if question is not None and question.is_pong(data, header.context):
        parts.swallow_down(position)
        ending.on_last_answer(parts)
        return True
    return _is_forged(parts, data, header, position)


def _is_forged(parts: Parts, data: bytes, header: StreamHeader, position: int) -> bool:
    """Whether an element with the watched bytes tells the client to move. Only this proxy may do that: it is kept back,
    and its sender is answered."""
    try:
        element = stanza.parse(data, header.context)
    except stanza.MalformedElement:
        # Some stranger's: too deep for the parser, or with an undeclared prefix. Only this one is kept back.
        reply = None
    else:
        if not connection_transfer.is_transfer(element):
            return False
        reply = stanza.error_reply(element, StanzaCondition.NOT_ALLOWED, "cancel", _ONLY_THE_SERVER)
    parts.report(Forged())
    if parts.withholds:
        parts.swallow_down(position)  # a stream that is about to end needs no right counts
    else:
        # Behind stanzas of the client's that were not passed on, a reply would be counted as one of them.
        parts.replace_down(position, reply if parts.node_listens else None)
    return True


def _on_cut_through(parts: Parts, name: str, data: bytes, header: StreamHeader) -> None:
    """The end of an element too long to be held back, with something about it that wanted a look: too late."""
    if name in ("message", "presence"):
        parts.pass_down(data)  # they may say what they like
        return
    begun = stanza.start_tag(parts.node.lane.cut_head, header.context)
    if name == "iq" and begun is not None and not connection_transfer.is_request(begun):
        parts.pass_down(data)
        return
    # It could be a forged transfer, or a redirect, stretched beyond the limit. The client hasn't got its end yet, so it
    # can't have acted on it, and it never will.
    if _is_iq(name):
        parts.report(Forged())
    ending.give_up(parts, Reason.NODE_FAULT)


# --- the opening


def _pass(parts: Parts, verdict: ElementVerdict) -> None:
    negotiation = parts.negotiation
    if verdict.ends is not None:
        _report_warnings(parts)
        _on_error(parts, verdict.ends, verdict)
        return
    opening = parts.opening
    if opening is not None:
        opening.note_node(verdict, parts.now, proved=negotiation.proved)
        if verdict.greets:
            parts.wait_until(opening.bind_by)
    parts.pass_down(verdict.forward)
    if verdict.failed is not None:
        parts.report(verdict.failed)
    if opening is not None and opening.features is Features.DUE:
        opening.see_features()
        answer = opening.take_answer()
        if answer:
            parts.pass_down(answer)
            verdict.hold_client = False
    if parts.negotiating is not None:
        if verdict.restart:
            parts.restart()
        if verdict.bound is not None:
            _on_bound(parts, verdict.bound)
    if verdict.resumable:
        _on_resumable(parts)
    _report_warnings(parts)
    if verdict.hold_client is False and parts.client.held and parts.exchange is None:
        parts.client.hold(False)
        parts.choose_reading()
        client_stream.read(parts)


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
    parts.report(BoundTo(bound.full_jid, bound.resumed))


def on_no_greeting(parts: Parts) -> None:
    """Another node is tried, where neither side has heard a word of the other."""
    opening, client = parts.negotiating, parts.client
    assert opening is not None
    parts.report(Warned("it does not greet a client within node-greeting-timeout"))
    if not opening.turn.odd:
        parts.report(LoginFailed(End.SILENCE.value))
    unheard = client.outgoing is Outgoing.NEW or opening.early is not None
    if not (unheard and opening.may_try_another):
        ending.apologise(parts)
        return
    parts.because(Reason.REROUTED)
    ending.end_node_stream(parts)
    ending.end(parts, Reroute(client.header, client.lane, opening.early, (*opening.silent, parts.node.name)))


# --- ends


def _react(
    parts: Parts, did: NodeDid, reason: Reason, error: ElementVerdict | None = None, redirect: Server | None = None
) -> None:
    """Do what the table says. ``error`` is the node's stream error, and ``redirect`` where it leads, if it is one."""
    match NODE_REACTIONS[did, parts.where]:
        case Reaction.SAY_FAREWELL:
            ending.say_farewell(parts)
        case Reaction.FINISH:
            ending.finish_if_over(parts)
        case Reaction.LOSE:
            _lose(parts, reason)
        case Reaction.APOLOGISE:
            ending.apologise(parts)
        case Reaction.CLOSE:
            parts.because(reason)
            ending.close_node_first(parts, Farewell())
        case Reaction.REDIRECT:
            parts.because(Reason.NODE_REDIRECTED)
            ending.settle_transfer(parts, Outcome.MOVED)
            parts.report(Redirected())
            ending.end_client(parts, Farewell(StreamCondition.SEE_OTHER_HOST, content=str(redirect)))
        case Reaction.PASS_ERROR:
            assert error is not None
            _pass_error(parts, error)


def _on_error(parts: Parts, condition: str, error: ElementVerdict) -> None:
    """The node's stream is over by an error."""
    parts.node.receive(Incoming.ENDED)
    redirect = _trusted_redirect(parts, error.redirect)
    redirected = condition == StreamCondition.SEE_OTHER_HOST
    if redirect is not None:
        _react(parts, NodeDid.REDIRECT, Reason.NODE_REDIRECTED, error, redirect)
    elif condition in _GOING_AWAY:
        _react(parts, NodeDid.GO_AWAY, Reason.NODE_REDIRECTED if redirected else Reason.NODE_SHUTDOWN, error)
    else:
        _react(parts, NodeDid.FAIL, Reason.NODE_CLOSED, error)


def _pass_error(parts: Parts, error: ElementVerdict) -> None:
    """The client's stream ends by the node's error, or by one of ours where the client is not to see it."""
    condition = error.ends
    assert condition is not None
    parts.because(Reason.NODE_CLOSED, condition)
    opening = parts.negotiating
    if opening is not None:
        if error.forward:
            said = f" ({error.ends_text})" if error.ends_text else ""
            parts.report(Warned(f"it ended a login by the stream error {condition}{said}{_HINTS.get(condition, '')}"))
        if condition in _ITS_OWN_FAULTS and not opening.turn.odd:
            parts.report(LoginFailed(condition))
    ending.settle_transfer(parts, Outcome.MOVED)
    if condition == StreamCondition.SEE_OTHER_HOST:
        farewell = Farewell(StreamCondition.RESET, "reconnect")
    elif error.forward:
        farewell = Farewell(verbatim=error.forward)
    else:
        farewell = Farewell(condition, "the server can't be used at the moment")
    ending.end_client(parts, farewell)


def _trusted_redirect(parts: Parts, address: str | None) -> Server | None:
    """Return where the node sends the client, if it is believed and may; the proxy says it in words of its own.

    Not twice in a while, as the proxy itself: another node may send the client back. Before there is a user nobody can
    tell, and how often it follows is for the client to say.
    """
    policy, full_jid = parts.policy, parts.negotiation.full_jid
    if address is None or not (policy.trust_node_redirects and parts.client.tls):
        return None
    if policy.surroundings.redirected_lately(jid.bare(full_jid) if full_jid is not None else None, parts.now):
        return None
    try:
        server = Server.parse(address)
    except TransferSyntaxError:
        return None
    return server if policy.redirect_targets.allow(server.host) else None


def _on_end(parts: Parts) -> None:
    """The node's stream is over, by ``</stream:stream>``."""
    parts.node.receive(Incoming.ENDED)
    ending.blame_node(parts, End.STREAM_END)
    _react(parts, NodeDid.END_STREAM, Reason.NODE_CLOSED)
    ending.finish_if_over(parts)


def on_eof(parts: Parts) -> None:
    """The node's connection has ended, with or without its stream."""
    if parts.state is State.CLOSED:
        return
    was_wanted = parts.node.wanted
    parts.node.receive(Incoming.GONE)
    if not was_wanted:
        ending.finish_if_over(parts)
        return
    if parts.state is State.NEGOTIATING:
        if parts.node.header is None:
            parts.report(Warned("it closed a connection without a word: does it expect a PROXY header (send-proxy=)?"))
        ending.blame_node(parts, End.HANG_UP)
    _react(parts, NodeDid.HANG_UP, Reason.NODE_LOST)
    ending.finish_if_over(parts)


def _on_fault(parts: Parts, error: NodeError) -> None:
    """The node's bytes can't be followed any further; what came before them is whole."""
    parts.node.receive(Incoming.FAILED)
    parts.note_condition(error.condition)
    parts.report(Warned(f"the node broke its stream: {error}"))
    ending.blame_node(parts, End.GARBAGE)
    _react(parts, NodeDid.BREAK, Reason.NODE_FAULT)


def _on_resumption(parts: Parts, data: bytes, position: int) -> None:
    """A node that was asked for the session has said this."""
    if not exchanging.on_element(parts, data, position):
        on_no_resumption(parts)


def on_no_resumption(parts: Parts) -> None:
    """It has not got the session, or does not say so in time, and the leg before it is gone."""
    parts.node.receive(Incoming.FAILED)
    _react(parts, NodeDid.REFUSE, Reason.NODE_LOST)


def on_death(parts: Parts) -> bool:
    """Checks find it dead: nothing is waited for, and what it does not take may hold up nobody. Return whether the
    client is still here."""
    if parts.state is State.NEGOTIATING:
        _react(parts, NodeDid.DIE, Reason.NODE_LOST)
    elif parts.node.writable:
        parts.node.receive(Incoming.GONE)
        _react(parts, NodeDid.DIE, Reason.NODE_DOWN)
        if parts.state is State.CLOSED:
            return False
        parts.issue(Drop(Side.NODE))
    return True


def _lose(parts: Parts, reason: Reason) -> None:
    """The client is still here: tell it to move, or go on telling it."""
    parts.because(reason)
    if parts.node.lane.cutting:
        ending.give_up(parts, reason)  # in the middle of an element nothing can be said any more
        return
    if reason is not Reason.NODE_LOST:
        ending.end_node_stream(parts)
    ending.end_node_output(parts)
    parts.drop_exchange("the node went away")
    parts.choose_reading()
    if parts.transfer is not None:
        parts.transfer.must_go()
    if parts.state is State.BOUND:
        parts.report(NodeLost(reason))


def _is_iq(name: str) -> bool:
    """Whether a tag, as written, is an IQ's, whatever its prefix."""
    return name.rpartition(":")[2] == "iq"
