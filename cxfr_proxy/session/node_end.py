"""How a node's stream ends, and what follows for its client.

A node that says it is going away (``system-shutdown``, ``reset``, ``see-other-host``), or dies without a word, does not
end the client's stream: its error is held back, and the client is told to move instead. A client hears
``see-other-host`` only if the operator trusts nodes to redirect, and then only over TLS and only of addresses that are
allowed. The table :data:`~.tables.NODE_REACTIONS` says what follows; :func:`_react` carries it out.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.errors import NodeError
from cxfr_proxy.session import ending, exchanging
from cxfr_proxy.session.closing import Farewell
from cxfr_proxy.session.commands import (
    Drop,
    LoginFailed,
    NodeLost,
    Outcome,
    Reason,
    Redirected,
    Reroute,
    Side,
    Warned,
)
from cxfr_proxy.session.node_owes import End
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import NODE_REACTIONS, Incoming, NodeDid, Outgoing, Reaction, State, Where
from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.connection_transfer import Server, TransferSyntaxError
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.verdict import ElementVerdict

_NEGOTIATING: Final = State.NEGOTIATING

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

_HINTS: Final[dict[str, str]] = {
    StreamCondition.NOT_WELL_FORMED: ": does its listener know the PROXY header that send-proxy= sends?",
    StreamCondition.HOST_UNKNOWN: ": is the client's domain one of its domains?",
}
"""Advice for the operator when a node ends a login by that condition."""


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


def on_error(parts: Parts, condition: str, error: ElementVerdict) -> None:
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


def on_end(parts: Parts) -> None:
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


def on_fault(parts: Parts, error: NodeError) -> None:
    """Act on bytes of the node's that can't be followed any further. The elements before them were whole."""
    parts.node.receive(Incoming.FAILED)
    parts.note_condition(error.condition)
    parts.report(Warned(f"the node broke its stream: {error}"))
    ending.blame_node(parts, End.GARBAGE)
    _react(parts, NodeDid.BREAK, Reason.NODE_FAULT)


def on_no_resumption(parts: Parts) -> None:
    """Act on a node that has not got the session, or does not say so in time. The leg before it is gone already."""
    parts.node.receive(Incoming.FAILED)
    _react(parts, NodeDid.REFUSE, Reason.NODE_LOST)


def on_no_recovery(parts: Parts, why: str, *, reachable: bool = True) -> None:
    """Give up a session whose connection to the node is broken, and could not be replaced. ``reachable``: see
    :meth:`.parts.Parts.drop_exchange`."""
    assert parts.exchange is not None
    exchanging.report_failure(parts, parts.exchange.node, why)
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
    if parts.where is Where.RESUMING:  # whether it refused, broke off or said nothing
        exchanging.report_failure(parts, parts.node.name, "it does not resume the session")
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
