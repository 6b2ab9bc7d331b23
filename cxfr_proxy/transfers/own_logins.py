"""Logins of the proxy's own, in the place of clients whose sessions it takes to another node, or to the same one again.

A few are under way at once, and no session that has a node is moved while all turns are taken: one that has to wait
here could be out of time before it is on the other node, and its client would notice. More at once would not be faster
either, since a login is mostly work for the node: it would only take longer to answer each, and clients are held while
it does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

AT_ONCE: Final = 8
"""In one process. Each is a TLS handshake and a few round trips, milliseconds for a node that has time."""


class OwnLogins:
    """The turns of one process."""

    def __init__(self) -> None:
        self._turns = trio.Semaphore(AT_ONCE)
        self._ended = trio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and take it for as long as the block runs."""
        try:
            async with self._turns:
                yield
        finally:
            self._ended.set()
            self._ended = trio.Event()

    async def wait_for_room(self) -> None:
        """Return when a turn is free."""
        while not self._turns.value:
            await self._ended.wait()
