"""Which legs are served when, in the pump's turns.

A turn has three parts, each with a share of time: legs that epoll reports; legs with pending bytes, of which epoll
knows nothing; and legs *behind*, which have brought more than is looked at of one leg at once, or something that was
dear to look at. In each part, legs are served one after the other, the first at least. A leg that was not served is
first the next time, and one that needs more goes behind the others.

So no rule about sending too much keeps a flood from the others. Where each element wants a look, a leg is read no more
before the session has seen to what it has brought, and that is done in the third part. However many legs flood, they
have this share of a turn together, and all others, logins and timers included, wait for one turn.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

SHARE_SECONDS: Final = 0.004
"""The share of one part. All legs that are busy with ordinary stanzas are served within it, and a round of trio's loop
costs a hundredth of it."""
BEHIND_SHARE: Final = 0.25
"""The part of a share that legs behind have: a visit or two, so that nothing waits longer for a flood."""
COSTLY_SECONDS: Final = 0.002
"""The time that a look at a leg's bytes may take: a hundred times the usual."""

clock: Final = time.perf_counter


L = TypeVar("L")


class Queue(OrderedDict[L, None]):
    """Legs that wait for their turn, each of them once."""

    __slots__ = ()

    def add(self, leg: L) -> None:
        """Put it behind the others; it keeps its place if it has one."""
        self.setdefault(leg)

    def discard(self, leg: L) -> None:
        self.pop(leg, None)

    def serve(self, serve: Callable[[L], None], seconds: float) -> None:
        """Serve those that wait now, the first at least, and no more once so many seconds are over."""
        until = clock() + seconds
        for _ in range(len(self)):
            if not self:
                return  # one that was served has ended another
            serve(self.popitem(last=False)[0])
            if clock() >= until:
                return
