"""The bytes that went over a connection, with times, and how to read it afterwards.

A :class:`Recording` is the bytes of one connection both ways, as a tap or a client saw them, cut into the chunks in
which they came. :func:`read_stream` turns one direction into a :class:`Transcript`. It shares no code with the proxy:
it is the witness. It reads with lxml, starts over at each stream header (after STARTTLS and SASL), and stops without
complaint where the bytes stop or are no XML any more (TLS after ``<proceed/>``).

All times are seconds of ``time.monotonic()``, which on Linux is one clock for every process of the machine.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from lxml import etree

STREAM: Final = "http://etherx.jabber.org/streams"
CLIENT: Final = "jabber:client"
BIND: Final = "urn:ietf:params:xml:ns:xmpp-bind"
STREAM_ERRORS: Final = "urn:ietf:params:xml:ns:xmpp-streams"
STANZA_ERRORS: Final = "urn:ietf:params:xml:ns:xmpp-stanzas"

_HEADER: Final = re.compile(rb"(?:<\?xml[^>]*\?>\s*)?<stream:stream[\s>]")
"""The start of a stream. "<" stands in no text and no attribute, so this matches nothing else (no CDATA here)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes that were read or written in one go, and when."""

    at: float
    data: bytes


@dataclass(slots=True)
class Recording:
    """One connection: ``up`` is client to server. ``closed_at`` is ``None`` while it is open."""

    opened_at: float
    closed_at: float | None = None
    up_chunks: list[Chunk] = field(default_factory=list)
    down_chunks: list[Chunk] = field(default_factory=list)

    @property
    def up(self) -> bytes:
        return b"".join(chunk.data for chunk in self.up_chunks)

    @property
    def down(self) -> bytes:
        return b"".join(chunk.data for chunk in self.down_chunks)

    def down_at(self, offset: int) -> float:
        """When the byte at that offset of ``down`` came."""
        ends = itertools.accumulate(len(chunk.data) for chunk in self.down_chunks)
        return next(chunk.at for chunk, end in zip(self.down_chunks, ends, strict=True) if offset < end)

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    def read_up(self) -> Transcript:
        return read_stream(self.up_chunks)

    def read_down(self) -> Transcript:
        return read_stream(self.down_chunks)


@dataclass(frozen=True, slots=True)
class Element:
    """One complete top-level element of a stream.

    ``name`` and ``payload`` (the children) are qualified as lxml spells it; ``at`` is when its last byte passed.
    ``condition`` is the defined condition of a stanza or stream error, ``None`` for all others.
    """

    name: str
    type: str | None
    id: str | None
    from_: str | None
    to: str | None
    body: str | None
    condition: str | None
    payload: tuple[str, ...]
    at: float
    xml: bytes

    @property
    def kind(self) -> str:
        """The local name: ``message``, ``presence``, ``iq`` for stanzas."""
        return self.name.rpartition("}")[2]

    @property
    def is_stanza(self) -> bool:
        return self.name in (f"{{{CLIENT}}}message", f"{{{CLIENT}}}presence", f"{{{CLIENT}}}iq")


@dataclass(slots=True)
class Transcript:
    """One direction of a connection, read.

    ``stream_ids`` holds each header's id (``None`` where it had none), in order. ``ended_at`` is when
    ``</stream:stream>`` passed, ``None`` if it did not. ``inside`` says that the bytes stop within an element.
    ``fault`` is why reading stopped before the bytes did, ``None`` if it did not.
    """

    stream_ids: list[str | None] = field(default_factory=list)
    elements: list[Element] = field(default_factory=list)
    ended_at: float | None = None
    inside: bool = False
    fault: str | None = None

    @property
    def stanzas(self) -> list[Element]:
        return [element for element in self.elements if element.is_stanza]

    @property
    def stream_error(self) -> Element | None:
        return next((e for e in self.elements if e.name == f"{{{STREAM}}}error"), None)

    @property
    def bound_jid(self) -> str | None:
        """The full JID in the bind result of a down stream; ``None`` if nothing was bound."""
        for element in self.elements:
            if element.type == "result" and f"{{{BIND}}}bind" in element.payload:
                return etree.fromstring(element.xml).findtext(f".//{{{BIND}}}jid")
        return None

    @property
    def message_ids(self) -> list[str]:
        return [e.id for e in self.stanzas if e.kind == "message" and e.type != "error" and e.id is not None]

    @property
    def bodies(self) -> list[str]:
        return [e.body for e in self.stanzas if e.body is not None and e.type != "error"]


def read_stream(chunks: Sequence[Chunk]) -> Transcript:
    """Everything complete in one direction of a connection."""
    transcript = Transcript()
    data = b"".join(chunk.data for chunk in chunks)
    starts = [match.start() for match in _HEADER.finditer(data)]
    if data.strip() and (not starts or data[: starts[0]].strip()):
        transcript.fault = f"does not start with a stream header: {data[:80]!r}"
        return transcript
    reader: _Reader | None = None
    for piece, at, is_start in _pieces(chunks, set(starts)):
        if is_start:
            reader = _Reader(transcript)
        if reader is not None and not reader.feed(piece, at):
            break
    return transcript


def _pieces(chunks: Iterable[Chunk], starts: set[int]) -> Iterator[tuple[bytes, float, bool]]:
    """The chunks, cut once more where a stream header starts: (bytes, when, whether a header starts here)."""
    offset = 0
    for chunk in chunks:
        end = offset + len(chunk.data)
        cuts = [offset, *sorted(s for s in starts if offset < s < end), end]
        for begin, stop in pairwise(cuts):
            yield chunk.data[begin - offset : stop - offset], chunk.at, begin in starts
        offset = end


class _Reader:
    """Reads one stream, from its header to its end, into a transcript."""

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        self.parser = etree.XMLPullParser(("start", "end"), resolve_entities=False, no_network=True)
        self.depth = 0

    def feed(self, data: bytes, at: float) -> bool:
        """False once nothing more can be read."""
        try:
            self.parser.feed(data)
            for event, element in self.parser.read_events():
                self._event(str(event), element, at)
        except etree.XMLSyntaxError as exc:
            self.transcript.fault = str(exc)
            return False
        self.transcript.inside = self.depth > 1
        return True

    def _event(self, event: str, element: etree._Element, at: float) -> None:
        if event == "start":
            if self.depth == 0:
                self.transcript.stream_ids.append(element.get("id"))
            self.depth += 1
            return
        self.depth -= 1
        if self.depth == 1:
            self.transcript.elements.append(_element(element, at))
        elif self.depth == 0:
            self.transcript.ended_at = at


def _element(element: etree._Element, at: float) -> Element:
    return Element(
        name=str(element.tag),
        type=element.get("type"),
        id=element.get("id"),
        from_=element.get("from"),
        to=element.get("to"),
        body=element.findtext(f"{{{CLIENT}}}body"),
        condition=_condition(element),
        payload=tuple(str(child.tag) for child in element),
        at=at,
        xml=etree.tostring(element, with_tail=False),
    )


def _condition(element: etree._Element) -> str | None:
    holder = element if element.tag == f"{{{STREAM}}}error" else element.find(f"{{{CLIENT}}}error")
    for child in holder if holder is not None else ():
        name = etree.QName(child)
        if name.namespace in (STREAM_ERRORS, STANZA_ERRORS) and name.localname != "text":
            return name.localname
    return None
