"""The queues of sessions that wait to be moved, the most urgent first.

Sessions whose node is gone go first: their clients have no service now, the others only will have none. Of the sessions
that have to leave, those of a late drain go first, since what is left of them at its deadline is closed; those for
which there was no room let the others go first; and those with inactive clients come last, whenever they became
inactive. Sessions that are merely not where they belong go behind all of them.

A session stands in a queue once, however often it is put there; one that has to leave a node that is being emptied
stands in the most urgent one of those, and so counts once. Only its turn shows whether it is still to be moved. A
session whose turn has come too early is set aside, and counts as waiting.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Protocol

from cxfr_proxy.session.ladder import Trigger


class Urgency(IntEnum):
    """The queues; a lower one is looked at first."""

    LOST = 0
    """Their node is gone: their clients have no service."""
    DOWN = 1
    """Checks find their node down."""
    LATE = 2
    """Their node is being emptied, and may not be empty at its drain's deadline."""
    LATE_PACED = 3
    """Likewise, and the proxy would take them to another node itself if there were room for that."""
    LEAVING = 4
    """Their node is being emptied, or all sessions leave."""
    PACED = 5
    """They have to leave as well, and the proxy would take them to another node itself if there were room for that."""
    ASLEEP = 6
    """They have to leave as well, but their client is inactive (XEP-0352)."""
    WRONG = 7
    """They have just logged in, on a node that is not their user's own."""
    REBALANCED = 8
    """They are moved to even the load: nothing is wrong with them but where they are."""


WITHOUT_ROOM: Final[Mapping[Urgency, Urgency]] = MappingProxyType(
    {Urgency.LATE: Urgency.LATE_PACED, Urgency.LEAVING: Urgency.PACED}
)
"""Where sessions wait that the proxy would take to another node, if there is no room for that: those behind them may
need none."""
_HURRIED: Final = (Urgency.DOWN, Urgency.LATE, Urgency.LATE_PACED)
_DRAINED: Final = (Urgency.LATE, Urgency.LATE_PACED, Urgency.LEAVING, Urgency.PACED, Urgency.ASLEEP)
_HAVE_TO_GO: Final = (Urgency.DOWN, *_DRAINED)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session that waits. ``target``: the name of the node that it is planned for; ``None``: chosen when its turn
    comes."""

    session_id: int
    urgency: Urgency
    trigger: Trigger
    target: str | None = None

    @property
    def may_stay(self) -> bool:
        """Whether nothing is wrong with its node."""
        return self.urgency >= Urgency.WRONG


class QueueWatcher(Protocol):
    """The part that takes sessions out of the queues."""

    def queued(self) -> None:
        """Take note that there are more sessions in the queues."""


class Queues:
    """A queue for each urgency, and the sessions that were set aside."""

    def __init__(self) -> None:
        self._queues: tuple[OrderedDict[int, Waiting], ...] = tuple(OrderedDict() for _ in Urgency)
        self._aside: dict[int, tuple[float, Waiting]] = {}

    def __bool__(self) -> bool:
        """Return whether it is any session's turn."""
        return any(self._queues)

    @property
    def first(self) -> Waiting | None:
        """The session whose turn it is; ``None``: none waits."""
        queue = next(filter(None, self._queues), None)
        return next(iter(queue.values())) if queue is not None else None

    def length(self, urgency: Urgency) -> int:
        """Return how many wait with that urgency, those that were set aside included."""
        aside = sum(waiting.urgency is urgency for _, waiting in self._aside.values())
        return len(self._queues[urgency]) + aside

    @property
    def leaving(self) -> int:
        """How many have to go, and can wait."""
        return sum(map(self.length, _HAVE_TO_GO))

    @property
    def hurried(self) -> int:
        """How many of these can't wait for the others."""
        return sum(map(self.length, _HURRIED))

    @property
    def misplaced(self) -> int:
        """How many could as well stay."""
        return self.length(Urgency.WRONG) + self.length(Urgency.REBALANCED)

    def put(self, waiting: Waiting) -> bool:
        """Put a session behind the others of its urgency. Return false, and do nothing, if it stands there already, or
        has to leave at least as urgently, waits for room, or was set aside."""
        number, urgency = waiting.session_id, waiting.urgency
        others = _DRAINED if urgency in _DRAINED else (urgency,)
        last = WITHOUT_ROOM.get(urgency, urgency)
        if any(number in self._queues[other] for other in others if other <= last):
            return False
        _, aside = self._aside.get(number, (0.0, None))
        if aside is not None and aside.urgency <= urgency:
            return False
        self._aside.pop(number, None)
        for other in others:
            self._queues[other].pop(number, None)
        self._queues[urgency][number] = waiting
        return True

    def take(self) -> Waiting | None:
        """Take the first session out; ``None``: none waits any more."""
        queue = next(filter(None, self._queues), None)
        return queue.popitem(last=False)[1] if queue is not None else None

    def take_out_late(self, session_id: int) -> None:
        """Take a session out of the queues of late drains."""
        for urgency in (Urgency.LATE, Urgency.LATE_PACED):
            self._queues[urgency].pop(session_id, None)

    def clear(self, urgency: Urgency) -> None:
        """Forget all with that urgency, those that were set aside included."""
        self._queues[urgency].clear()
        self._aside = {number: each for number, each in self._aside.items() if each[1].urgency is not urgency}

    def set_aside(self, waiting: Waiting, until: float) -> None:
        """Give the session its turn at that time. Until then it is put into no queue but a more urgent one."""
        self._aside[waiting.session_id] = until, waiting

    @property
    def next_due(self) -> float | None:
        """When the first of the sessions that were set aside has its turn; ``None``: there is none."""
        return min((until for until, _ in self._aside.values()), default=None)

    def put_back_due(self, now: float) -> bool:
        """Put the sessions that were set aside, and whose time has come, into their queues, the earliest first. Return
        whether there were some."""
        due = sorted((until, number) for number, (until, _) in self._aside.items() if until <= now)
        for _, number in due:
            self.put(self._aside.pop(number)[1])
        return bool(due)
