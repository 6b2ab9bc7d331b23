"""The order in which legs are served in the pump's turns, and how long.

A turn has three parts, each with a share of time: legs that epoll reports; legs with pending bytes, of which epoll
knows nothing; and legs *behind*, which have brought more than is looked at of one leg at once, or something that took
long to look at. In each part, legs are served one after the other, at least one. A leg that was not served is first the
next time, and one that needs more goes behind the others.

So a flood needs no rule of its own. Where each element wants a look, a leg is not read again until the session has
dealt with what it has brought, and that happens in the third part. However many legs flood, together they get this
share of a turn, and all others, logins and timers included, wait for one turn.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

SHARE_SECONDS: Final = 0.004
"""Seconds for one part of a turn. All legs that are busy with ordinary stanzas are served within it, and a round of
trio's loop costs a hundredth of it."""
BEHIND_SHARE: Final = 0.25
"""The fraction of a share that legs behind get: time for a visit or two, so that others hardly wait for a flood."""
COSTLY_SECONDS: Final = 0.002
"""Seconds after which a look at a leg's bytes counts as costly: a hundred times the usual."""

clock: Final = time.perf_counter


L = TypeVar("L")


class Queue(OrderedDict[L, None]):
    """Legs that wait for their turn, each of them once."""

    __slots__ = ()

    def add(self, leg: L) -> None:
        """Put it at the end; it keeps its place if it has one."""
        self.setdefault(leg)

    def discard(self, leg: L) -> None:
        self.pop(leg, None)

    def serve(self, serve: Callable[[L], None], seconds: float) -> None:
        """Serve those that wait now: at least one, and no more once so many seconds are over."""
        until = clock() + seconds
        for _ in range(len(self)):
            if not self:
                return  # serving one has ended the session of another, which was discarded
            serve(self.popitem(last=False)[0])
            if clock() >= until:
                return
