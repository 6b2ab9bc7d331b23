"""Was anything lost on the way? The taps' records at the nodes against what the client wrote and read.

For one client, over all its connections: every stanza that went in at one end is looked for at the other. Stanzas that
do not balance are sorted by whose doing it can have been; :class:`Balance` names the piles. Only ``lost_down``,
``lost_up``, ``twice`` and ``invented`` are faults of the proxy.

One pile needs judgement. A stanza that the client wrote when the end of its stream was already on the way to it crossed
that end on the wire: the proxy can neither forward it nor answer. Such a stanza is *late*. It is only called so if the
client read the end within :data:`CROSSING_SECONDS` after writing it **and** nothing the client wrote after it on
that connection got through either: a proxy that loses a stanza in the middle cannot hide behind the word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Final

from real.wire import Element, Recording, Transcript

CXFR: Final = "urn:xmpp:cxfr"
PING: Final = "urn:xmpp:ping"
CROSSING_SECONDS: Final = 2.0
"""On loopback a crossing takes under a millisecond; this much a busy process may take to read what has arrived."""

Key = tuple[str, str | None, str | None, str | None, str | None, str | None]


@dataclass(slots=True)
class Balance:
    """The piles. ``down`` and ``up`` count the stanzas that arrived as they should.

    ``asked``: transfer requests the client read. ``swallowed``: its answers to them. ``answered``: its stanzas that the
    proxy answered with an error instead of forwarding. ``unanswerable``: of those that went nowhere, presence and IQ
    answers, to which no error may be sent. ``after_node_end``: they reached the node's socket, but after the node had
    ended its stream; nobody but the node could have known. ``pinged``: the proxy's own questions to the node before it
    ended a stream, at most one for each; neither they nor their answers are anybody's loss.
    """

    down: int = 0
    up: int = 0
    asked: int = 0
    lost_down: list[Element] = field(default_factory=list)
    lost_up: list[Element] = field(default_factory=list)
    twice: list[Element] = field(default_factory=list)
    invented: list[Element] = field(default_factory=list)
    answered: list[Element] = field(default_factory=list)
    swallowed: list[Element] = field(default_factory=list)
    unanswerable: list[Element] = field(default_factory=list)
    late: list[Element] = field(default_factory=list)
    after_node_end: list[Element] = field(default_factory=list)
    pinged: list[Element] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, list[Element]]:
        """The piles that must be empty, where they are not."""
        piles = {name: getattr(self, name) for name in ("lost_down", "lost_up", "twice", "invented")}
        return {name: pile for name, pile in piles.items() if pile}

    def __add__(self, other: Balance) -> Balance:
        return Balance(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __str__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return " ".join(f"{k}={v if isinstance(v, int) else len(v)}" for k, v in values.items())


def balance(jid: str, legs: Iterable[Recording], connections: Iterable[Recording]) -> Balance:
    """The account of the client ``jid``.

    ``legs`` are connections at the nodes, of whomever: those on which ``jid`` was bound are taken. ``connections`` are
    all of the client's own.
    """
    node = [(leg.read_up(), down, leg.closed_at) for leg in legs if (down := leg.read_down()).bound_jid == jid]
    client = [(c.read_up(), down, c.closed_at) for c in connections if (down := c.read_down()).bound_jid]
    account = Balance()
    account.pinged = [ping for up, _, _ in node for ping in _pings(up)]
    from_proxy = _down(account, [down for _, down, _ in node], [down for _, down, _ in client])
    _up(account, [up for up, _, _ in node], client, from_proxy)
    for up, down, _ in node:
        if down.ended_at is not None:
            account.after_node_end += [e for e in up.stanzas if e.at > down.ended_at and e.kind != "presence"]
    return account


def _key(element: Element) -> Key:
    return (element.kind, element.type, element.id, element.from_, element.to, element.body)


def _pings(up: Transcript) -> list[Element]:
    """The proxy's own: the client can't know such an id. One a stream, and nothing comes behind it."""
    last = up.stanzas[-1:]
    return [e for e in last if (e.type, e.payload) == ("get", (f"{{{PING}}}ping",)) and (e.id or "").startswith(CXFR)]


def _down(account: Balance, node: list[Transcript], client: list[Transcript]) -> list[Element]:
    """Node to client. Returns what the client read that no node had said."""
    pongs = {ping.id for ping in account.pinged}
    sent = [e for transcript in node for e in transcript.stanzas if not (e.kind == "iq" and e.id in pongs)]
    read = [e for transcript in client for e in transcript.stanzas]
    account.lost_down += _minus(sent, read)
    account.down += len(sent) - len(account.lost_down)
    from_proxy = _minus(read, sent)
    known = {_key(e) for e in sent}
    for element in from_proxy:
        if _key(element) in known:
            account.twice.append(element)
        elif element.kind == "iq" and element.type == "set" and f"{{{CXFR}}}query" in element.payload:
            account.asked += 1
        elif element.type != "error":
            account.invented.append(element)
    return from_proxy


def _up(
    account: Balance,
    node: list[Transcript],
    client: Sequence[tuple[Transcript, Transcript, float | None]],
    from_proxy: list[Element],
) -> None:
    """Client to node."""
    written = [e for up, _, _ in client for e in up.stanzas]
    arrived = [e for up in node for e in up.stanzas if e not in account.pinged]
    known = {_key(e) for e in written}
    for element in _minus(arrived, written):
        (account.twice if _key(element) in known else account.invented).append(element)
    missing = _minus(written, arrived)
    account.up += len(written) - len(missing)
    asked = {e.id for e in from_proxy if e.type == "set"}
    refused = {(e.kind, e.id) for e in from_proxy if e.type == "error"}
    # Answered and forwarded all the same: the client will send it again.
    account.twice += [e for e in arrived if e.type != "error" and (e.kind, e.id) in refused]
    late = {id(e) for up, down, closed_at in client for e in _crossing(up, down, closed_at, missing)}
    for element in missing:
        if element.kind == "iq" and element.type in ("result", "error") and element.id in asked:
            account.swallowed.append(element)
        elif (element.kind, element.id) in refused:
            account.answered.append(element)
        elif id(element) in late:
            account.late.append(element)
        elif element.kind == "presence" or element.type in ("result", "error"):
            account.unanswerable.append(element)
        else:
            account.lost_up.append(element)


def _minus(these: list[Element], those: list[Element]) -> list[Element]:
    """Those of ``these`` that have no counterpart in ``those``; as often as they have none."""
    left = Counter(_key(e) for e in those)
    without = []
    for element in these:
        if left[_key(element)] > 0:
            left[_key(element)] -= 1
        else:
            without.append(element)
    return without


def _crossing(up: Transcript, down: Transcript, closed_at: float | None, missing: list[Element]) -> list[Element]:
    """Return the stanzas that were written on one connection so late that it can have crossed the end of the stream."""
    ends = [down.stream_error.at if down.stream_error is not None else None, down.ended_at, closed_at]
    end = min((at for at in ends if at is not None), default=None)
    if end is None:
        return []
    gone = {id(e) for e in missing}
    tail: list[Element] = []
    for element in reversed(up.stanzas):
        if id(element) not in gone:
            break
        tail.append(element)
    return [e for e in tail if e.at >= end - CROSSING_SECONDS]
