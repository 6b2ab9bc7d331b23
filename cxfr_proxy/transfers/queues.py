"""Who waits for being moved, the most urgent first.

A session stands in a queue once, however often it is put there; in which order, its queue says. Its turn shows whether
it is still to be moved. One whose turn has come too early is set aside, and counts as waiting.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import IntEnum

from cxfr_proxy.session.ladder import Trigger


class Urgency(IntEnum):
    """The queues; a lower one is looked at first."""

    LOST = 0
    """Their node is gone: their clients are without service."""
    DOWN = 1
    """Checks find their node down."""
    LEAVING = 2
    """Their node is being emptied, or everybody leaves."""
    ASLEEP = 3
    """So they have to leave as well, but their client is not in use (XEP-0352)."""
    WRONG = 4
    """They have just logged in, on a node that is not their user's own."""
    REBALANCED = 5
    """They are to even the load: nothing is wrong with them but where they are."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """``target``: by name, the node that it was planned for; ``None``: its turn shows."""

    session_id: int
    urgency: Urgency
    trigger: Trigger
    target: str | None = None


class Queues:
    """All of them."""

    def __init__(self) -> None:
        self._queues: tuple[OrderedDict[int, Waiting], ...] = tuple(OrderedDict() for _ in Urgency)
        self._aside: dict[int, tuple[float, Waiting]] = {}

    def __bool__(self) -> bool:
        """Whether it is anybody's turn."""
        return any(self._queues)

    def length(self, urgency: Urgency) -> int:
        aside = sum(waiting.urgency is urgency for _, waiting in self._aside.values())
        return len(self._queues[urgency]) + aside

    @property
    def leaving(self) -> int:
        """Those that have to go, and can wait."""
        return self.length(Urgency.DOWN) + self.length(Urgency.LEAVING) + self.length(Urgency.ASLEEP)

    @property
    def misplaced(self) -> int:
        """Those that could as well stay."""
        return self.length(Urgency.WRONG) + self.length(Urgency.REBALANCED)

    def put(self, waiting: Waiting) -> bool:
        """Behind the others of its urgency; False, and nothing done, where it stands there or was set aside."""
        queue = self._queues[waiting.urgency]
        _, aside = self._aside.get(waiting.session_id, (0.0, None))
        if waiting.session_id in queue or (aside is not None and aside.urgency <= waiting.urgency):
            return False
        self._aside.pop(waiting.session_id, None)
        queue[waiting.session_id] = waiting
        return True

    def take(self) -> Waiting | None:
        """The first; ``None``: nobody waits any more."""
        queue = next(filter(None, self._queues), None)
        return queue.popitem(last=False)[1] if queue is not None else None

    def clear(self, urgency: Urgency) -> None:
        self._queues[urgency].clear()
        self._aside = {number: each for number, each in self._aside.items() if each[1].urgency is not urgency}

    def set_aside(self, waiting: Waiting, until: float) -> None:
        """Its turn comes at that time; meanwhile it is put into no queue but a more urgent one."""
        self._aside[waiting.session_id] = until, waiting

    @property
    def next_due(self) -> float | None:
        """When the turn of the first of those comes that were set aside; ``None``: there is none."""
        return min((until for until, _ in self._aside.values()), default=None)

    def take_due(self, now: float) -> list[Waiting]:
        """Those that were set aside until now, first come first."""
        due = sorted((until, number) for number, (until, _) in self._aside.items() if until <= now)
        return [self._aside.pop(number)[1] for _, number in due]
