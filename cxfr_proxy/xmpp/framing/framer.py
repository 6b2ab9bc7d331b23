"""Where one top-level element of a stream ends and the next begins.

A relay does not need to understand the stanzas it carries; it needs to know where they *end*, because only there may it
put one of its own, and only whole elements may reach a client if a node can die in the middle of one. A framer is given
the bytes of one stream as they come and answers with that: the offset of the last **boundary**, a position between two
top-level elements (children of ``<stream:stream>``) of an open stream. It also keeps the rules no party may break:

* RFC 6120 section 11.1, restricted XML: no comment, processing instruction, DTD, or entity beyond the five predefined;
* UTF-8 only (section 11.6), an XML declaration only at the very start;
* nothing but white space between top-level elements (section 11.7, keepalives);
* limits on depth, on the number of attributes and on the size of one element, enforced while the bytes come in, before
  anybody buffers them.

Two ways to feed it. :meth:`Framer.scan` swallows a whole chunk and is meant for streams that are under way: it makes a
note only of what a session has to look at, and stops where that becomes much. :meth:`Framer.step` stops after the first
note and notes *every* element; it is meant for openings, where each element can change what the next byte means (a
restart, a change to TLS), and never looks one byte ahead of the element it reports.

What is worth a note while scanning: a top-level element that is not one of :data:`USUAL`, one that holds the bytes of
:data:`WATCHED` anywhere or an attribute that says them by character references (``urn:xmpp&#58;cxfr``), the end of the
stream, and a failure. A note says *look*; it decides nothing. Offsets in notes count from the stream's first byte.

Two engines give the same answers for every input, cut at every byte: a native one (``_scan.c``, built where there is a
compiler) and one on expat (``_expat.py``), which also reads all headers. A fault may be noticed earlier by the one than
by the other, never at another boundary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from cxfr_proxy.xmpp.framing._expat import ExpatFramer
from cxfr_proxy.xmpp.framing.events import (
    MAX_ATTRIBUTES,
    MAX_NOTES,
    STANZAS,
    USUAL,
    WATCHED,
    Element,
    Failure,
    Header,
    Note,
    StreamEnd,
    may_be_watched,
)

if TYPE_CHECKING:
    from cxfr_proxy.xmpp.framing._scan import Scanner

__all__ = [
    "ENGINE",
    "ENGINES",
    "MAX_ATTRIBUTES",
    "MAX_NOTES",
    "STANZAS",
    "USUAL",
    "WATCHED",
    "Element",
    "Failure",
    "Framer",
    "Header",
    "Note",
    "StreamEnd",
    "behind_header",
    "is_native",
    "may_be_watched",
    "new_framer",
    "use",
]


class Framer(Protocol):
    """What both engines are. One framer reads one XML document: after a stream restart, make a new one."""

    max_element_bytes: int | None
    """The longest a top-level element or the stream's header may be; ``None``: no limit. May be changed any time."""

    @property
    def boundary(self) -> int:
        """Offset of the last boundary, from the stream's first byte; 0 until the header is complete."""

    @property
    def position(self) -> int:
        """Offset of the next byte to read: all before it was read, or came when the stream was over."""

    every: bool
    """Whether :meth:`scan` notes each top-level element, and not only those that want a look."""
    acks: bool
    """Whether :meth:`scan` notes each ``<a/>`` of XEP-0198 as well."""
    notes: list[Note]
    """What wants a look, in order. The caller clears it before feeding on."""
    held: bytes | bytearray
    """The last bytes before :attr:`position`, as many as its lane keeps. The lane's own: the framer doesn't look at it.
    It lies here for those who feed the native engine from C, and so find both."""

    @property
    def stanzas(self) -> int:
        """How many of the complete top-level elements are :data:`STANZAS`, with or without a prefix."""

    @property
    def ack(self) -> bytes | None:
        """The last complete ``<a/>`` of XEP-0198; ``None``: there was none; empty: it came in more than one chunk."""

    def scan(self, data: bytes) -> int:
        """Read ``data`` up to its end, or that of the :data:`MAX_NOTES`-th element to note: :attr:`position` says so.

        Return the offset in it of the last boundary, 0 if there is none past its start. Only for streams whose header
        is complete. Raises nothing: faults are notes.
        """

    def step(self, data: bytes) -> int:
        """Read ``data`` up to the end of the first thing to note, or all of it; return how many bytes were read."""


def _load_native() -> type[Scanner] | None:
    try:
        from cxfr_proxy.xmpp.framing._scan import Scanner
    except ImportError:
        return None  # it was not compiled here
    return Scanner


_native: Final = _load_native()

ENGINES: Final = ("native", "expat") if _native is not None else ("expat",)
"""The engines there are, the fastest first."""
ENGINE = ENGINES[0]
"""The engine that reads streams which are under way; see :func:`use`."""


def use(engine: str) -> None:
    """Use that engine for streams that begin from now on. Raises ``ValueError`` where there is no such engine here."""
    global ENGINE  # one choice for the process, made before it serves
    if engine not in ENGINES:
        raise ValueError(f"no framing engine '{engine}' here, only {', '.join(ENGINES)}")
    ENGINE = engine


def new_framer(*, max_element_bytes: int | None, max_depth: int) -> Framer:
    """A framer for the start of a stream. ``max_depth`` counts the stream element itself as 1.

    Headers are always read by expat; :func:`behind_header` says who goes on.
    """
    return ExpatFramer(max_element_bytes=max_element_bytes, max_depth=max_depth)


def is_native(framer: Framer) -> bool:
    """Whether C code may feed it."""
    return _native is not None and isinstance(framer, _native)


def behind_header(framer: Framer, tag: bytes, *, max_depth: int) -> Framer:
    """The framer for the rest of a stream whose header ``framer`` has just read, and nothing behind it.

    ``tag`` is the stream's qualified name, which its closing tag has to repeat.
    """
    if _native is None or ENGINE != "native":
        return framer
    return _native(tag, framer.boundary, framer.max_element_bytes, max_depth)
