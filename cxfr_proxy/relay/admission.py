"""How many logins a second reach a node.

When many clients come back at once, from a node that was emptied or a network that was away, each login costs a node
and its database far more than it costs the proxy to let a client wait. So logins wait here: first come, first served,
for each node by itself. Who waits is told nothing, and keeps a socket and a parked task; who has hung up meanwhile
takes nobody's turn.

Where several processes serve, each admits its share: the kernel spreads connections evenly over them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from cxfr_proxy.cluster.pace import TokenBucket
from cxfr_proxy.errors import NodeError
from cxfr_proxy.xmpp.names import StreamCondition

_BURST_SECONDS: Final = 0.1
"""So much of the rate may come at once: a quiet node makes nobody wait for a timer."""
_STEP_SECONDS: Final = 0.02
"""Whose turn comes within this time go together: waking up for each costs as much as most of a login."""


class Gone(OSError):
    """The client has hung up while it waited."""


class _Door:
    """Of one node."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._bucket = TokenBucket(rate, burst=max(1.0, rate * _BURST_SECONDS))
        self._turn = trio.Lock()  # first come, first served
        self.waiting = 0

    async def enter(self, has_left: Callable[[], bool]) -> None:
        self.waiting += 1
        try:
            async with self._turn:
                if delay := self._bucket.delay(self._clock()):
                    await trio.sleep(max(delay, _STEP_SECONDS))
                if has_left():
                    raise Gone("the client hung up while it waited")
                self._bucket.take(self._clock())
        finally:
            self.waiting -= 1


class Admission:
    """``rate``: logins a second to each node, ``None`` for any number; ``patience``: how long one may wait, in
    seconds."""

    def __init__(self, rate: float | None, patience: float, clock: Callable[[], float] = trio.current_time) -> None:
        self._rate = rate
        self._patience = patience
        self._clock = clock
        self._doors: dict[str, _Door] = {}

    async def admit(self, node: str, has_left: Callable[[], bool]) -> None:
        """Return when a login may go to that node.

        ``has_left`` is asked when its turn has come: whether the client has gone. Raises :class:`Gone` if so, and
        :class:`NodeError`, for the client, where that took too long. Who is cancelled takes nobody's turn.
        """
        if self._rate is None:
            return
        door = self._doors.get(node)
        if door is None:
            door = self._doors[node] = _Door(self._rate, self._clock)
        with trio.move_on_after(self._patience) as limit:
            await door.enter(has_left)
        if limit.cancelled_caught:
            raise NodeError(StreamCondition.RESOURCE_CONSTRAINT, "too many logins at the moment, try again later")

    def waiting(self, node: str) -> int:
        """How many logins wait for that node."""
        door = self._doors.get(node)
        return door.waiting if door is not None else 0
