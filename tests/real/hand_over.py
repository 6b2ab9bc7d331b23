"""Find out who has lost a message between clients that were resuming their streams (XEP-0198): what the witnesses say.

Taps know what each node took in, gave out and was told to have been handled; clients write down what their library
wrote and read. The proxy passes on what one of them says, or the next resumption tells that it did not arrive: then it
has to be said once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from lxml import etree

from real.wire import Recording, Transcript


class Loser(Enum):
    PROXY = "the proxy"
    NODES = "the nodes"
    SENDER = "the sender's library"
    RECEIVER = "the receiver's library"


@dataclass(frozen=True, slots=True)
class Party:
    """A client: its full JID, and all connections that its library has made."""

    jid: str
    connections: Sequence[Recording]


@dataclass(frozen=True, slots=True)
class _Leg:
    """One direction of a connection. ``handled``: how many of the stream's stanzas the other side had before it."""

    said: Transcript
    handled: int


def who_lost(body: str, sender: Party, receiver: Party, legs: Iterable[Recording]) -> Loser:
    """Find out why the receiver has not got the message with that body. ``legs`` are all connections to all nodes."""
    read = _read(legs)
    if not any(body in up.bodies for up, _ in read):
        written = _from_client(sender.jid, _read(sender.connections))
        return Loser.SENDER if _not_repeated(body, list(written)) else Loser.PROXY
    if any(body in down.bodies for _, down in _read(receiver.connections)):
        return Loser.RECEIVER
    return Loser.NODES if _not_repeated(body, list(_from_node(receiver.jid, read))) else Loser.PROXY


def _read(recordings: Iterable[Recording]) -> list[tuple[Transcript, Transcript]]:
    return [(each.read_up(), each.read_down()) for each in sorted(recordings, key=lambda each: each.opened_at)]


def _not_repeated(body: str, stream: Sequence[_Leg]) -> bool:
    """Whether it was never said, or said in vain, as the resumption told, and not again."""
    numbers = [_number(body, leg) for leg in stream]
    last, number = next(((at, n) for at, n in reversed(list(enumerate(numbers))) if n is not None), (None, 0))
    if last is None:
        return True
    following = stream[last + 1 :]
    return bool(following) and following[0].handled < number


def _from_node(jid: str, read: Iterable[tuple[Transcript, Transcript]]) -> Iterator[_Leg]:
    for up, down in _one_stream(jid, read):
        resume = _first(up, "resume")
        yield _Leg(down, 0 if resume is None else int(resume.get("h", "0")))


def _from_client(jid: str, read: Iterable[tuple[Transcript, Transcript]]) -> Iterator[_Leg]:
    for up, down in _one_stream(jid, read):
        resumed = _first(down, "resumed")
        yield _Leg(up, 0 if resumed is None else int(resumed.get("h", "0")))


def _one_stream(jid: str, read: Iterable[tuple[Transcript, Transcript]]) -> Iterator[tuple[Transcript, Transcript]]:
    """The connections of that client's stream: the first one, and those on which it was resumed."""
    stream_id: str | None = None
    for up, down in read:
        if down.bound_jid == jid and (enabled := _first(down, "enabled")) is not None:
            stream_id = enabled.get("id")
            yield up, down
        resume = _first(up, "resume")
        if resume is not None and resume.get("previd") == stream_id and _first(down, "resumed") is not None:
            yield up, down


def _number(body: str, leg: _Leg) -> int | None:
    """Which stanza of the stream it was on this leg; ``None``: none."""
    number: int | None = None
    for element in leg.said.elements:
        if element.kind in ("enable", "enabled", "resume", "resumed"):
            number = leg.handled
        elif number is not None and element.is_stanza:
            number += 1
            if element.body == body:
                return number
    return None


def _first(transcript: Transcript, kind: str) -> etree._Element | None:
    return next((etree.fromstring(element.xml) for element in transcript.elements if element.kind == kind), None)
