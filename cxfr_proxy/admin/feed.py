"""The feed of changes wakes those that watch the proxy when there may be something new to see.

It says that something has changed, not what. A watcher sees for itself whether that concerns it: a look is a few sums
over what workers have reported by themselves, and asks nobody.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final, Protocol, TypeVar

import trio

PAUSE_SECONDS: Final = 0.2
"""Between two looks at least: people read what may change a hundred times a second."""
QUIET_SECONDS: Final = 2.0
"""Between two looks at most: time alone changes some of what is seen, by a deadline that passes for example. It also
shows those that wait that the proxy lives."""


class ChangeFeed:
    """Wakes those that wait when something has changed."""

    def __init__(self) -> None:
        self.version = 0
        """One more with each change."""
        self._waiting = trio.lowlevel.ParkingLot()

    def changed(self) -> None:
        """Say that something has changed, which is cheap where nobody waits."""
        self.version += 1
        self._waiting.unpark_all()

    async def newer_than(self, version: int) -> None:
        """Wait until something has changed since there was that version."""
        await trio.lowlevel.checkpoint()
        while self.version == version:
            await self._waiting.park()


class WatchedProgress(Protocol):
    """How far something has come."""

    @property
    def finished(self) -> bool: ...


_P = TypeVar("_P", bound=WatchedProgress)


async def follow(feed: ChangeFeed, look: Callable[[], _P]) -> AsyncGenerator[_P, None]:
    """Yield what ``look`` sees: at first, whenever that has changed, and every :data:`QUIET_SECONDS` in any case.

    Ends behind what is ``finished``. Closing it ends the waiting only.
    """
    last: _P | None = None
    told_at = trio.current_time()
    while True:
        version, seen = feed.version, look()  # in this order: what changes from here on is looked at again
        if seen != last or trio.current_time() >= told_at + QUIET_SECONDS:
            last, told_at = seen, trio.current_time()
            yield seen
        if seen.finished:
            return
        await trio.sleep(PAUSE_SECONDS)
        with trio.move_on_at(told_at + QUIET_SECONDS):
            await feed.newer_than(version)
