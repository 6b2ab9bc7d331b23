"""The queues of sessions that wait to be moved, the most urgent first.

Sessions whose node is gone go first: their clients have no service now, the others only will have none. Of the sessions
that have to leave, those of a late drain go first, since what is left of them at its deadline is closed; and those
with inactive clients come last, whenever they became inactive. Sessions that are merely not where they belong go behind
all of them.

A session that the proxy would take to another node itself, for which there is no room, lets all others go first that
need none, however urgent it is: it keeps its place for when there is room, behind those of its urgency of which that
is not known yet.

A session stands in a queue once, however often it is put there; one that has to leave a node that is being emptied
stands in the most urgent one of those, and so counts once. Only its turn shows whether it is still to be moved. A
session whose turn has come too early is set aside, and counts as waiting.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
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
    LEAVING = 3
    """Their node is being emptied, or all sessions leave."""
    ASLEEP = 4
    """They have to leave as well, but their client is inactive (XEP-0352)."""
    WRONG = 5
    """They have just logged in, on a node that is not their user's own."""
    REBALANCED = 6
    """They are moved to even the load: nothing is wrong with them but where they are."""


_HURRIED: Final = (Urgency.DOWN, Urgency.LATE)
_DRAINED: Final = (Urgency.LATE, Urgency.LEAVING, Urgency.ASLEEP)
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
        self._without_room: tuple[OrderedDict[int, Waiting], ...] = tuple(OrderedDict() for _ in Urgency)
        self._aside: tuple[dict[int, tuple[float, Waiting]], ...] = tuple({} for _ in Urgency)

    def __bool__(self) -> bool:
        """Return whether it is any session's turn."""
        return any(self._queues) or any(self._without_room)

    @property
    def heads(self) -> Iterator[Waiting]:
        """The first session of each queue, the most urgent first. Behind the first one of an urgency comes the first of
        those that were without room."""
        for queues in zip(self._queues, self._without_room, strict=True):
            for queue in filter(None, queues):
                yield next(iter(queue.values()))

    def length(self, urgency: Urgency) -> int:
        """Return how many wait with that urgency, those that were set aside included."""
        return len(self._queues[urgency]) + len(self._without_room[urgency]) + len(self._aside[urgency])

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
        as_urgent = [other for other in others if other <= urgency]
        if any(number in queues[other] for queues in (self._queues, self._without_room) for other in as_urgent):
            return False
        if any(number in aside for aside in self._aside[: urgency + 1]):
            return False
        for aside in self._aside:
            aside.pop(number, None)
        for other in others:
            self.take_out(number, other)
        self._queues[urgency][number] = waiting
        return True

    def is_without_room(self, waiting: Waiting) -> bool:
        """Return whether the session lets those go first that need no room."""
        return waiting.session_id in self._without_room[waiting.urgency]

    def note_without_room(self, waiting: Waiting) -> None:
        """Have that session, which stands in a queue, let those go first that need no room."""
        self._without_room[waiting.urgency][waiting.session_id] = self._queues[waiting.urgency].pop(waiting.session_id)

    def take_out(self, session_id: int, urgency: Urgency) -> None:
        """Take a session out of the queue of that urgency, if it stands there."""
        self._queues[urgency].pop(session_id, None)
        self._without_room[urgency].pop(session_id, None)

    def clear(self, urgency: Urgency) -> None:
        """Forget all with that urgency, those that were set aside included."""
        for queue in (self._queues[urgency], self._without_room[urgency], self._aside[urgency]):
            queue.clear()

    def set_aside(self, waiting: Waiting, until: float) -> None:
        """Give the session its turn at that time. Until then it is put into no queue but a more urgent one."""
        for aside in self._aside:
            aside.pop(waiting.session_id, None)
        self._aside[waiting.urgency][waiting.session_id] = until, waiting

    @property
    def next_due(self) -> float | None:
        """When the first of the sessions that were set aside has its turn; ``None``: there is none."""
        return min((until for aside in self._aside for until, _ in aside.values()), default=None)

    def put_back_due(self, now: float) -> bool:
        """Put the sessions that were set aside, and whose time has come, into their queues, the earliest first. Return
        whether there were some."""
        asides = (each for aside in self._aside for each in aside.values())
        due = sorted(((until, waiting) for until, waiting in asides if until <= now), key=_by_time)
        for _, waiting in due:
            del self._aside[waiting.urgency][waiting.session_id]
            self.put(waiting)
        return bool(due)


def _by_time(aside: tuple[float, Waiting]) -> tuple[float, int]:
    until, waiting = aside
    return until, waiting.session_id
