"""The events that a framer reports about a stream, and the elements that it reports. See :mod:`.framer`.

Events are msgspec structs: each takes a sixth of the time of a frozen dataclass, and a login makes some forty. They
hold numbers and text only, so none can be part of a reference cycle, and the collector is told to leave them alone
(``gc``).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from cxfr_proxy.xmpp import names

STANZAS: Final = frozenset(("message", "presence", "iq"))
"""The local names of the elements that XEP-0198 counts (RFC 6120 section 8)."""
USUAL: Final = STANZAS | {"a", "r"}
"""Raw tag names that pass without an event: the stanzas, and XEP-0198's ``<a/>`` and ``<r/>``. A prefixed spelling of
one of them is unusual, and reported."""

WATCHED: Final = names.CXFR.encode()
"""The one string watched for. The ids of the IQs that this proxy injects begin with it too, so it finds the answers."""


def may_be_watched(data: bytes) -> bool:
    """Return whether a look at this element may find the watched string.

    It is for a caller that gets every element, reported or not. It errs on the side of looking: a character reference
    anywhere may stand for one of the characters.
    """
    return WATCHED in data or b"&#" in data


MAX_EVENTS_PER_SCAN: Final = 64
"""A scan stops behind so many events. Each costs a look of some 15 µs, and the shortest element has four bytes: without
a limit one chunk could hold up all other sessions for longer than they can wait."""
MAX_ATTRIBUTES: Final = 100
"""A tag with more is refused. No stanza has a tenth of it, and looking for one that is there twice takes quadratic
time."""


class StreamStart(Struct, frozen=True, gc=False):
    """The stream's opening tag, with the XML declaration if there was one."""

    start: int
    end: int


class WholeElement(Struct, frozen=True, gc=False):
    """A complete top-level element.

    ``name`` is its tag as written, prefix included. ``stanzas`` is how many of the stream's elements were stanzas so
    far, this one included.
    """

    start: int
    end: int
    name: str
    stanzas: int = 0


class StreamEnd(Struct, frozen=True, gc=False):
    """The stream's closing tag. The framer ignores what follows it."""

    start: int
    end: int


class StreamFault(Struct, frozen=True, gc=False):
    """The stream can't be read past the boundary ``start`` (= ``end``): the fault is in what comes next.

    ``condition`` is a stream-error condition (RFC 6120 section 4.9.3). ``text`` says what was wrong, in words that
    quote nothing of the input.
    """

    start: int
    end: int
    condition: str
    text: str


FramerEvent = StreamStart | WholeElement | StreamEnd | StreamFault
"""Offsets count from the stream's first byte."""
