"""Keep the latest warnings and errors, for whoever asks what has gone wrong.

Of each event only the last few are kept: one that comes a thousand times pushes no other out.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, NamedTuple

KEPT: Final = 10
"""Of each event. There are some forty events that warn, so all of them together stay short."""


class LoggedError(NamedTuple):
    """A warning or an error. ``at`` in seconds since the epoch, ``total``: how many of that event there were by
    then."""

    at: float
    level: str
    event: str
    details: str
    total: int


class LatestErrors:
    """Those of one process. Any thread may call the methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_event: dict[str, deque[LoggedError]] = {}

    def note(self, at: float, level: str, event: str, details: str) -> None:
        with self._lock:
            kept = self._by_event.setdefault(event, deque(maxlen=KEPT))
            kept.append(LoggedError(at, level, event, details, kept[-1].total + 1 if kept else 1))

    def entries(self) -> list[LoggedError]:
        """Return what is kept, the newest last."""
        with self._lock:
            return sorted(each for kept in self._by_event.values() for each in kept)
