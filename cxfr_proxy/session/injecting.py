"""Inject stanzas of the proxy's and swallow others, so that XEP-0198's counts stay true.

:mod:`.accounting` keeps the counts. Here is what else follows when a stanza is put in or taken out: streams are looked
at in another way from then on (:meth:`.parts.Parts.choose_reading`), and those who may have to resume the session are
told.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.session.commands import Side
from cxfr_proxy.session.parts import Parts
from cxfr_proxy.session.tables import Exchanging, State
from cxfr_proxy.xmpp.connection_transfer import TransferAnswer

_CLIENT: Final = Side.CLIENT
_NODE: Final = Side.NODE


def inject_down(parts: Parts, data: bytes) -> None:
    """Send the client a stanza of the proxy's, at the node's last boundary."""
    parts.accounting.management.injected_down(parts.node.lane.stanzas_dealt_with)
    parts.send(_CLIENT, data)
    _note_shift(parts)


def inject_up(parts: Parts, data: bytes) -> None:
    """Send the node a stanza of the proxy's, at the client's last boundary."""
    parts.accounting.management.injected_up(parts.client.lane.stanzas_dealt_with)
    parts.pass_stanza_up(data)
    if parts.exchange is not None and parts.exchange.state is Exchanging.SETTLING:
        parts.send(_NODE, parts.accounting.request())  # the one before does not cover it
    _note_shift(parts)


def swallow_down(parts: Parts, position: int) -> None:
    """Keep the node's stanza at that position from the client."""
    # A client that has its last bytes will get this again when it resumes. The node may be repeating itself by now,
    # so the position says nothing.
    if parts.client.writable:
        parts.accounting.management.swallowed_down(position)
        _note_shift(parts)


def swallow_up(parts: Parts, position: int) -> None:
    """Keep the client's stanza at that position from the node."""
    parts.accounting.management.swallowed_up(position)
    _note_shift(parts)


def replace_down(parts: Parts, position: int, reply: bytes | None) -> None:
    """Keep the node's stanza at that position from the client, put a ping in its place if stanzas are counted, and
    answer it with ``reply``, if there is one."""
    accounting = parts.accounting
    # "Counting" begins with <enable/>: the node may confirm it, and then the stanza has counted.
    counted = accounting.management.counting and parts.state is not State.NEGOTIATING
    if parts.client.writable and counted:
        new_token = parts.policy.surroundings.new_token
        parts.send(_CLIENT, accounting.ping(parts.domain, parts.negotiation.full_jid, new_token))
    else:
        swallow_down(parts, position)
    if reply is not None and parts.node.writable:
        # Without a reply the client's answer goes to the node, which has no use for it, but counts it.
        if counted:
            accounting.expect_pong()
        inject_up(parts, reply)


def takes_pong(parts: Parts, answer: TransferAnswer, position: int) -> bool:
    """Return whether the client's stanza at that position makes up for a reply of the proxy's. Then the node does
    not see it."""
    if not parts.accounting.take_pong(answer):
        return False
    swallow_up(parts, position)
    if parts.node.writable and parts.accounting.management.on:
        # From then on nobody has to know that anything happened.
        parts.send(_NODE, parts.accounting.request())
    return True


def _note_shift(parts: Parts) -> None:
    parts.choose_reading()
    shift = parts.accounting.shift
    if shift is not None and parts.state is not State.CLOSED:
        parts.report(shift)
