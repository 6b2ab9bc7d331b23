"""Who has lost a message on its way to a client that was resuming its stream (XEP-0198): what the witnesses say.

Taps know what each node took in, gave out and was told to have been handled; clients write down what reached their
library. The proxy passes on what a node gives out, or the next resumption says that it did not arrive: then it is the
node that has to give it out once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from lxml import etree

from real.wire import Element, Recording, Transcript


class Loser(Enum):
    PROXY = "the proxy"
    NODES = "the nodes"
    LIBRARY = "the client's library"


@dataclass(frozen=True, slots=True)
class _Leg:
    """``handled``: how many of the node's stanzas the client had at its beginning."""

    down: Transcript
    handled: int


def who_lost(body: str, jid: str, legs: Iterable[Recording], connections: Iterable[Recording]) -> Loser:
    """Find out why ``jid`` has not got the message with that body.

    ``legs`` are all connections to all nodes, ``connections`` that client's own.
    """
    read = [(leg.read_up(), leg.read_down()) for leg in sorted(legs, key=lambda leg: leg.opened_at)]
    if not any(body in up.bodies for up, _ in read):
        return Loser.PROXY
    if any(body in connection.read_down().bodies for connection in connections):
        return Loser.LIBRARY
    stream = list(_one_stream(jid, read))
    numbers = [_number(body, leg) for leg in stream]
    given = [at for at, number in enumerate(numbers) if number is not None]
    if not given:
        return Loser.NODES
    number, following = numbers[given[-1]], stream[given[-1] + 1 :]
    assert number is not None
    return Loser.NODES if following and following[0].handled < number else Loser.PROXY


def _one_stream(jid: str, read: Iterable[tuple[Transcript, Transcript]]) -> Iterator[_Leg]:
    """The legs of that client's stream, the first one and those on which it was resumed."""
    stream_id: str | None = None
    for up, down in read:
        if down.bound_jid == jid and (enabled := _first(down, "enabled")) is not None:
            stream_id = enabled.get("id")
            yield _Leg(down, 0)
        resume = _first(up, "resume")
        if resume is not None and resume.get("previd") == stream_id and _first(down, "resumed") is not None:
            yield _Leg(down, int(resume.get("h", "0")))


def _number(body: str, leg: _Leg) -> int | None:
    """Which stanza of the stream it was on this leg; ``None``: none."""
    number: int | None = None
    for element in leg.down.elements:
        if element.kind in ("enabled", "resumed"):
            number = leg.handled
        elif number is not None and element.is_stanza:
            number += 1
            if element.body == body:
                return number
    return None


def _first(transcript: Transcript, kind: str) -> etree._Element | None:
    return next((_parse(element) for element in transcript.elements if element.kind == kind), None)


def _parse(element: Element) -> etree._Element:
    return etree.fromstring(element.xml)
