"""A framer that is fed pieces of a stream, and what it has reported then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxfr_proxy.xmpp.framing import framer
from cxfr_proxy.xmpp.framing.framer import (
    Framer,
    FramerEvent,
    StreamEnd,
    StreamFault,
    StreamStart,
    WholeElement,
    new_framer,
)

if TYPE_CHECKING:
    pass

HEADER = b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
END = b"</stream:stream>"


@dataclass
class Outcome:
    events: list[FramerEvent]
    boundary: int
    stanzas: int = 0

    def failure(self) -> StreamFault | None:
        return next((event for event in self.events if isinstance(event, StreamFault)), None)


def new_reader(limit: int | None = None, depth: int = 64) -> Framer:
    return new_framer(max_element_bytes=limit, max_depth=depth)


def read_header(reader: Framer, header: bytes = HEADER) -> None:
    assert reader.step(header) == len(header)
    assert reader.events == [StreamStart(0, len(header))]
    reader.events.clear()


def behind(reader: Framer, *, depth: int = 64) -> Framer:
    """The engine under test, behind the header."""
    read_header(reader)
    return framer.behind_header(reader, b"stream:stream", max_depth=depth)


def scan(body: bytes, sizes: list[int], *, limit: int | None = None, depth: int = 64) -> Outcome:
    """Return what scanning ``body`` reports, cut into pieces of the given sizes (the last repeats), offsets from the
    body."""
    reader = behind(new_reader(None, depth), depth=depth)
    reader.max_element_bytes = limit
    at, turn = 0, 0
    while at < len(body):
        size = sizes[min(turn, len(sizes) - 1)]
        reader.scan(body[at : at + size])
        at, turn = at + size, turn + 1
    return Outcome([_shift(event) for event in reader.events], reader.boundary - len(HEADER), reader.stanzas)


def _shift(event: FramerEvent) -> FramerEvent:
    start, end = event.start - len(HEADER), event.end - len(HEADER)
    match event:
        case WholeElement(name=name, stanzas=stanzas):
            return WholeElement(start, end, name, stanzas)
        case StreamFault(condition=condition, text=text):
            return StreamFault(start, end, condition, text)
        case StreamEnd():
            return StreamEnd(start, end)
        case StreamStart():
            return StreamStart(start, end)
