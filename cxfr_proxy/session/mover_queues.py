"""Who waits for being moved, the most urgent first.

A session stands in a queue once, however often it is put there; in which order, its queue says. Its turn shows whether
it is still to be moved.
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

    def __bool__(self) -> bool:
        return any(self._queues)

    def length(self, urgency: Urgency) -> int:
        return len(self._queues[urgency])

    @property
    def leaving(self) -> int:
        """Those that have to go, and can wait."""
        return self.length(Urgency.DOWN) + self.length(Urgency.LEAVING) + self.length(Urgency.ASLEEP)

    @property
    def misplaced(self) -> int:
        """Those that could as well stay."""
        return self.length(Urgency.WRONG) + self.length(Urgency.REBALANCED)

    def put(self, waiting: Waiting) -> bool:
        """Behind the others of its urgency; False, and nothing done, where it stands there."""
        queue = self._queues[waiting.urgency]
        if waiting.session_id in queue:
            return False
        queue[waiting.session_id] = waiting
        return True

    def take(self) -> Waiting | None:
        """The first; ``None``: nobody waits any more."""
        queue = next(filter(None, self._queues), None)
        return queue.popitem(last=False)[1] if queue is not None else None

    def clear(self, urgency: Urgency) -> None:
        self._queues[urgency].clear()
