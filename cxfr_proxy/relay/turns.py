"""Who is served when, in the pump's turns.

A turn has three parts, each with a share of time: what epoll reports; TLS legs with decrypted bytes, of which epoll
knows nothing; and legs *behind*, which have brought more than is looked at of one leg at once, or what was dear to look
at. In each, legs are served one after the other, the first at least; who was not served is first the next time, and who
needs more comes in behind the others.

So a flood is kept from the others by no rule about who sends too much. Where each element wants a look, a leg is read
no more before what it has brought was seen to, and that is done in the third part. However many flood, they have this
share of a turn together, and everybody else, logins and timers included, waits for one turn.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

SHARE_SECONDS: Final = 0.004
"""Of a part. All that are busy with ordinary stanzas are served in one, and a round of trio's loop costs a hundredth
of it."""
BEHIND_SHARE: Final = 0.25
"""Those who are behind have this much of a share: a visit or two, and no more is waited for a flood."""
COSTLY_SECONDS: Final = 0.002
"""What a leg's bytes may cost at once: a hundred times what they usually do."""

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
