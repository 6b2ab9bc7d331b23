"""A session's node leg is exchanged for another one, and its client notices nothing: the rung *migrate*, and the
recovery of a session whose connection to its node has broken.

XEP-0198 makes this possible: the nodes know what the client has acknowledged, so the proxy can resume the session on
another node in the place of the client. These steps keep it so that nothing is lost and nothing comes twice:

1. *Dial.* The relay connects to the new node and logs in there in the name of the client (:class:`~.commands.Dial`).
   The old leg serves on. The client's acknowledgements are noted from here on; a client that has acknowledged
   nothing yet is asked by ``<r/>``.
2. *Settle.* The client is read no more, at a boundary, and the old node gets ``<r/>`` behind everything that was sent
   to it. Its ``<a/>`` says that it has handled all of it. Up to there the old leg is in its place, whatever goes wrong.
3. *Resume.* Nothing more of the old leg is forwarded: its node counts what comes behind ``<a/>`` as unacknowledged, and
   sends it again. The legs are exchanged, and the new node gets ``<resume/>`` with what the *client* has acknowledged,
   and not what it was sent: should its own connection break now, it will miss nothing.
4. *Replay.* Behind ``<resumed/>`` the new node sends again what was not acknowledged. Stanzas of it that had been
   forwarded are dropped, by count; the client has got them. From there on both streams are as they were.

A failure in the first two steps leaves the old leg as it was, and the ladder goes on (:func:`.climbing.on_stuck`). In
the third the node counts as lost, and the client is told to move (:func:`.node_end.on_no_resumption`). In the fourth
the session is with the new node already.

*Recovery.* If the connection to a node breaks, the node keeps the session, and the proxy has kept what the node may not
have handled (:mod:`.replay`). So the proxy logs in to the same node, or goes on to the one to which the session was
going, and resumes there without settling; behind ``<resumed/>`` it sends again what the node has not handled. The
client is held from the break on. A node that was killed has nothing to resume, and refuses: then it is lost.

Where the proxy counts in the place of the client (:mod:`.standing_in`) there are no other acknowledgements than the
proxy's: what was forwarded is acknowledged, and the node sends nothing of it again.

The client's own counts, and what the proxy put in and took out before, stay as they are: only where the node's count
stands in its stream has changed (:meth:`~cxfr_proxy.xmpp.stream_management.StreamManagement.rejoin`).
"""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import quoteattr

from cxfr_proxy.session import ending, standing_in
from cxfr_proxy.session.commands import (
    Dial,
    ExchangeNode,
    MigrationFailed,
    NodeChanged,
    NodeRegained,
    Outcome,
    Resumable,
    Side,
)
from cxfr_proxy.session.exchange import Exchange
from cxfr_proxy.session.legs import NodeLeg
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import Exchanging
from cxfr_proxy.xmpp import jid, names, stanza
from cxfr_proxy.xmpp.stream_management import MODULUS, Counters, element_of, h_of, read_h

STEP_SECONDS: Final = 2.0
"""Seconds for a node to say how far it is, or that it has the session: a round trip, and the hand-over between two
nodes of a cluster, which takes them some milliseconds. The client is not read meanwhile."""
_INACTIVE: Final = f"<inactive xmlns='{names.CSI}'/>".encode()


def can_begin(parts: Parts) -> bool:
    """Return whether the session could be resumed on another node now: it has its node, and nodes and client count
    (XEP-0198). The name of its user is the node's word, and not the client's."""
    return _can_resume(parts) and parts.node.writable and parts.exchange is None


def _can_resume(parts: Parts) -> bool:
    counts = parts.counts.resumable and (parts.stand_in is None or parts.replay is None or parts.replay.trusted)
    return counts and parts.negotiation.full_jid is not None


def begin(parts: Parts, node: str) -> None:
    """Begin to exchange the node's leg for one to that node. The session has to be one that :func:`can_begin`."""
    exchange = parts.begin_exchange(node)
    exchange.note_acknowledged(_known_to_be_acknowledged(parts))
    parts.wait_until(exchange.leave_by)
    # In the middle of an element it can't be asked; it may say so by itself.
    if exchange.acknowledged is None and not parts.cuts_client:
        parts.send(Side.CLIENT, parts.accounting.request())
    _dial(parts, node)
    parts.choose_reading()


def _dial(parts: Parts, node: str) -> None:
    full_jid = parts.negotiation.full_jid
    assert full_jid is not None, "or the session can't be resumed"
    user = jid.bare(full_jid)
    parts.issue(Dial(node, user, parts.client.header.addressed(to=parts.domain, from_=user)))


def _known_to_be_acknowledged(parts: Parts) -> int | None:
    """Return how many of the node's stanzas the client has acknowledged; ``None`` if that is not known.

    Where the proxy counts in its place, whatever was forwarded is.
    """
    counters = parts.accounting.management.counters
    if counters is None:
        return parts.counts.forwarded(parts.node.lane.stanzas)
    if parts.replay is not None:
        return parts.replay.confirmed
    return _acknowledged(counters, parts.client.lane.ack, parts.client.header.context)


def recover(parts: Parts) -> bool:
    """Replace the connection to the node, which has broken. Return false if the session could not be resumed on another
    one, or if that happens too often."""
    exchange, replay = parts.exchange, parts.replay
    resuming = exchange is not None and exchange.state is Exchanging.RESUMING
    if replay is None or not _can_recover(parts) or replay.breaks_again(parts.now):
        return False
    if exchange is not None and exchange.state is Exchanging.REPLAYING:
        parts.drop_exchange()  # the counts go on behind what the client has got
        exchange = None
    dialling = exchange is not None and not resuming
    if exchange is None:
        exchange = parts.begin_exchange(parts.node.name)
    forwarded = exchange.forwarded if resuming else parts.counts.forwarded(parts.node.lane.stanzas)
    exchange.break_off(forwarded, parts.now)
    exchange.note_acknowledged(_known_to_be_acknowledged(parts))
    ending.end_node_output(parts)
    parts.hold_client_if_need_be()
    parts.wait_until(exchange.leave_by)
    if not dialling:
        _dial(parts, exchange.node)
    elif exchange.leg is not None:
        _go_over(parts, exchange, replay.acknowledged, exchange.forwarded)
    parts.choose_reading()
    return True


def dial_again(parts: Parts) -> bool:
    """Dial once more, since the connection broke during its login. Return false if the session has another one, or if
    that happens too often; the time for all attempts goes on."""
    exchange, replay = parts.exchange, parts.replay
    if exchange is None or not exchange.broken or replay is None or replay.breaks_again(parts.now):
        return False
    _dial(parts, exchange.node)
    return True


def _can_recover(parts: Parts) -> bool:
    """Return whether all is known that has to be, and the client is still to be served."""
    replay, transfer = parts.replay, parts.transfer
    moving = transfer is not None and not transfer.is_migration  # its client is told to move anyway
    # A stanza of which the client has the beginning would come from its beginning again.
    cut = parts.node.lane.cutting and not drops_beginning(parts)
    trusted = replay is not None and replay.trusted
    return _can_resume(parts) and trusted and parts.client.writable and not (moving or cut or parts.client.over)


def is_awaited(parts: Parts, node: str | None = None) -> bool:
    """Return whether a connection to that node, or to any, is waited for."""
    exchange = parts.exchange
    waits = exchange is not None and (exchange.state is Exchanging.DIALLING or exchange.broken)
    if exchange is None or not waits or exchange.leg is not None:
        return False
    return node is None or node == exchange.node


def on_dialled(parts: Parts, leg: NodeLeg) -> None:
    """Take the leg to the new node that was waited for. It has to be one that :func:`speaks_alike`."""
    exchange = parts.exchange
    assert exchange is not None
    exchange.take_leg(leg)
    if exchange.broken:
        assert parts.replay is not None, "or there would be nothing to resume with"
        _go_over(parts, exchange, parts.replay.acknowledged, exchange.forwarded)
    else:
        settle_if_ready(parts, exchange)


def settle_if_ready(parts: Parts, exchange: Exchange) -> None:
    """Ask the old node how far it is, if there is nothing to wait for, behind all that was read of the client."""
    if exchange.can_settle:
        exchange.settle(parts.now)
        parts.hold_client_if_need_be()
        parts.pass_request_up(parts.accounting.request())
        parts.wait_until(min(parts.now + STEP_SECONDS, exchange.leave_by))
        parts.choose_reading()


def why_late(exchange: Exchange) -> str:
    """Say what has taken too long."""
    if exchange.state is Exchanging.SETTLING:
        return "it does not say how far it is"
    return "the client does not say what it has got" if exchange.waits_for_client else "it takes too long to log in"


def at_fault(parts: Parts, exchange: Exchange) -> str | None:
    """Return the node that has not done its part; ``None``: it is the client that has not."""
    if exchange.waits_for_client:
        return None
    return parts.node.name if exchange.state is Exchanging.SETTLING else exchange.node


def report_failure(parts: Parts, node: str | None, why: str) -> None:
    """Report that the session can't be taken to another node, or taken up again. ``node`` is that of
    :class:`~.commands.MigrationFailed`."""
    parts.report(MigrationFailed(node, why))
    if parts.transfer is not None:
        parts.transfer.note_not_taken(why)


def speaks_alike(parts: Parts, leg: NodeLeg) -> bool:
    """Return whether the client can read the new node's stream, and the node the client's: namespace prefixes are
    declared in the headers, which neither side will see again."""
    shown, header = parts.client.shown, leg.header
    if shown is None or header is None:
        return False
    return header.context == shown.context and leg.opened_by.context == parts.client.header.context


def on_client_ack(parts: Parts, ack: bytes) -> None:
    """Note what the client has acknowledged; its ``<a/>`` is on its way to the old node."""
    exchange, counters = parts.exchange, parts.accounting.management.counters
    count = _acknowledged(counters, ack, parts.client.header.context) if counters is not None else None
    if count is None:
        return
    if parts.replay is not None:
        parts.replay.confirm(count)
    if exchange is not None:
        exchange.note_acknowledged(count)  # what came with it goes first


def _acknowledged(counters: Counters, ack: bytes | None, context: bytes) -> int | None:
    """Return how many of the node's stanzas that ``<a/>`` of the client's acknowledges; ``None`` if there is none, or
    it has no number."""
    h = h_of(ack, context) if ack else None
    return counters.down.to_sender(h) if h is not None else None


def on_node_ack(parts: Parts, ack: bytes, position: int) -> None:
    """Exchange the legs if the old node has acknowledged everything. Its ``<a/>`` stands in front of whatever follows
    that position."""
    exchange, replay = parts.exchange, parts.replay
    if exchange is None and replay is None:
        return
    assert parts.node.header is not None, "a framer reports the header first"
    counters, h = parts.accounting.management.counters, h_of(ack, parts.node.header.context)
    standing_in.note_ack(parts, h)
    if exchange is None or exchange.state is not Exchanging.SETTLING:
        return
    if counters is not None:
        everything = parts.accounting.management.sent(parts.client.lane.stanzas)
    else:
        assert replay is not None, "the proxy counts"
        everything = replay.sent
    if h == everything:  # else it answers an older ``<r/>``, or ours from before another stanza was injected
        _go_over(parts, exchange, everything, parts.counts.forwarded(position))


def _go_over(parts: Parts, exchange: Exchange, handled: int, forwarded: int) -> None:
    """Exchange the legs, and ask for the session. The node has handled so many stanzas, as far as is known, and so many
    of its own were forwarded."""
    old, counts, management = parts.node.name, parts.counts, parts.accounting.management
    leg = exchange.resume(handled, forwarded)
    management.leave(handled)
    counts.rejoin(forwarded, leg.lane.stanzas)  # if no answer comes, the counts stand where the client is
    if management.counters is None:
        exchange.note_acknowledged(forwarded)
    parts.exchange_node(leg)
    parts.issue(ExchangeNode())
    if leg.name != old:
        # Before the <resume/> is answered: from here on nothing leads back to the old node.
        parts.report(NodeChanged(old, leg.name))
    # The node's own id: the client may know another one (sm-after-transfer=wrap).
    previd = quoteattr(counts.node_id or "")
    resume = f"<resume xmlns='{counts.namespace}' h='{exchange.acknowledged}' previd={previd}/>"
    parts.send(Side.NODE, resume.encode())
    parts.wait(STEP_SECONDS)
    parts.choose_reading()


def on_element(parts: Parts, data: bytes, position: int) -> bool:
    """Read what the new node says; return whether it has resumed the session by it."""
    exchange, header = parts.exchange, parts.node.header
    assert exchange is not None
    assert header is not None
    element = element_of(data, header.context)
    if element is None or stanza.name_of(element)[1] != "resumed" or not _fits(parts, exchange, read_h(element)):
        return False
    _on_resumed(parts, exchange, position)
    return True


def _fits(parts: Parts, exchange: Exchange, h: int | None) -> bool:
    """Return whether the node has the session as it was left, by the count of stanzas that were handled. Otherwise some
    of the client's would be lost, or come twice."""
    replay = parts.replay
    if replay is None or not replay.trusted:
        return h == exchange.handled
    return h is not None and replay.resume(h, parts.now)


def _on_resumed(parts: Parts, exchange: Exchange, position: int) -> None:
    management, acknowledged, replay = parts.accounting.management, exchange.acknowledged, parts.replay
    assert acknowledged is not None, "it was sent with the request"
    parts.counts.rejoin(acknowledged, position)
    # Counts wrap around at 2**32.
    exchange.replay(position + (exchange.forwarded - acknowledged) % MODULUS)
    parts.wait(None)
    if parts.negotiation.inactive:
        parts.send(Side.NODE, _INACTIVE)  # it belongs to the stream, and not to the session (XEP-0352 section 5)
    if replay is not None:
        management.leave(replay.acknowledged)
        again = replay.unacknowledged()
        if again:
            parts.send(Side.NODE, again)
            parts.pass_request_up(parts.accounting.request())
    if management.id is not None and management.node_id is not None:
        parts.report(Resumable(management.id, management.node_id, management.counters))
    _finish_if_replayed(parts, exchange, position)
    parts.hold_client_if_need_be()
    parts.choose_reading()
    if parts.transfer is not None:
        parts.transfer.note_held(parts.now - exchange.held_since)
        ending.end_migration(parts, parts.transfer, Outcome.MOVED)
    else:
        parts.report(NodeRegained(parts.now - exchange.since))


def drops(parts: Parts, position: int) -> bool:
    """Return whether the client has already got the node's stanza at that position."""
    exchange = parts.exchange
    if exchange is None or exchange.state is not Exchanging.REPLAYING:
        return False
    _finish_if_replayed(parts, exchange, position)
    return position <= exchange.replayed_until


def drops_beginning(parts: Parts) -> bool:
    """Return the same of a stanza that is being cut through, and has not ended."""
    exchange = parts.exchange
    if exchange is None or exchange.state is not Exchanging.REPLAYING:
        return False
    return parts.node.lane.stanzas < exchange.replayed_until


def _finish_if_replayed(parts: Parts, exchange: Exchange, position: int) -> None:
    if position >= exchange.replayed_until:
        parts.end_exchange()
        parts.choose_reading()
