"""What a framer can say about a stream, and which things it says it about. See :mod:`.framer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cxfr_proxy.xmpp import names

STANZAS: Final = frozenset(("message", "presence", "iq"))
"""What XEP-0198 counts, RFC 6120 section 8, by local name."""
USUAL: Final = STANZAS | {"a", "r"}
"""Raw tag names that pass unnoticed: the stanzas, and XEP-0198's ``<a/>`` and ``<r/>``. A prefixed spelling of one of
them is unusual, and looked at."""

WATCHED: Final = names.CXFR.encode()
"""The one string watched for. The ids of the IQs that this proxy injects begin with it too, so it finds the answers."""


def may_be_watched(data: bytes) -> bool:
    """For who gets every element, noted or not: whether a look may find what is watched for.

    Errs on the side of looking: a reference anywhere may stand for one of the characters.
    """
    return WATCHED in data or b"&#" in data


MAX_NOTES: Final = 64
"""A scan stops behind so many. Each wants a look, some 15 µs, and the shortest element has four bytes: so a chunk could
hold up everybody for longer than they can wait."""
MAX_ATTRIBUTES: Final = 100
"""More in one tag are refused. No stanza has a tenth of it, and finding one that is there twice costs its square."""


@dataclass(frozen=True, slots=True)
class Header:
    """The stream's opening tag, with the XML declaration if there was one."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Element:
    """A complete top-level element; ``name`` is its tag as written, prefix included.

    ``stanzas``: how many of the stream's elements were stanzas, this one included.
    """

    start: int
    end: int
    name: str
    stanzas: int = 0


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The stream's closing tag. What follows it is ignored."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The stream can't be read past the boundary ``start`` (= ``end``): what comes next is at fault.

    ``condition`` is a stream-error condition (RFC 6120 section 4.9.3), ``text`` says what was wrong, in words that
    quote nothing of the input.
    """

    start: int
    end: int
    condition: str
    text: str


Note = Header | Element | StreamEnd | Failure
