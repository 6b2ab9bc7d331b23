"""Work that is done for operators, kept to a share of the time in which clients are served."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class TimeShare:
    """Keeps work that comes in pieces to that share of the time, however many have it done: each waits behind its piece
    until all pieces so far are paid for."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._paid_at = -float("inf")

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Charge what the block takes, in which nothing is awaited."""
        began = time.thread_time()
        yield
        took = time.thread_time() - began
        self._paid_at = max(self._paid_at, trio.current_time()) + took / self._share

    async def wait(self) -> None:
        """Wait until everything is paid that was charged by now."""
        await trio.sleep_until(self._paid_at)
