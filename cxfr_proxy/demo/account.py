"""Message-loss accounting: which numbered message was lost, and which came twice.

**Up.** A client numbers its messages and sends them to ``echo.<domain>``, which sends each back. The rule that makes
loss decidable rests on the order in which a stream is closed:

1. The node answers every message it has taken in before it sends its ``</stream:stream>``.
2. The proxy forwards all of that to the client before its own stream error or ``</stream:stream>``.
3. So when a client has read the end of its stream, a number that was neither echoed nor answered with an error was
   *certainly not delivered*: it was still on its way up. The client sends it again on its next stream, and so it does
   with one that was answered by an error of type ``wait``. Both are counted as *resent*, and neither as lost.

With XEP-0198 the protocol's own counters say what has to be sent again; the rule above applies only after a new bind.

A number is **lost** if it was never echoed when all is over, and came **twice** if it was echoed more than once or
taken in more than once by the nodes together. The rule is honest about a stream that is cut without any ending and
cannot be resumed: whether the last messages had arrived is then unknowable, the client sends them again, and what had
arrived counts as *twice*.

**Down.** Nodes number what they push by themselves, per session. A message is lost if the node's socket took it on a
session and the client never saw it; it came twice if the client saw it more than once.

**Between two.** Where nobody sends anything back, the sender knows what was taken in by acknowledgements (XEP-0198), or
by the answer to a ping behind the message (:meth:`ClientAccount.handled`), and the receiver says what it got, in order.

A number came **out of order** if a higher one from the same origin was there before it; repetitions count as *twice*
only. Between two, a message that the server had taken in, and that came back from there, is not judged: a node that had
it for a session which was about to end gives it back, and its sender, who knew nothing of it, has written on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

_BODY: Final = re.compile(r"([^\s#]+) #([0-9]{1,12})")


@dataclass(frozen=True, slots=True)
class Numbered:
    """One numbered message. ``origin`` is a client's bare JID (up) or a node session's key (down)."""

    origin: str
    number: int

    def __str__(self) -> str:
        return f"{self.origin} #{self.number}"

    @classmethod
    def parse(cls, body: str | None) -> Numbered | None:
        """Return the number in a message body, or ``None`` if it is a body of another kind."""
        match = _BODY.fullmatch(body or "")
        return cls(match[1], int(match[2])) if match else None


@dataclass(slots=True)
class SessionRecord:
    """A node's record of one session, from bind to its last stream.

    ``received`` holds every numbered message taken in, in order, repetitions included; ``written`` those that the node
    pushed by itself and its socket took. ``replies`` maps the ids of IQ answers to their types.
    """

    full_jid: str
    key: str
    nodes: list[str]
    received: list[Numbered] = field(default_factory=list)
    written: set[int] = field(default_factory=set)
    replies: dict[str, str] = field(default_factory=dict)

    @property
    def bare_jid(self) -> str:
        return self.full_jid.partition("/")[0]


class ClientAccount:
    """One client's own record, across all its streams."""

    def __init__(self, bare_jid: str) -> None:
        self.origin = bare_jid
        self.sent = 0
        """Numbers given out so far: 1 to this."""
        self.resent = 0
        self.in_flight: set[int] = set()
        """Sent on the present stream, no answer yet."""
        self.due_again: set[int] = set()
        self.came_back_late: set[int] = set()
        """Those that came back when the server had taken them in: nothing told the sender to wait with the next one."""
        self.echoes: Counter[int] = Counter()
        self.refused: set[int] = set()
        """Answered by an error that says: do not try again."""
        self.pushed: Counter[Numbered] = Counter()
        self.arrived: list[Numbered] = []
        """All that came, in order: echoes and what others sent."""

    def number(self) -> Numbered:
        """Return a new number, which is in flight from now on."""
        self.sent += 1
        self.in_flight.add(self.sent)
        return Numbered(self.origin, self.sent)

    def again(self) -> list[Numbered]:
        """Return everything that has to be sent again; it is in flight from now on."""
        due = sorted(self.due_again)
        self.due_again.clear()
        self.in_flight.update(due)
        self.resent += len(due)
        return [Numbered(self.origin, number) for number in due]

    def saw(self, numbered: Numbered) -> None:
        """Note that a numbered message arrived: an echo of this client's own, or one that a node pushed."""
        self.arrived.append(numbered)
        if numbered.origin != self.origin:
            self.pushed[numbered] += 1
            return
        self.echoes[numbered.number] += 1
        self.in_flight.discard(numbered.number)
        self.due_again.discard(numbered.number)

    def handled(self, number: int) -> None:
        """Note that the server has taken that message in. If it came back all the same, that counts."""
        self.in_flight.discard(number)

    def bounced(self, number: int, *, wait: bool) -> None:
        """Note that a message of this client's came back as an error; ``wait`` is the error's type."""
        if number not in self.in_flight:
            self.came_back_late.add(number)
        self.in_flight.discard(number)
        if wait:
            self.due_again.add(number)
        else:
            self.refused.add(number)

    def stream_lost(self, unacknowledged: Collection[int] | None = None) -> None:
        """Note that the stream has ended for good (not to be resumed), and that all that came on it was read.

        ``unacknowledged``: by XEP-0198, which then decides; the others are with the server, and their echoes may still
        come. ``None``: nothing was acknowledged.
        """
        lost = self.in_flight if unacknowledged is None else self.in_flight.intersection(unacknowledged)
        self.due_again |= lost
        self.in_flight = self.in_flight - lost

    @property
    def settled(self) -> bool:
        """Nothing is on its way or waits to be sent again."""
        return not self.in_flight and not self.due_again


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """Messages, counted; ``sent`` without the repetitions, which are ``resent``."""

    sent: int = 0
    received: int = 0
    resent: int = 0
    refused: int = 0
    lost: int = 0
    twice: int = 0
    disordered: int = 0

    @property
    def whole(self) -> bool:
        """Every message came, once and in its turn."""
        return not (self.lost or self.twice or self.disordered)

    def __add__(self, other: MessageCounts) -> MessageCounts:
        return MessageCounts(
            self.sent + other.sent,
            self.received + other.received,
            self.resent + other.resent,
            self.refused + other.refused,
            self.lost + other.lost,
            self.twice + other.twice,
            self.disordered + other.disordered,
        )


def judge(account: ClientAccount, records: Iterable[SessionRecord]) -> MessageCounts:
    """Return the verdict on one client's traffic, up and down together; ``records`` are those of all nodes, of all
    clients or of this one."""
    own = [record for record in records if record.bare_jid == account.origin]
    return judge_up(account, own) + judge_down(account, own)


def judge_up(account: ClientAccount, records: Iterable[SessionRecord]) -> MessageCounts:
    """Judge what the client sent against the echoes it saw and what the nodes took in."""
    received = [numbered for record in records for numbered in record.received if numbered.origin == account.origin]
    taken_in = Counter(numbered.number for numbered in received)
    twice = {number for counts in (taken_in, account.echoes) for number, n in counts.items() if n > 1}
    answered = account.echoes.keys() | account.refused
    return MessageCounts(
        sent=account.sent,
        received=len(account.echoes),
        resent=account.resent,
        refused=len(account.refused),
        lost=account.sent - len(answered),
        twice=len(twice),
        disordered=out_of_order(received),
    )


def judge_down(account: ClientAccount, records: Iterable[SessionRecord]) -> MessageCounts:
    """Judge what the nodes pushed against what the client saw."""
    written = {Numbered(record.key, number) for record in records for number in record.written}
    return MessageCounts(
        sent=len(written),
        received=len(account.pushed),
        lost=len(written - account.pushed.keys()),
        twice=sum(1 for n in account.pushed.values() if n > 1),
        disordered=out_of_order(account.arrived),
    )


def judge_flow(sender: ClientAccount, arrived: Iterable[Numbered]) -> MessageCounts:
    """Judge what one party sent against what another one got: ``arrived`` is everything that came there, from
    anybody, in order."""
    own = [numbered for numbered in arrived if numbered.origin == sender.origin]
    counts = Counter(numbered.number for numbered in own)
    return MessageCounts(
        sent=sender.sent,
        received=len(counts),
        resent=sender.resent,
        refused=len(sender.refused),
        lost=sender.sent - len(counts.keys() | sender.refused),
        twice=sum(1 for n in counts.values() if n > 1),
        disordered=out_of_order(each for each in own if each.number not in sender.came_back_late),
    )


def out_of_order(arrived: Iterable[Numbered]) -> int:
    """Return how many came for the first time behind a higher number of the same origin."""
    highest: Counter[str] = Counter()
    seen: set[Numbered] = set()
    late = 0
    for numbered in arrived:
        if numbered not in seen:
            seen.add(numbered)
            late += numbered.number < highest[numbered.origin]
            highest[numbered.origin] = max(highest[numbered.origin], numbered.number)
    return late
