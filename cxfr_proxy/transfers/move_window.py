"""How many sessions may be on the way to other nodes at once by the rung *migrate*, as the last of them have shown.

Each such move makes clients wait: its own, which is not read between ``<r/>`` and ``<resumed/>``, and a little all
others, since nodes and proxy have that much less time. How many moves at once a cluster bears nobody can say
beforehand. So it is found out as TCP finds out how much a path bears, by a window: it grows by a little with each move
whose client was held for a short time, shrinks by as little where that took longer, and to the half where it took much
longer or failed. It comes to rest where as many are held for less than :data:`QUICK_SECONDS` as for more: that is the
median of the time for which clients are held.

A move that is taken back, or that a client has not done its part of, says nothing of the nodes: the window stays.

A node far away answers no faster than the way there allows. So the shortest time of late counts as well: what is within
twice of it is quick, wherever the node is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.session.commands import Answered, Asked, Event, MigrationFailed, Transferred
from cxfr_proxy.session.ladder import Rung

QUICK_SECONDS: Final = 0.004
"""The window grows where clients are held for less, and shrinks where they are held for longer."""
SLOW_SECONDS: Final = 0.025
"""The window is halved where a client is held for longer."""
_QUICK_TIMES: Final = 2.0
_SLOW_TIMES: Final = 5.0
"""Of the shortest time of late; the longer one of both limits counts."""
_STEP: Final = 1 / 16
"""So many quick moves as that is a part of one make room for another one at once."""
_LATE: Final = 64
"""Moves from which the shortest time is taken."""
_SHARE: Final = 1 / 16
"""Of the last move in the mean that operators are shown."""


@dataclass(frozen=True, slots=True)
class WindowState:
    """How it stands with the moves of one process, or of all. ``paced``: another session could be moved by now if
    clients were held for shorter times. ``held_seconds``: for about how long they were of late; ``None``: no session
    has been taken to another node yet."""

    under_way: int = 0
    at_once: int = 0
    paced: bool = False
    held_seconds: float | None = None

    @property
    def reason(self) -> str | None:
        """Why no more sessions are moved at once; ``None``: the rate is the reason, or nobody waits."""
        if not self.paced or self.held_seconds is None:
            return None
        return f"{self.at_once} at a time: their clients are held for {self.held_seconds * 1e3:.1f} ms"


def sum_of(states: Iterable[WindowState]) -> WindowState:
    """Return that of all these processes together. The process in which clients are held for the longest says for how
    long."""
    known = list(states)
    return WindowState(
        sum(each.under_way for each in known),
        sum(each.at_once for each in known),
        any(each.paced for each in known),
        max((each.held_seconds for each in known if each.held_seconds is not None), default=None),
    )


class MoveWindow:
    """The window of one process, which sees only its own moves. ``most``: how large it can become."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 1.0
        self._begun: dict[int, int] = {}  # sessions that are on their way, each with the halvings there had been
        self._halvings = 0
        self._held: deque[float] = deque(maxlen=_LATE)
        self.mean_held: float | None = None
        """For about how many seconds clients were held of late; ``None``: no session has been taken anywhere yet."""

    @property
    def size(self) -> int:
        """How many may be on their way at once; at least one."""
        return int(self._size)

    @property
    def under_way(self) -> int:
        """How many are."""
        return len(self._begun)

    def state(self, *, paced: bool) -> WindowState:
        """Return how it stands; ``paced``: a session waits for room."""
        return WindowState(self.under_way, self.size, paced, self.mean_held)

    def has_room(self, *, coming: int = 0, hurried: bool = False) -> bool:
        """Return whether another one may begin besides those that are about to. ``hurried``: whatever that means for
        the clients that are held."""
        return len(self._begun) + coming < (self._most if hurried else self.size)

    def begin_anew(self) -> None:
        """Note that nobody waits to be moved: the next time it may be another cluster, or another hour."""
        self._size = 1.0

    def note(self, session_id: int, event: Event) -> bool:
        """Take in what a session reports; return whether its move is over by that."""
        match event:
            case Asked(Rung.MIGRATE):
                self._begun[session_id] = self._halvings
                return False
            # First of all, whatever follows: it may be lost by that, or stay where it is.
            case MigrationFailed(node):
                return self._ended(session_id, None, failed=node is not None)
            case Answered(Rung.MIGRATE) | Asked():  # it was taken back, or there is no more time
                return self._ended(session_id, None)
            case Transferred(held_seconds=held):
                return self._ended(session_id, held)
            case _:
                return False

    def forget(self, session_id: int) -> bool:
        """Forget a session that is over, whatever it has reported; return whether it was on its way."""
        return self._begun.pop(session_id, None) is not None

    def _ended(self, session_id: int, held: float | None, *, failed: bool = False) -> bool:
        full = len(self._begun) >= self.size
        halvings = self._begun.pop(session_id, None)
        if halvings is None:
            return False
        if held is not None:
            self._held.append(held)
            self.mean_held = held if self.mean_held is None else self.mean_held + _SHARE * (held - self.mean_held)
        if failed or (held is not None and held > self._limit(SLOW_SECONDS, _SLOW_TIMES)):
            # Those that were on their way then suffer from the same: they are no reason to do it again.
            if halvings == self._halvings:
                self._halvings += 1
                self._resize(self._size / 2)
        elif held is not None and held > self._limit(QUICK_SECONDS, _QUICK_TIMES):
            self._resize(self._size - _STEP)
        elif held is not None and full:  # else it says nothing of what more at once would do
            self._resize(self._size + _STEP)
        return True

    def _limit(self, seconds: float, times: float) -> float:
        return max(seconds, times * min(self._held))

    def _resize(self, size: float) -> None:
        self._size = min(max(size, 1.0), float(self._most))
