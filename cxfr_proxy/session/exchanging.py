"""The rung *migrate*: a session's node leg is exchanged for another node's, and its client notices nothing.

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
the third the node counts as lost, and the client is told to move (:func:`.node_stream.on_no_resumption`). In the fourth
the session is with the new node already.

The client's own counts, and what the proxy put in and took out before, stay as they are: only where the node's count
stands in its stream has changed (:meth:`~cxfr_proxy.xmpp.stream_management.StreamManagement.rejoin`).
"""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import quoteattr

from cxfr_proxy.session import ending
from cxfr_proxy.session.commands import Dial, ExchangeNode, NodeChanged, Outcome, Resumable, Side
from cxfr_proxy.session.exchange import Exchange
from cxfr_proxy.session.legs import NodeLeg
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import Exchanging
from cxfr_proxy.xmpp import jid, names, stanza
from cxfr_proxy.xmpp.stream_management import MODULUS, NAMESPACES, Counters, read_h

STEP_SECONDS: Final = 2.0
"""Seconds for a node to say how far it is, or that it has the session: a round trip, and the hand-over between two
nodes of a cluster, which takes them some milliseconds. The client is not read meanwhile."""
_INACTIVE: Final = f"<inactive xmlns='{names.CSI}'/>".encode()


def can_begin(parts: Parts) -> bool:
    """Return whether the session could be resumed on another node now: it has its node, and nodes and client count
    (XEP-0198). The name of its user is the node's word, and not the client's."""
    management = parts.accounting.management
    counts = management.resumable and management.counters is not None
    return counts and parts.node.writable and parts.negotiation.full_jid is not None and parts.exchange is None


def begin(parts: Parts, node: str) -> None:
    """Begin to exchange the node's leg for one to that node. The session has to be one that :func:`can_begin`."""
    counters, full_jid = parts.accounting.management.counters, parts.negotiation.full_jid
    assert counters is not None
    assert full_jid is not None
    exchange = parts.begin_exchange(node)
    exchange.note_acknowledged(_acknowledged(counters, parts.client.lane.ack, parts.client.header.context))
    parts.wait_until(exchange.leave_by)
    if exchange.acknowledged is None:
        parts.send(Side.CLIENT, parts.accounting.request())
    user = jid.bare(full_jid)
    parts.issue(Dial(node, user, parts.client.header.addressed(to=parts.domain, from_=user)))
    parts.choose_reading()


def is_awaited(parts: Parts, node: str | None = None) -> bool:
    """Return whether a connection to that node, or to any, is waited for."""
    exchange = parts.exchange
    if exchange is None or exchange.state is not Exchanging.DIALLING or exchange.leg is not None:
        return False
    return node is None or node == exchange.node


def on_dialled(parts: Parts, leg: NodeLeg) -> None:
    """Take the leg to the new node that was waited for. It has to be one that :func:`speaks_alike`."""
    assert parts.exchange is not None
    parts.exchange.take_leg(leg)
    _settle_if_ready(parts, parts.exchange)


def _settle_if_ready(parts: Parts, exchange: Exchange) -> None:
    if exchange.can_settle:
        exchange.settle(parts.now)
        parts.client.hold(True)
        parts.send(Side.NODE, parts.accounting.request())
        parts.wait_until(min(parts.now + STEP_SECONDS, exchange.leave_by))
        parts.choose_reading()


def why_late(exchange: Exchange) -> str:
    """Say what has taken too long."""
    if exchange.state is Exchanging.SETTLING:
        return "the node that the session is on does not say how far it is"
    return "it takes too long to log in" if exchange.leg is None else "the client does not say what it has got"


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
    if exchange is not None and counters is not None:
        exchange.note_acknowledged(_acknowledged(counters, ack, parts.client.header.context))
        _settle_if_ready(parts, exchange)


def _acknowledged(counters: Counters, ack: bytes | None, context: bytes) -> int | None:
    """Return how many of the node's stanzas that ``<a/>`` of the client's acknowledges; ``None`` if there is none, or
    it has no number."""
    h = _h(ack, context) if ack else None
    return counters.down.to_sender(h) if h is not None else None


def _h(data: bytes, context: bytes) -> int | None:
    try:
        return read_h(stanza.parse(data, context))
    except stanza.MalformedElement:
        return None


def on_node_ack(parts: Parts, ack: bytes, position: int) -> None:
    """Exchange the legs if the old node has acknowledged everything. Its ``<a/>`` stands in front of whatever follows
    that position."""
    exchange, old, management = parts.exchange, parts.node, parts.accounting.management
    if exchange is None or exchange.state is not Exchanging.SETTLING or old.header is None:
        return
    assert management.counters is not None
    everything = management.counters.up.receivers_count(parts.client.lane.stanzas)
    if _h(ack, old.header.context) != everything:
        return  # it answers an older ``<r/>``, or ours from before another stanza was injected
    leg = exchange.resume(everything, management.counters.down.senders_count(position))
    management.leave(everything)
    management.rejoin(exchange.forwarded, leg.lane.stanzas)  # if no answer comes, the counts stand where the client is
    parts.exchange_node(leg)
    parts.issue(ExchangeNode())
    # Before the <resume/> is answered: from here on nothing leads back to the old node.
    parts.report(NodeChanged(old.name, leg.name))
    # The node's own id: the client may know another one (sm-after-transfer=wrap).
    previd = quoteattr(management.node_id or "")
    resume = f"<resume xmlns='{management.namespace}' h='{exchange.acknowledged}' previd={previd}/>"
    parts.send(Side.NODE, resume.encode())
    parts.wait(STEP_SECONDS)
    parts.choose_reading()


def on_element(parts: Parts, data: bytes, position: int) -> bool:
    """Read what the new node says; return whether it has resumed the session by it."""
    exchange, header = parts.exchange, parts.node.header
    assert exchange is not None
    assert header is not None
    try:
        element = stanza.parse(data, header.context)
    except stanza.MalformedElement:
        return False
    namespace, name = stanza.name_of(element)
    # The old node has handled that many. A node that says another number has not got the session as the old one left
    # it, and stanzas of the client's would be lost, or would come twice.
    if namespace not in NAMESPACES or name != "resumed" or read_h(element) != exchange.handled:
        return False
    _on_resumed(parts, exchange, position)
    return True


def _on_resumed(parts: Parts, exchange: Exchange, position: int) -> None:
    management, acknowledged = parts.accounting.management, exchange.acknowledged
    assert acknowledged is not None, "it was sent with the request"
    management.rejoin(acknowledged, position)
    # Counts wrap around at 2**32.
    exchange.replay(position + (exchange.forwarded - acknowledged) % MODULUS)
    parts.wait(None)
    if parts.negotiation.inactive:
        parts.send(Side.NODE, _INACTIVE)  # it belongs to the stream, and not to the session (XEP-0352 section 5)
    if management.id is not None and management.node_id is not None:
        parts.report(Resumable(management.id, management.node_id, management.counters))
    _finish_if_replayed(parts, exchange, position)
    parts.client.hold(False)
    parts.choose_reading()
    if parts.transfer is not None:
        parts.transfer.held_seconds = parts.now - exchange.held_since
        ending.end_migration(parts, parts.transfer, Outcome.MOVED)


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
