"""Many deadlines and one sleeping task.

A session sets, moves and drops its deadline far more often than the deadline is reached. So setting one costs an entry
in a heap and nothing else, and no entry is looked for to be taken out or moved. When an entry is the next one, its
owner says when it is really due. Most are not due any more then, and go without having woken anybody: a login takes
milliseconds, and sets deadlines of many seconds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final

import trio

from cxfr_proxy.tasks import Task, isolated

_TOGETHER: Final = 64
"""Most entries that are dealt with before other tasks run: a few milliseconds of work."""


def _as_set(when: float, key: int) -> float:
    return when


class Timers:
    """Calls ``on_timer`` with the time and key of each entry when its time has come.

    ``due`` is called with the same once the entry is the next one: it returns that time, or the later one to which the
    entry moves; ``None``: it is dropped. By default each entry is due when it was set. Times are trio's clock, in
    seconds.
    """

    def __init__(
        self, on_timer: Callable[[float, int], None], due: Callable[[float, int], float | None] = _as_set
    ) -> None:
        self._on_timer = on_timer
        self._due = due
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
            until = self._deal_with_next()
            with trio.CancelScope(deadline=until) as self._sleep:
                await trio.sleep_forever()
            # A process that was held up finds deadlines over and answers there. They came in time: they are read first.
            await trio.lowlevel.checkpoint()

    def _deal_with_next(self) -> float:
        """Deal with the next entries, and return when to do so again."""
        now = trio.current_time()
        for _ in range(_TOGETHER):
            if not self._heap:
                return math.inf
            when, key = heapq.heappop(self._heap)
            with isolated(Task.TIMERS):
                due = self._due(when, key)
                if due is None:
                    continue
                if due <= now:
                    self._on_timer(due, key)
                    continue
                heapq.heappush(self._heap, (due, key))
                if due == when:
                    return when
        return now
