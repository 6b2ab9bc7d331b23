"""XEP-0198 on a stream to which a proxy adds stanzas and from which it takes some.

Each party counts the stanzas it has handled, modulo 2**32, and sends the count (``h``) in ``<a/>``, ``<resume/>``,
``<resumed/>`` and ``<failed/>``; the other one drops what is acknowledged and sends the rest again after a resumption.
A stanza that only one of them knows makes their counts differ, and a wrong ``h`` is worse than none: too high by one,
it ends the stream, or is believed and a stanza is lost in silence. So every ``h`` is translated.

**The rule.** One direction is a sequence of stanzas of three kinds: passed on (both count it), *injected* (only its
receiver does), *swallowed* (only its sender does; the proxy has dealt with it). The receiver's ``h`` stands for the
longest beginning of that sequence with ``h`` stanzas that the receiver counts, and is for the sender the number of
those in it that the sender counts. Nothing is validated: counters are off by one in the wild, and judging them is the
parties' own business.

**Where counting begins** (XEP-0198 section 4): up, behind the client's ``<enable/>``; down, behind the node's
  ``<enabled/>``; on a resumed stream where the acknowledged stanzas end, behind ``<resume/>`` and ``<resumed/>``. The
  same holds inside SASL2 and Bind 2 (XEP-0388, XEP-0386), behind the element that contains them.

A place in the sequence is told by its *position*: how many stanzas the sender's bytes have held so far, as
:attr:`.framing.framer.Framer.stanzas` counts them anyway. So a stream to which nothing was added, which is nearly every
stream at all times, is not looked at at all.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from lxml import etree

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.stanza import Element

MODULUS: Final = 2**32
"""Counts wrap around here, XEP-0198 section 4. As with serial numbers, a count that is ahead by less than half is
later."""
NAMESPACES: Final = (names.SM, names.SM2)
# Nearly all are written so, and come behind every few stanzas: parsing them takes longer than all the rest.
_USUAL_REQUEST: Final = re.compile(rb"<r xmlns=(['\"])urn:xmpp:sm:[23]\1 ?/>")
_USUAL_ACK: Final = re.compile(rb"<a xmlns=(['\"])urn:xmpp:sm:[23]\1 h=(['\"])([0-9]{1,10})\2 ?/>")
_ANY: Final = tuple(stanza.qualified(namespace, "*") for namespace in NAMESPACES)


@dataclass(slots=True)
class Flow:
    """One direction of a stream, from the place where its stanzas are counted.

    ``origin`` is the position of the last stanza that does not count: the sender's count is a position less that. The
    difference between the sender's and the receiver's count is ``settled`` where the receiver has acknowledged, and
    ``lead`` where the proxy is. ``steps`` are the changes in between, each with the receiver's count from which on it
    holds. ``begins`` is the receiver's count where the sender's begins, until the receiver is as far; ``None``: it is.
    """

    origin: int
    settled: int = 0
    lead: int = 0
    steps: tuple[tuple[int, int], ...] = ()
    begins: int | None = None

    @property
    def shifted(self) -> bool:
        """Whether sender and receiver count differently, or did where the receiver's last ``h`` was."""
        return self.settled != 0 or self.steps != () or self.begins is not None

    def injected(self, position: int) -> None:
        """Count a stanza of the proxy's own behind the sender's at ``position``."""
        self._step(position + 1, -1)

    def swallowed(self, position: int) -> None:
        """Leave the sender's stanza at ``position`` out: it does not reach the receiver, and has been dealt with."""
        self._step(position - 1, +1)

    def _step(self, position: int, change: int) -> None:
        self.steps += ((position - self.origin - self.lead, change),)
        self.lead += change

    def receivers_count(self, position: int) -> int:
        """Return the receiver's count once it has got everything up to the sender's ``position``."""
        return (position - self.origin - self.lead) % MODULUS

    def senders_count(self, position: int) -> int:
        """Return the sender's count at its ``position``."""
        return (position - self.origin) % MODULUS

    def to_sender(self, h: int) -> int:
        """Return what the receiver's ``h`` is to the sender. Acknowledgements come in order, so earlier steps are
        settled."""
        if self.begins is not None:
            if (h - self.begins) % MODULUS >= MODULUS // 2:
                return 0  # of nothing that the sender counts
            self.begins = None
        while self.steps and (h - self.steps[0][0]) % MODULUS < MODULUS // 2:
            self.settled += self.steps[0][1]
            self.steps = self.steps[1:]
        return (h + self.settled) % MODULUS

    def resume(self, h: int, position: int) -> int:
        """Go on with a new stream behind the receiver's ``h``; the stanza at ``position`` has that count.

        Later stanzas did not arrive. The sender sends them again, and whatever has to be added or taken out will be
        again. Returns what ``h`` is to the sender.
        """
        acknowledged = self.to_sender(h)
        if self.begins is not None:  # what came before the sender's count did not arrive, and never will
            self.begins, self.settled = None, -h
        self.steps, self.lead = (), self.settled
        self.origin = position - acknowledged
        return acknowledged

    def rebase(self, count: int, position: int) -> None:
        """Go on with another stream of the sender's, where the stanzas behind ``position`` follow its ``count``.

        The receiver's stream is the same, and so is what was added and taken out.
        """
        self.origin = position - count


@dataclass(slots=True)
class Counters:
    """Both directions: ``down`` is acknowledged by the client, ``up`` by the node."""

    up: Flow
    down: Flow

    @property
    def shifted(self) -> bool:
        return self.up.shifted or self.down.shifted

    @property
    def even(self) -> bool:
        """Whether both count alike from here on. The next acknowledgement may still be of earlier stanzas."""
        return self.up.lead == 0 == self.down.lead


@dataclass(frozen=True, slots=True)
class Resumption:
    """The facts about a session that can be resumed.

    ``node_id`` is the node's id for it, which may differ from the client's. ``counters`` are ``None`` if client and
    node count alike.
    """

    full_jid: str | None
    node: str
    node_id: str
    counters: Counters | None = None

    def without_equal_counts(self) -> Resumption:
        """Return it without counts that are alike, as nearly all are: nothing of them has to be kept."""
        shifted = self.counters is not None and self.counters.shifted
        return self if shifted else replace(self, counters=None)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The ``<resume/>`` that waits for an answer. ``h`` is the client's, ``None`` if it had no number."""

    client_id: str
    known: Resumption | None
    h: int | None
    position: int


class KnownSessions(Protocol):
    """Knows of sessions that began elsewhere."""

    def resumption(self, stream_management_id: str, /) -> Resumption | None:
        """Return what is known of a session that can be resumed, by the id that its client has; ``None``: nothing."""


class StreamManagement:
    """Follows XEP-0198 between client and node, and edits it where they would misunderstand each other.

    ``known`` knows of sessions that began elsewhere. ``new_id`` makes ids of the proxy's own that clients get instead
    of their node's, so that nobody else can resume by them; ``None``: they get the node's.
    """

    __slots__ = (
        "_asked",
        "_known",
        "_new_id",
        "_up",
        "counters",
        "first_h",
        "full_jid",
        "id",
        "namespace",
        "node_id",
        "resumable",
    )

    def __init__(self, known: KnownSessions | None = None, new_id: Callable[[], str] | None = None) -> None:
        self._known = known
        self._new_id = new_id
        self._asked: _Asked | None = None
        self._up: Flow | None = None  # begins with <enable/>, before the node has said whether it counts
        self.first_h = 0
        """The node's count where this stream's counting began."""
        self.full_jid: str | None = None
        """The full JID of the session that was resumed, if it is known."""
        self.counters: Counters | None = None
        """``None`` while it is not on."""
        self.resumable = False
        self.id: str | None = None
        """The id by which the client would resume; ``None`` if it can't."""
        self.node_id: str | None = None
        """The node's id for the same session."""
        self.namespace: str = names.SM

    @property
    def on(self) -> bool:
        return self.counters is not None

    @property
    def counting(self) -> bool:
        """Whether the client's stanzas are counted, or will have been once ``<enabled/>`` comes."""
        return self._up is not None

    @property
    def shifted(self) -> bool:
        return self.counters is not None and self.counters.shifted

    def sent(self, position: int) -> int:
        """Return how many stanzas the node counts up to that position of the client's stream, once it has read them."""
        assert self._up is not None, "or nobody counts"
        return self._up.receivers_count(position)

    # --- what the proxy does to the stream; nothing to note while nobody counts

    def injected_down(self, position: int) -> None:
        if self.counters is not None:
            self.counters.down.injected(position)

    def swallowed_down(self, position: int) -> None:
        if self.counters is not None:
            self.counters.down.swallowed(position)

    def injected_up(self, position: int) -> None:
        if self._up is not None:
            self._up.injected(position)

    def swallowed_up(self, position: int) -> None:
        if self._up is not None:
            self._up.swallowed(position)

    # --- what the parties say

    def from_client(self, element: Element, position: int) -> bool:
        """Read an element of XEP-0198, or a login that may hold some, from the client; return whether it was edited.

        ``position``: how many stanzas came before it.
        """
        if etree.QName(element).namespace not in NAMESPACES:
            self._up = self._asked = None  # a login, perhaps after one that failed: an <enable/> in that had no effect
        changed = False
        for part in element.iter(*_ANY):
            match etree.QName(part).localname:
                # Servers refuse a second <enable/>, so it changes nothing.
                case "enable" if self.counters is None:
                    self._up = Flow(position)
                case "resume" if self.counters is None:
                    changed |= self._on_resume(part, position)
                case "a" if self.counters is not None:
                    changed |= _translate(part, self.counters.down)
        return changed

    def from_node(self, element: Element, position: int) -> bool:
        """Read the same from the node."""
        changed = False
        for part in element.iter(*_ANY):
            match etree.QName(part).localname:
                case "enabled" if self.counters is None:
                    changed |= self._on_enabled(part, position)
                case "resumed" if self.counters is None:
                    changed |= self._on_resumed(part, position)
                case "failed":
                    changed |= self._on_failed(part)
                case "a" if self.counters is not None:
                    changed |= _translate(part, self.counters.up)
        return changed

    def _on_enabled(self, enabled: Element, position: int) -> bool:
        self._begin(enabled, self._up or Flow(position), Flow(position))
        self.id = self.node_id = enabled.get("id")
        # Both spellings are xs:boolean's. An id without resume="true" only names the stream.
        self.resumable = self.id is not None and enabled.get("resume") in ("true", "1")
        if not self.resumable or self._new_id is None:
            return False
        self.id = self._new_id()
        enabled.set("id", self.id)
        return True

    def _begin(self, element: Element, up: Flow, down: Flow) -> None:
        self.namespace = etree.QName(element).namespace or self.namespace
        self._up = up
        self.counters = Counters(up, down)

    def _on_resume(self, resume: Element, position: int) -> bool:
        client_id = resume.get("previd", "")
        known = self._known.resumption(client_id) if self._known is not None else None
        known = copy.deepcopy(known)  # the old stream may still be open, and count on with its own
        h = read_h(resume)
        self._asked = _Asked(client_id, known, h, position)
        if known is None:
            return False
        changed = known.node_id != client_id
        resume.set("previd", known.node_id)
        if known.counters is not None and h is not None:
            changed |= _translate(resume, known.counters.down)
        return changed

    def _on_resumed(self, resumed: Element, position: int) -> bool:
        asked, self._asked = self._asked, None
        # A <resumed/> that nobody asked for: the counts begin here.
        if asked is None:
            asked = _Asked(resumed.get("previd", ""), None, None, 0)
        counters = _continued(asked.known)
        h = read_h(resumed)
        self.first_h = h or 0
        if asked.h is not None:
            counters.down.resume(asked.h, position)
        # Up counts from the <resume/>, which the client sent before it knew; down from the <resumed/>.
        counters.up.resume(self.first_h, asked.position)
        self._begin(resumed, counters.up, counters.down)
        self.resumable = True
        self.id = asked.client_id
        self.node_id = asked.known.node_id if asked.known is not None else asked.client_id
        self.full_jid = asked.known.full_jid if asked.known is not None else None
        changed = _translate(resumed, counters.up)
        if self.id != self.node_id:
            resumed.set("previd", self.id)
            changed = True
        return changed

    def _on_failed(self, failed: Element) -> bool:
        """Note that the resumption failed, which may say how far the node had got; or ``<enable/>``, which then counts
        nothing."""
        asked, self._asked = self._asked, None
        if asked is not None:
            return _translate(failed, _continued(asked.known).up)
        if self.counters is None:
            self._up = None
        return False

    def ask_late(self, position: int, handled: int) -> None:
        """Note that the client asks for it on a stream on which the proxy and the node count already, in its place. Its
        own count begins behind ``position``, where the node's is ``handled``."""
        self._up = Flow(position, -handled, -handled, begins=handled)

    def refuse_late(self) -> None:
        """Note that the client does not get what it has asked for."""
        self._up = None

    def take_over(self, node_id: str | None, client_id: str | None, *, forwarded: int, position: int) -> None:
        """Let the client count, which has asked late: the node's stanzas behind ``position``, where the node's count is
        ``forwarded``. ``client_id`` is the id by which the client can resume; ``None``: it can't."""
        assert self._up is not None, "it was asked"
        self.counters = Counters(self._up, Flow(position - forwarded, forwarded, forwarded))
        self.node_id, self.id = node_id, client_id
        self.resumable = client_id is not None

    def forwarded(self, position: int) -> int:
        """Return how many stanzas the node counts up to that position of its stream."""
        assert self.counters is not None, "or there is nothing to resume"
        return self.counters.down.senders_count(position)

    def leave(self, handled: int) -> None:
        """Note that the session leaves the node's stream for another node's, while the client's goes on. The old node
        has handled so many stanzas."""
        self.first_h = handled

    def rejoin(self, count: int, position: int) -> None:
        """Go on with the node's new stream, where the stanzas behind ``position`` follow its ``count``."""
        assert self.counters is not None, "or there is nothing to resume"
        self.counters.down.rebase(count, position)

    def last_ack(self, ack: bytes | None, context: bytes) -> bytes | None:
        """Return an ``<a/>`` with how far the node had got, for the client when the node is gone.

        ``ack`` is the node's last one, in a stream opened by ``context``: ``None`` if it sent none, empty if it is not
        known. ``None`` is returned if there is nothing to tell.
        """
        if self.counters is None or ack == b"":
            return None
        h = self.first_h if ack is None else h_of(ack, context)
        if h is None:
            return None
        return f"<a xmlns='{self.namespace}' h='{self.counters.up.to_sender(h)}'/>".encode()


def _continued(known: Resumption | None) -> Counters:
    return known.counters if known is not None and known.counters is not None else Counters(Flow(0), Flow(0))


def element_of(data: bytes, context: bytes) -> Element | None:
    """Return an element of XEP-0198, as it came in a stream opened by ``context``; ``None`` if it is none, whatever it
    is called, or can't be read."""
    try:
        element = stanza.parse(data, context)
    except stanza.MalformedElement:
        return None
    return element if stanza.name_of(element)[0] in NAMESPACES else None


def h_of(data: bytes, context: bytes) -> int | None:
    """Return the count in such an element; ``None`` as well if it has none."""
    usual = _USUAL_ACK.fullmatch(data)
    if usual is not None:
        h = int(usual[3])
        return h if h < MODULUS else None
    element = element_of(data, context)
    return read_h(element) if element is not None else None


def is_request(data: bytes, context: bytes) -> bool:
    """Return whether an element called ``<r/>``, with any prefix, is the one of XEP-0198."""
    return _USUAL_REQUEST.fullmatch(data) is not None or element_of(data, context) is not None


def read_h(element: Element) -> int | None:
    """Return the count in an element of XEP-0198; ``None`` if it has none, or no number."""
    text = element.get("h", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < MODULUS else None


def _translate(element: Element, flow: Flow) -> bool:
    h = read_h(element)
    translated = flow.to_sender(h) if h is not None else h
    if translated == h:
        return False
    element.set("h", str(translated))
    return True
