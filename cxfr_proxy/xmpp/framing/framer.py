"""Where one top-level element of a stream ends and the next begins.

A relay does not need to understand the stanzas it carries. It needs to know where they *end*: only there may it put one
of its own, and only whole elements may reach a client if a node can die in the middle of one. A framer takes the bytes
of one stream as they come and answers with the offset of the last **boundary**, a position between two top-level
elements (children of ``<stream:stream>``) of an open stream. It also keeps the rules that no party may break:

* RFC 6120 section 11.1, restricted XML: no comment, processing instruction, DTD, or entity beyond the five predefined;
* UTF-8 only (section 11.6), an XML declaration only at the very start;
* nothing but white space between top-level elements (section 11.7, keepalives);
* limits on depth, on the number of attributes and on the size of one element, enforced while the bytes come in, before
  anybody buffers them.

It knows names as XML 1.0 does, and no namespaces. ``<a:b:c/>``, which is no qualified name, passes as an undeclared
prefix does. The node judges whether a stream is namespace-well-formed (RFC 6120 section 11.3), and so does the session
where it reads an element itself (``bad-namespace-prefix``). A framer that saw one of the two would help nobody, and one
that saw both would have to remember declarations, and look at each name of every stanza.

There are two ways to feed it. :meth:`Framer.scan` swallows a whole chunk and is meant for streams that are under way:
it reports only what a session has to look at, and stops where that becomes much. :meth:`Framer.step` stops after the
first event and reports *every* element. It is meant for openings, where each element can change what the next byte
means (a restart, a change to TLS), and it never looks one byte ahead of the element it reports.

While scanning, these are worth an event: a top-level element that is not one of :data:`USUAL`, one that holds the bytes
of :data:`WATCHED` anywhere or an attribute that spells them by character references (``urn:xmpp&#58;cxfr``), the end of
the stream, and a fault. An event says *look*; it decides nothing. Its offsets count from the stream's first byte.

Two engines give the same answers for every input, cut at every byte: a native one (``_scan.c``, built where there is a
compiler) and one on expat (``_expat.py``), which also reads all headers but those of the usual form. One may notice a
fault earlier than the other, never at another boundary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from cxfr_proxy.engines import EngineChoice
from cxfr_proxy.xmpp.framing._expat import ExpatFramer
from cxfr_proxy.xmpp.framing.events import (
    MAX_ATTRIBUTES,
    MAX_EVENTS_PER_SCAN,
    STANZAS,
    USUAL,
    WATCHED,
    FramerEvent,
    StreamEnd,
    StreamFault,
    StreamStart,
    WholeElement,
    may_be_watched,
)
from cxfr_proxy.xmpp.opening.usual_header import TAG as USUAL_TAG
from cxfr_proxy.xmpp.opening.usual_header import glance

if TYPE_CHECKING:
    from cxfr_proxy.xmpp.framing._scan import Scanner

__all__ = [
    "ANY_DEPTH",
    "ENGINE",
    "MAX_ATTRIBUTES",
    "MAX_EVENTS_PER_SCAN",
    "STANZAS",
    "USUAL",
    "WATCHED",
    "Framer",
    "FramerEvent",
    "StreamEnd",
    "StreamFault",
    "StreamStart",
    "WholeElement",
    "behind_header",
    "behind_usual_header",
    "is_native",
    "may_be_watched",
    "new_framer",
]


ANY_DEPTH: Final = 2**31 - 1
"""No limit, for what comes from a node: elements that it passes on may be a stranger's, and must not end the stream of
whoever gets them."""


class Framer(Protocol):
    """The interface of both engines. One framer reads one XML document: after a stream restart, make a new one."""

    max_element_bytes: int | None
    """How long a top-level element, or the stream's header, may be; ``None`` is no limit. May be changed any time."""

    @property
    def boundary(self) -> int:
        """Offset of the last boundary, from the stream's first byte; 0 until the header is complete."""

    @property
    def position(self) -> int:
        """Offset of the next byte to read. Everything before it was read, or came when the stream was over."""

    every: bool
    """Whether :meth:`scan` reports each top-level element, and not only those that want a look."""
    acks: bool
    """Whether :meth:`scan` reports each ``<a/>`` and ``<r/>`` of XEP-0198 as well."""
    events: list[FramerEvent]
    """The events, in order. The caller clears it before it feeds on."""
    held: bytes | bytearray
    """The last bytes before :attr:`position` that the lane keeps. They are the lane's, and the framer does not look at
    them: they lie here so that C code that feeds the native engine finds both in one object."""

    @property
    def stanzas(self) -> int:
        """How many of the complete top-level elements are :data:`STANZAS`, with or without a prefix."""

    @property
    def ack(self) -> bytes | None:
        """The last complete ``<a/>``, with or without a prefix, in any namespace: XEP-0198's, as a rule. ``None``:
        there was none; empty: it came in more than one chunk."""

    def scan(self, data: bytes) -> int:
        """Read ``data`` to its end, or to that of the :data:`MAX_EVENTS_PER_SCAN`-th element reported.

        Afterwards :attr:`position` says how far. Return the offset in ``data`` of the last boundary, 0 if there is none
        past its start. Only for streams whose header is complete. Raises nothing: faults are events.
        """

    def step(self, data: bytes) -> int:
        """Read ``data`` up to the end of the first event, or all of it; return how many bytes were read."""


def _load_native() -> type[Scanner] | None:
    try:
        from cxfr_proxy.xmpp.framing._scan import Scanner
    except ImportError:
        return None  # it was not compiled here
    return Scanner


ENGINE: Final = EngineChoice("framing", _load_native(), other="expat")
"""The engine that reads streams that are under way: one choice for the process, made before it serves."""


def new_framer(*, max_element_bytes: int | None, max_depth: int) -> Framer:
    """Return a framer for the start of a stream. ``max_depth`` counts the stream element itself as 1.

    The expat engine reads all headers that are not usual; :func:`behind_header` says which one goes on.
    """
    return ExpatFramer(max_element_bytes=max_element_bytes, max_depth=max_depth)


def behind_usual_header(data: bytes, *, max_element_bytes: int | None, max_depth: int) -> Framer | None:
    """Return a framer that stands behind the header of the usual form that ``data`` begins with.

    ``None`` if it begins with none, or with one that is longer than ``max_element_bytes``: then :func:`new_framer`
    reads it, and reports any fault.
    """
    header = glance(data)
    if not header or (max_element_bytes is not None and len(header) > max_element_bytes):
        return None
    if ENGINE.native is not None:
        return ENGINE.native(USUAL_TAG, len(header), max_element_bytes, max_depth)
    return ExpatFramer.behind_usual_header(header, max_element_bytes=max_element_bytes, max_depth=max_depth)


def is_native(framer: Framer) -> bool:
    """Return whether C code may feed it."""
    return ENGINE.compiled is not None and isinstance(framer, ENGINE.compiled)


def behind_header(framer: Framer, tag: bytes, *, max_depth: int) -> Framer:
    """Return the framer for the rest of a stream of which ``framer`` has read the header and nothing behind it.

    ``tag`` is the stream's qualified name, which its closing tag has to repeat.
    """
    if ENGINE.native is None:
        return framer
    return ENGINE.native(tag, framer.boundary, framer.max_element_bytes, max_depth)
