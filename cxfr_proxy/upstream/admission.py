"""Limit how many logins a second reach a node.

When many clients come back at once, from a node that was emptied or a network that was away, each login costs a node
and its database far more than it costs the proxy to let a client wait. So logins wait here, for each node separately.
Addresses take turns, and logins of one address come in order: an address that fills the queue waits behind itself, and
everybody else has one login more in front of theirs. A waiting client is told nothing, and costs a socket and a parked
task. A client that has hung up meanwhile gives its turn to the next one.

Where several processes serve, each admits its share: the kernel spreads connections evenly over them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from cxfr_proxy.errors import NodeError
from cxfr_proxy.spellings import address_range
from cxfr_proxy.transfers.token_bucket import TokenBucket
from cxfr_proxy.xmpp.names import StreamCondition

_BURST_SECONDS: Final = 0.1
"""Seconds' worth of the rate that may come at once: at a quiet node no login waits for a timer."""
_STEP_SECONDS: Final = 0.02
"""Logins whose turn comes within this time go together: waking up for each costs as much as most of a login."""


_AT_ONCE: Final = 1e6
"""The rate for those that wait where there is no limit any more."""


class ClientHungUp(OSError):
    """The client has hung up while it waited."""


class _Turns:
    """A lock for one at a time; addresses take turns, one after the other."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: OrderedDict[str, deque[trio.Event]] = OrderedDict()  # by address, the next one first

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Hold the turn within the block. A cancelled login gives its turn to the next one."""
        await self._take(address)
        try:
            yield
        finally:
            self._pass_on()

    async def _take(self, address: str) -> None:
        if not self._taken:
            self._taken = True
            return
        mine = trio.Event()
        queue = self._waiting.setdefault(address, deque())
        queue.append(mine)
        try:
            await mine.wait()
        # The login was cancelled. If it had been given the turn in the same moment, it passes the turn on; otherwise
        # all behind it would wait for ever.
        except BaseException:
            if mine.is_set():
                self._pass_on()
            else:
                queue.remove(mine)
                if not queue:
                    del self._waiting[address]
            raise

    def _pass_on(self) -> None:
        self._taken = bool(self._waiting)
        if self._waiting:
            address, queue = self._waiting.popitem(last=False)
            queue.popleft().set()
            if queue:
                self._waiting[address] = queue


class _Door:
    """The queue of one node."""

    def __init__(self, rate: float) -> None:
        self._bucket = TokenBucket(rate, _burst(rate))
        self._turns = _Turns()
        self._rate_changed = trio.Event()
        self.waiting = 0

    def set_rate(self, rate: float) -> None:
        self._bucket.set_rate(rate, trio.current_time(), _burst(rate))
        self._rate_changed.set()
        self._rate_changed = trio.Event()

    async def enter(self, address: str, has_left: Callable[[], bool]) -> None:
        self.waiting += 1
        try:
            async with self._turns.turn(address):
                while delay := self._bucket.delay(trio.current_time()):
                    with trio.move_on_after(max(delay, _STEP_SECONDS)):
                        await self._rate_changed.wait()  # another rate changes how long it takes
                # Asked last: a token that is spent on a client that has left delays all others.
                if has_left():
                    raise ClientHungUp("the client hung up while it waited")
                self._bucket.take(trio.current_time())
        finally:
            self.waiting -= 1


class Admission:
    """``rate``: logins a second to each node, ``None`` for any number; ``patience``: the seconds that one may wait."""

    def __init__(self, rate: float | None, patience: float) -> None:
        self._rate = rate
        self._patience = patience
        self._doors: dict[str, _Door] = {}

    def set_rate(self, rate: float | None, patience: float) -> None:
        """Admit that many from now on. Those that wait already get their turn at the new rate, and have the patience
        that they came with."""
        self._rate, self._patience = rate, patience
        for door in self._doors.values():
            door.set_rate(rate if rate is not None else _AT_ONCE)

    @property
    def limits(self) -> bool:
        """Return whether there is a rate."""
        return self._rate is not None

    async def admit(self, node: str, address: str, has_left: Callable[[], bool]) -> None:
        """Return when a login from that address may go to that node.

        ``has_left`` is asked when the login's turn has come: whether the client has gone. Raises :class:`ClientHungUp`
        if so, and :class:`NodeError`, for the client, where the turn did not come in time. On cancellation the turn
        goes to the next login.
        """
        if self._rate is None:
            return
        door = self._doors.get(node)
        if door is None:
            door = self._doors[node] = _Door(self._rate)
        with trio.move_on_after(self._patience) as limit:
            await door.enter(address_range(address), has_left)
        if limit.cancelled_caught:
            raise NodeError(StreamCondition.RESOURCE_CONSTRAINT, "too many logins at the moment, try again later")

    def waiting(self, node: str) -> int:
        """Return how many logins wait for that node."""
        door = self._doors.get(node)
        return door.waiting if door is not None else 0


def _burst(rate: float) -> float:
    return max(1.0, rate * _BURST_SECONDS)
