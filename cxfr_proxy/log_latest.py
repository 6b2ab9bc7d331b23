"""Keep the latest events that an operator wants to see: warnings, errors, and the rest of :data:`SHOWN`.

Of each event only the last few are kept: one that comes a thousand times pushes no other out.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final, NamedTuple

KEPT: Final = 20
"""Of each event. There are some seventy events that are kept, so all of them together stay short."""

SHOWN: Final = frozenset(
    (
        "drain-aborted",
        "drain-begins",
        "drain-ends",
        "features-agree",
        "kick",
        "listening",
        "move",
        "node-again",
        "node-up",
        "nodes-changed",
        "order",
        "rebalance-begins",
        "rebalance-ends",
        "reloaded",
        "restart-begins",
        "restart-ends",
        "roll-begins",
        "roll-ends",
        "roll-goes-on",
        "roll-step",
        "room-again",
        "settings-not-taken",
        "settings-taken",
        "source-back",
        "stopping",
        "undrain",
        "user-map",
        "worker-left",
        "worker-up",
    )
)
"""Events that are kept although they warn of nothing: together with the warnings they tell what has happened to the
proxy and its nodes. Those of single clients are not among them, but for what an operator has done."""


class LoggedEvent(NamedTuple):
    """``at`` in seconds since the epoch, ``level`` as :mod:`logging` has it, ``total``: how many of that event there
    were by then."""

    at: float
    level: int
    event: str
    details: str
    total: int


def is_kept(event: str, level: int) -> bool:
    return level >= logging.WARNING or event in SHOWN


class LatestEvents:
    """Those of one process. Any thread may call the methods."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # may be entered again by a finalizer in the middle of anything
        self._by_event: dict[str, deque[LoggedEvent]] = {}

    def note(self, at: float, level: int, event: str, details: str) -> None:
        with self._lock:
            kept = self._by_event.setdefault(event, deque(maxlen=KEPT))
            kept.append(LoggedEvent(at, level, event, details, kept[-1].total + 1 if kept else 1))

    def entries(self) -> list[LoggedEvent]:
        """Return those that are kept, the newest last."""
        with self._lock:
            # Copies, for the same reason: what is iterated over may not grow meanwhile.
            return sorted(each for kept in list(self._by_event.values()) for each in list(kept))
