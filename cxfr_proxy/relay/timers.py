"""Many deadlines and one sleeping task.

A session sets, moves and drops its deadline far more often than the deadline is reached. So nothing is ever taken out
of the heap before its time: the listener ignores a call that comes too early, or for a session that is gone.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final

import trio

from cxfr_proxy.tasks import Task, isolated

_CALLS_TOGETHER: Final = 64
"""Most calls before other tasks run: a few milliseconds of work."""


class Timers:
    """Calls ``on_timer`` with the time and key of each entry when its time has come.

    Times are trio's clock, in seconds.
    """

    def __init__(self, on_timer: Callable[[float, int], None]) -> None:
        self._on_timer = on_timer
        self._heap: list[tuple[float, int]] = []
        self._sleep = trio.CancelScope()

    def set(self, when: float, key: int) -> None:
        """Call for ``key`` at ``when``. Earlier entries for the same key stay."""
        heapq.heappush(self._heap, (when, key))
        # Moving the deadline of the scope in which run() sleeps wakes it in time, without a task switch now.
        if when < self._sleep.deadline:
            self._sleep.deadline = when

    async def run(self) -> None:
        """Call until cancelled."""
        while True:
            for _ in range(_CALLS_TOGETHER):
                if not self._heap or self._heap[0][0] > trio.current_time():
                    break
                with isolated(Task.TIMERS):
                    self._on_timer(*heapq.heappop(self._heap))
            with trio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf) as self._sleep:
                await trio.sleep_forever()
            # A process that was held up finds deadlines over and answers there. They came in time: they are read first.
            await trio.lowlevel.checkpoint()
