"""Speak XEP-0198 with the node in the place of a client that does not (``node-stream-management``).

The session can be resumed then, on another node (:mod:`.exchanging`, the rung *migrate*) or on the same one after the
connection to it broke, and the client notices neither.

*The client comes first.* Clients that know XEP-0198 ask for it as soon as they are bound, in front of their first
presence. So the proxy asks the node when it sees a presence, or when :data:`CHANCE_SECONDS` are over, and not at all
once the client has asked. From then on every stanza for the node is kept until the node has acknowledged it
(:mod:`.replay`), and a stanza of the node's counts as handled when it was passed on: nobody could know more. ``<r/>``,
``<a/>`` and everything else of XEP-0198 stay between the proxy and the node.

*A client that asks later* gets it all the same, although nodes refuse a second ``<enable/>``: the proxy answers, and
hands its own counts over. Client and node count differently from there on, by what came before, and the proxy
translates (:mod:`cxfr_proxy.xmpp.stream_management`). The client gets an id of the proxy's own: by the node's it could
resume somewhere where nobody knows of the difference.

*At the end* the node is told how far the client has got: it takes for undelivered what was not acknowledged, and stores
it, returns it or sends it elsewhere (XEP-0198 section 5). So what it sends behind that does not go to the client as
well, or it would come twice.
"""

from __future__ import annotations

import re
from typing import Final

from lxml import etree

from cxfr_proxy.session.commands import Resumable, Side
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.stand_in import StandIn
from cxfr_proxy.session.tables import State
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.stanza import Element
from cxfr_proxy.xmpp.stream_management import element_of

CHANCE_SECONDS: Final = 5.0
"""Seconds for which a client that sends no presence may ask for XEP-0198 itself. Libraries do so within a round trip of
the bind."""
_KEPT_SECONDS: Final = 60
"""How long the node is to keep a session whose connection is gone: nobody but the proxy comes back for it, and does so
within seconds."""
_ENABLE: Final = f"<enable xmlns='{names.SM}' resume='true' max='{_KEPT_SECONDS}'/>".encode()
_REFUSAL: Final = f"<failed xmlns='{names.SM}'><unexpected-request xmlns='{names.STANZA_ERRORS}'/></failed>".encode()
_WORDS: Final = frozenset(("a", "r", "enable", "resume"))
"""The elements by which a client speaks XEP-0198."""
_STANZA_TAG: Final = re.compile(rb"<(?:[^\s/>]*:)?(?:message|presence|iq)[\s/>]")


def begin(parts: Parts) -> None:
    """Begin at bind, if the proxy may log in at the node as the client's user; otherwise it could not resume the
    session."""
    management = parts.accounting.management
    if parts.negotiation.full_jid is None or not _can_log_in(parts):
        parts.end_replay()
    elif not management.counting:
        parts.end_replay()  # a login that has failed had asked
        parts.stand_in_from(StandIn(parts.now + CHANCE_SECONDS))
    elif parts.replay is None and management.sent(parts.client.lane.stanzas) == management.first_h:
        # It was resumed. A client that has sent stanzas before it knew that can't be helped: they were not kept.
        parts.begin_replay(management.first_h, management.forwarded(parts.node.lane.stanzas))
    parts.hold_client_if_need_be()


def _can_log_in(parts: Parts) -> bool:
    return parts.policy.stands_in and parts.policy.surroundings.takes_sessions(parts.node.name)


# --- what the client says


def on_client_element(parts: Parts, stand_in: StandIn, name: str, data: bytes, position: int) -> bool:
    """Return whether an element of a bound client's is one of XEP-0198 that must not reach the node. ``name`` is its
    local one, and ``position`` that behind the element."""
    if stand_in.waiting:
        if name == "presence":
            ask(parts, stand_in)
        return False
    if name not in _WORDS:
        return False
    element = element_of(data, parts.client.header.context)
    if element is None:
        return False
    _on_late_element(parts, stand_in, element, position)
    return True


def on_client_asked(parts: Parts) -> None:
    """Leave XEP-0198 to the client, if it has just asked for it, be it before it is bound."""
    management = parts.accounting.management
    if not management.counting or parts.replay is not None:
        return
    if parts.negotiating is not None and not management.on and _can_log_in(parts):
        parts.begin_replay()
    elif parts.stand_in is not None and parts.stand_in.waiting:
        parts.end_standing_in()
        parts.begin_replay()


def ask(parts: Parts, stand_in: StandIn) -> None:
    """Ask the node to count, in front of what the client sends next; or leave it, if the node has not offered it."""
    if not parts.negotiation.offers_management or not parts.node_listens:
        parts.end_standing_in()
        return
    stand_in.ask()
    parts.begin_replay()
    parts.send(Side.NODE, _ENABLE)
    parts.choose_reading()


def _on_late_element(parts: Parts, stand_in: StandIn, element: Element, position: int) -> None:
    """Take a word of XEP-0198 from a client that has not spoken it before; all but the request mean nothing."""
    replay, name = parts.replay, etree.QName(element)
    assert replay is not None, "it is kept from the proxy's own request on"
    if name.localname not in ("enable", "resume"):
        return
    can_be = parts.node_listens and replay.trusted and stand_in.late is None
    if can_be and element.tag == stanza.qualified(names.SM, "enable"):
        parts.accounting.management.ask_late(position, replay.sent)
        stand_in.note_late(resumable=element.get("resume") in ("true", "1"))
        answer_if_due(parts)
    elif not parts.cuts_client:
        parts.send(Side.CLIENT, _REFUSAL.replace(names.SM.encode(), (name.namespace or "").encode()))
    parts.choose_reading()


def answer_if_due(parts: Parts) -> None:
    """Answer a client that has asked late, if there is a boundary behind what the node has sent so far."""
    if parts.stand_in is not None and parts.stand_in.late is not None and parts.stand_in.on:
        _answer_late(parts, parts.stand_in, parts.node.lane.stanzas)


def _answer_late(parts: Parts, stand_in: StandIn, position: int) -> None:
    """Hand over to the client, in front of what follows that position of the node's stream."""
    replay, management = parts.replay, parts.accounting.management
    assert replay is not None, "it is kept while the proxy stands in"
    if parts.cuts_client or parts.exchange is not None or not (parts.client.writable and parts.node.writable):
        return
    forwarded = stand_in.forwarded(position)
    client_id = parts.policy.surroundings.new_token() if stand_in.late and stand_in.node_id is not None else None
    management.take_over(stand_in.node_id, client_id, forwarded=forwarded, position=position)
    replay.confirm(forwarded)
    parts.send(Side.NODE, _ack(forwarded))
    parts.end_standing_in()
    resumable = f" id='{client_id}' resume='true'" if client_id is not None else ""
    parts.send(Side.CLIENT, f"<enabled xmlns='{names.SM}'{resumable}/>".encode())
    if client_id is not None and stand_in.node_id is not None:
        parts.report(Resumable(client_id, stand_in.node_id, management.counters))
    parts.choose_reading()


# --- what the node says


def on_node_element(parts: Parts, stand_in: StandIn, data: bytes, position: int) -> bool:
    """Return whether an element of the node's, which is no stanza, is one of XEP-0198 that is not for the client."""
    if stand_in.waiting:
        return False
    assert parts.node.header is not None, "a framer reports the header first"
    element = element_of(data, parts.node.header.context)
    if element is None:
        return False
    match etree.QName(element).localname:
        case "enabled" if not stand_in.on:
            _on_enabled(parts, stand_in, element, position)
        case "failed" if not stand_in.on:
            _on_refused(parts, stand_in)
        case "r" if stand_in.on and parts.node.writable:
            parts.send(Side.NODE, _ack(stand_in.forwarded(position)))
    return True


def _on_enabled(parts: Parts, stand_in: StandIn, enabled: Element, position: int) -> None:
    resumable = enabled.get("resume") in ("true", "1")
    stand_in.begin(enabled.get("id") if resumable else None, position)
    parts.request_if_due()
    if stand_in.late is not None:
        _answer_late(parts, stand_in, position)


def _on_refused(parts: Parts, stand_in: StandIn) -> None:
    """Leave it: the node does not count, and nothing can be resumed."""
    if stand_in.late is not None:
        parts.accounting.management.refuse_late()
        if not parts.cuts_client:
            parts.pass_down(_REFUSAL)
    parts.end_standing_in()
    parts.end_replay()


def note_ack(parts: Parts, h: int | None) -> None:
    """Note how many stanzas the node has handled; ``None``: it says no number."""
    replay = parts.replay
    if replay is not None and h is not None:
        replay.acknowledge(h, parts.now)
        parts.hold_client_if_need_be()
        parts.choose_reading()


def on_node_answered(parts: Parts) -> None:
    """Keep nothing any more if the node has just refused what the client asked for; ask it how far it is if it has just
    begun to count, and much came before."""
    if parts.stand_in is None and not parts.accounting.management.counting:
        parts.end_replay()
    parts.request_if_due()


def _ack(h: int) -> bytes:
    return f"<a xmlns='{names.SM}' h='{h}'/>".encode()


# --- the end, and the time


def sign_off(parts: Parts, *, at_once: bool) -> None:
    """Tell the node, whose stream is about to end, how far its client has got. ``at_once``: the client gets nothing
    more, and so not the rest of a chunk that is being read either."""
    stand_in, lane = parts.stand_in, parts.node.lane
    if stand_in is None or not stand_in.on or stand_in.last is not None:
        return
    # Most of a stanza that is cut through is with the client; the node has sent it, so it may be acknowledged.
    read = lane.stanzas_dealt_with if at_once else lane.stanzas
    last = read + (lane.cutting and read == lane.stanzas and _STANZA_TAG.match(lane.cut_head) is not None)
    stand_in.end(last)
    parts.send(Side.NODE, _ack(stand_in.forwarded(last)))
    parts.choose_reading()


def ends_on_node(parts: Parts) -> bool:
    """Return whether the node would keep a session for which nobody comes back."""
    return parts.stand_in is not None and parts.stand_in.between


def drops(parts: Parts, position: int) -> bool:
    """Return whether the node's stanza at that position is not for the client: the node was told that it did not
    arrive."""
    return parts.stand_in is not None and parts.stand_in.drops(position)


def drops_beginning(parts: Parts) -> bool:
    """Return the same of a stanza that is being cut through, and has not ended."""
    return parts.node.lane.cutting and drops(parts, parts.node.lane.stanzas + 1)


def due(parts: Parts) -> float | None:
    """Return when to call :func:`on_time`; ``None``: never."""
    if parts.state not in (State.BOUND, State.TRANSFERRING):
        return None
    stand_in, replay = parts.stand_in, parts.replay
    if stand_in is not None and stand_in.chance_until is not None:
        return stand_in.chance_until
    if replay is not None and replay.full_since is not None:
        return replay.full_since + parts.policy.timeouts.write_stall_timeout
    return None


def on_time(parts: Parts) -> bool:
    """Act on the time, if that is due. Return false if the node has to be given up: it handles nothing any more."""
    when, stand_in = due(parts), parts.stand_in
    if when is None or parts.now < when:
        return True
    if stand_in is not None and stand_in.waiting:
        ask(parts, stand_in)
        return True
    return False
