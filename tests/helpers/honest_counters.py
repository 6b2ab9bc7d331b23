"""A client and a node that count for XEP-0198 exactly as they should, and raise when the other one seems not to.

They know nothing of a proxy. Both are :class:`Party`: what one says, the other hears. It is written down what each has
sent and received in whole, so that in the end nothing may be missing and nothing be there twice.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from lxml import etree

MODULUS: Final = 2**32
SM: Final = "urn:xmpp:sm:3"
_STANZAS: Final = ("message", "presence", "iq")


class WrongCount(AssertionError):
    """An ``h`` that can't be."""


class Party:
    """One end of a session, over all its connections. ``start`` is what both counts begin with."""

    def __init__(self, name: str, start_sent: int = 0, start_handled: int = 0) -> None:
        self.name = name
        self.sent: list[str] = []
        """The ids of all stanzas, in order."""
        self.received: list[str] = []
        self.unacknowledged: deque[bytes] = deque()
        self.acknowledged = start_sent
        self.handled = start_handled
        self.counts_sent = self.counts_handled = False
        self.out = b""
        """The stanzas that it has written and nobody has taken yet."""

    def write(self, text: str) -> None:
        self.out += text.encode()

    def take(self) -> bytes:
        out, self.out = self.out, b""
        return out

    # --- stanzas

    def send(self, stanza_id: str, stanza: str) -> None:
        self.sent.append(stanza_id)
        self._count(stanza.encode())
        self.write(stanza)

    def _count(self, stanza: bytes) -> None:
        if self.counts_sent:
            self.unacknowledged.append(stanza)

    def hear(self, element: etree._Element) -> None:
        """One element of the other's, if it is one of those that concern counting."""
        name = etree.QName(element)
        if name.localname in _STANZAS:
            if self.counts_handled:
                self.handled = (self.handled + 1) % MODULUS
            self.received.append(element.get("id", ""))
        elif name.namespace == SM and name.localname == "a":
            self.on_h(element)
        elif name.namespace == SM and name.localname == "r":
            self.acknowledge()

    def on_h(self, element: etree._Element) -> None:
        """At any element with an ``h``: drop what is acknowledged."""
        h = int(element.get("h", "-1"))
        more = (h - self.acknowledged) % MODULUS
        if more > len(self.unacknowledged):
            raise WrongCount(
                f"the {self.name} was told h={h}; it knows of {self.acknowledged} and {len(self.unacknowledged)} more"
            )
        for _ in range(more):
            self.unacknowledged.popleft()
        self.acknowledged = h

    def acknowledge(self) -> None:
        self.write(f"<a xmlns='{SM}' h='{self.handled}'/>")

    def request(self) -> None:
        self.write(f"<r xmlns='{SM}'/>")

    def resend(self) -> None:
        """Behind a resumption: all that is not acknowledged, once more."""
        for stanza in self.unacknowledged:
            self.out += stanza
