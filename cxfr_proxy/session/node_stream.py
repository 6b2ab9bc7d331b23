"""Read the node's stream, and deal with its end.

A node that says it is going away (``system-shutdown``, ``reset``, ``see-other-host``), or dies without a word, does not
end the client's stream: its error is held back, and the client is told to move instead. A client hears
``see-other-host`` only if the operator trusts nodes to redirect, and then only over TLS and only of addresses that are
allowed. The table :data:`~.tables.NODE_REACTIONS` says what follows; :func:`_react` carries it out.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.errors import NodeError
from cxfr_proxy.session import client_stream, climbing, ending, exchanging, standing_in
from cxfr_proxy.session.closing import Farewell
from cxfr_proxy.session.commands import (
    BoundTo,
    Drop,
    Forged,
    LoginFailed,
    MigrationFailed,
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

_NEGOTIATING: Final = State.NEGOTIATING
_DUE: Final = Features.DUE
_PROXYS: Final = Features.PROXYS

_GOING_AWAY: Final = frozenset((StreamCondition.SYSTEM_SHUTDOWN, StreamCondition.RESET, StreamCondition.SEE_OTHER_HOST))
"""Stream errors by which a node says that its client should be elsewhere. They are held back and replaced."""


_ITS_OWN_FAULTS: Final = frozenset(
    (
        StreamCondition.INTERNAL_SERVER_ERROR,
        StreamCondition.RESOURCE_CONSTRAINT,
        StreamCondition.REMOTE_CONNECTION_FAILED,
        StreamCondition.SYSTEM_SHUTDOWN,
        StreamCondition.RESET,
    )
)
"""Stream errors of a login that any client would have got. All others may be about this client."""

_ONLY_THE_SERVER: Final = "only the server may move a connection"

_HINTS: Final[dict[str, str]] = {
    StreamCondition.NOT_WELL_FORMED: ": does its listener know the PROXY header that send-proxy= sends?",
    StreamCondition.HOST_UNKNOWN: ": is the client's domain one of its domains?",
}
"""Advice for the operator when a node ends a login by that condition."""


# --- reading


def read(parts: Parts) -> None:
    """Read what was fed, as :func:`.client_stream.read` does."""
    node = parts.node
    looks_left = MAX_EVENTS_PER_SCAN
    while node.wanted and (parts.state is _NEGOTIATING or not node.lane.opened):
        # Stepwise as long as an element may begin a new stream; the node's elements may be many, so this call looks at
        # a bounded number.
        piece = node.lane.next() if looks_left else None
        if piece is None:
            return
        looks_left -= 1
        _on_piece(parts, node, piece)
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
        _on_piece(parts, node, piece)


def _on_piece(parts: Parts, node: NodeLeg, piece: Piece) -> None:
    if not node.wanted:
        return  # the stream is over, or was exchanged for another node's in the middle of this chunk
    match piece.event:
        case WholeElement(name=name, stanzas=position):
            _on_element(parts, name, piece, position)
        case None:
            if not exchanging.drops_beginning(parts) and not standing_in.drops_beginning(parts):
                parts.pass_stanza_down(piece.data)
        case StreamStart():
            _on_header(parts, piece.data)
        case StreamEnd():
            _on_end(parts)
        case StreamFault(condition=condition, text=text):
            _on_fault(parts, NodeError(condition, text))


def _on_header(parts: Parts, raw: bytes) -> None:
    try:
        header = read_header(raw, NodeError)
    except NodeError as error:
        _on_fault(parts, error)
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
    if parts.has_business_with_node and _is_between(parts, local, piece.data, position, is_stanza=is_stanza):
        return
    if not piece.whole:
        _on_cut_through(parts, name, piece.data, header)
    elif local == "iq" and may_be_watched(piece.data) and _on_watched_iq(parts, piece.data, header, position):
        return
    elif is_stanza and parts.withholds:
        parts.pass_stanza_down(piece.data)
    elif parts.state is not _NEGOTIATING and name in USUAL and name != "a":
        parts.pass_down(piece.data)
    else:
        _on_stream_element(parts, name, piece.data, header, position)
        if local == "a":
            exchanging.on_node_ack(parts, piece.data, position)
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


def _on_stream_element(parts: Parts, name: str, data: bytes, header: StreamHeader, position: int) -> None:
    """Deal with an element that is about the stream itself, or is part of its opening."""
    try:
        verdict = parts.negotiation.from_node(data, header, parts.domain, position)
    except stanza.MalformedElement:
        if parts.state is _NEGOTIATING:
            _on_fault(parts, NodeError(StreamCondition.BAD_NAMESPACE_PREFIX, "an undeclared prefix"))
            return
        parts.report(Warned("it sent an element that can't be read, which was dropped"))
        if name.rpartition(":")[2] in STANZAS:
            parts.swallow_down(position)
        return
    opening = parts.opening
    # The client was held until the node greets, so that no login goes to a node that says nothing.
    if verdict.greets and opening is not None and opening.early is not None:
        verdict.hold_client = False  # the login that was held back for a node that greets may go now
    if verdict.greets and opening is not None and opening.features is _PROXYS:
        opening.see_features()
        verdict.forward = b""
    elif verdict.forward:
        _fit_to_header(parts, verdict, header)
    _pass(parts, verdict)


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
        parts.swallow_down(position)
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
        parts.swallow_down(position)  # the stream is about to end, so nobody will look at its counts
    else:
        # If the node gets no more of the client's stanzas, it would count a reply as one of them.
        parts.replace_down(position, reply if parts.node_listens else None)
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
    negotiation = parts.negotiation
    if verdict.ends is not None:
        _report_warnings(parts)
        _on_error(parts, verdict.ends, verdict)
        return
    opening = parts.opening
    if opening is not None:
        opening.note_node(verdict, parts.now, proved=negotiation.proved)
        if verdict.greets:
            # The time for a greeting is over; from here on the whole login has its limit.
            parts.wait_until(opening.bind_by)
    parts.pass_down(verdict.forward)
    if verdict.failed is not None:
        parts.report(verdict.failed)
    if opening is not None and opening.features is _DUE:
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
    # During an exchange the client is held for another reason. Reading on comes last: it may end the session.
    if verdict.hold_client is False and parts.client.held and parts.exchange is None:
        parts.client.hold(False)
        parts.choose_reading()
        client_stream.read(parts)


def _report_warnings(parts: Parts) -> None:
    if parts.negotiation.warnings:
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


def on_no_greeting(parts: Parts) -> None:
    """Try another node, if neither side has heard from the other yet; else end the session."""
    opening, client = parts.negotiating, parts.client
    assert opening is not None
    parts.report(Warned("it does not greet a client within node-greeting-timeout"))
    if not opening.turn.odd:
        parts.report(LoginFailed(End.SILENCE.value))
    # The client has got no header but perhaps the proxy's own, so it will not notice that the node is another one.
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
        case Reaction.RECOVER:
            if not exchanging.recover(parts):
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
    """Act on a stream error of the node's, which ends its stream (RFC 6120 section 4.9.1.1)."""
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
    """End the client's stream by the node's error, or by one of ours if the client is not to see that."""
    condition = error.ends
    assert condition is not None
    parts.because(Reason.NODE_CLOSED, condition)
    opening = parts.negotiating
    if opening is not None:
        if error.forward:
            said = f" ({error.ends_text})" if error.ends_text else ""
            parts.report(Warned(f"it ended a login by the stream error {condition}{said}{_HINTS.get(condition, '')}"))
        # After an odd element of the client's, nobody knows whether the node is to blame.
        if condition in _ITS_OWN_FAULTS and not opening.turn.odd:
            parts.report(LoginFailed(condition))
    ending.settle_transfer(parts, Outcome.MOVED)
    if condition == StreamCondition.SEE_OTHER_HOST:
        # A redirect of the node's that is not trusted would lead around the proxy.
        farewell = Farewell(StreamCondition.RESET, "reconnect")
    elif error.forward:
        farewell = Farewell(verbatim=error.forward)
    else:
        farewell = Farewell(condition, "the server can't be used at the moment")
    ending.end_client(parts, farewell)


def _trusted_redirect(parts: Parts, address: str | None) -> Server | None:
    """Return where the node sends the client, if nodes are trusted and that address is allowed. The proxy says it in
    words of its own.

    A client is not redirected twice within a while, by nodes as by the proxy: the other node may send it back. Before
    login nobody knows who the client is, and only the client can stop following.
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
    """Act on ``</stream:stream>`` of the node's."""
    parts.node.receive(Incoming.ENDED)
    ending.blame_node(parts, End.STREAM_END)
    _react(parts, NodeDid.END_STREAM, Reason.NODE_CLOSED)
    ending.finish_if_over(parts)


def on_eof(parts: Parts) -> None:
    """Act on the end of the node's connection, with or without the end of its stream."""
    if parts.state is State.CLOSED:
        return
    was_wanted = parts.node.wanted
    parts.node.receive(Incoming.GONE)
    # The stream had ended before its connection: that is how a connection should end.
    if not was_wanted:
        ending.finish_if_over(parts)
        return
    if parts.state is _NEGOTIATING:
        # Servers that expect a PROXY header and get none hang up without a word.
        if parts.node.header is None:
            parts.report(Warned("it closed a connection without a word: does it expect a PROXY header (send-proxy=)?"))
        ending.blame_node(parts, End.HANG_UP)
    _react(parts, NodeDid.HANG_UP, Reason.NODE_LOST)
    ending.finish_if_over(parts)


def _on_fault(parts: Parts, error: NodeError) -> None:
    """Act on bytes of the node's that can't be followed any further. The elements before them were whole."""
    parts.node.receive(Incoming.FAILED)
    parts.note_condition(error.condition)
    parts.report(Warned(f"the node broke its stream: {error}"))
    ending.blame_node(parts, End.GARBAGE)
    _react(parts, NodeDid.BREAK, Reason.NODE_FAULT)


def _on_resumption(parts: Parts, data: bytes, position: int) -> None:
    """Read what a node says that was asked for the session."""
    if not exchanging.on_element(parts, data, position):
        on_no_resumption(parts)


def on_no_resumption(parts: Parts) -> None:
    """Act on a node that has not got the session, or does not say so in time. The leg before it is gone already."""
    parts.report(MigrationFailed(parts.node.name, "it does not resume the session"))
    parts.node.receive(Incoming.FAILED)
    _react(parts, NodeDid.REFUSE, Reason.NODE_LOST)


def on_no_recovery(parts: Parts, why: str, *, reachable: bool = True) -> None:
    """Give up a session whose connection to the node is broken, and could not be replaced. ``reachable``: see
    :meth:`.parts.Parts.drop_exchange`."""
    assert parts.exchange is not None
    parts.report(MigrationFailed(parts.exchange.node, why))
    parts.drop_exchange(reachable=reachable)
    _lose(parts, Reason.NODE_LOST)


def on_death(parts: Parts) -> bool:
    """Give up a node that checks have found dead: it is not waited for, and bytes that it does not take hold up nobody.
    Return whether the client is still here."""
    if parts.state is _NEGOTIATING:
        _react(parts, NodeDid.DIE, Reason.NODE_LOST)
    elif parts.node.writable:
        parts.node.receive(Incoming.GONE)
        _react(parts, NodeDid.DIE, Reason.NODE_DOWN)
        if parts.state is State.CLOSED:
            return False
        # Not EndOutput: bytes that a dead node never takes would keep the session for the whole write-stall-timeout.
        parts.issue(Drop(Side.NODE))
    return True


def _lose(parts: Parts, reason: Reason) -> None:
    """Have the client told to move, or go on telling it: its node is gone, and it is still here."""
    parts.because(reason)
    if parts.node.lane.cutting:
        ending.give_up(parts, reason)  # a stream error would land in the middle of an element of the node's
        return
    if reason is not Reason.NODE_LOST:  # else there is no connection on which an end could be sent
        ending.end_node_stream(parts)
    ending.end_node_output(parts)
    parts.forget_node_counts()
    parts.drop_exchange()
    parts.choose_reading()
    if parts.transfer is not None and parts.transfer.is_migration:
        ending.end_migration(parts, parts.transfer, Outcome.CUT_OFF)  # the client is told by a transfer of its own
    elif parts.transfer is not None:
        parts.transfer.must_go()
    if parts.state is State.BOUND:
        parts.report(NodeLost(reason))
