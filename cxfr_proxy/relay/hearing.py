"""Several sessions hear together of what was read of their legs: a turn reads, then asks, then carries out.

Each of the three runs code of its own: the kernel and TLS; framing and the session's rules; TLS and the kernel again,
epoll, timers. One leg after the other, each part found that the others had taken its place in the processor's caches.
With all of one and then all of the other, a login takes a tenth less.

A session hears one thing at a time all the same. It hears of what was read of one leg before anything else happens to
it (:attr:`.live_session.LiveSession.unheard`), so at once where the switchboard reads its other leg; and while its
answer waits to be carried out it is *driven*, like a session whose commands are being carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cxfr_proxy.relay.live_session import Leg, LiveSession
from cxfr_proxy.relay.turns import clock
from cxfr_proxy.session.commands import SessionCommand

TOGETHER: Final = 16
"""Most legs that are read before their sessions are asked. More saved nothing, and all wait for the slowest."""

Decided = tuple[LiveSession, Leg, Sequence[SessionCommand]]
"""A session, the leg that it was asked about, and what it has decided."""


class Hearing:
    """Asks sessions about what was read of their legs while each element is looked at.

    ``costly_seconds`` as :data:`~.turns.COSTLY_SECONDS`. ``on_fault`` is told of a session that has raised an
    exception.
    """

    def __init__(self, costly_seconds: float, on_fault: Callable[[LiveSession, Exception], None]) -> None:
        self.waiting: list[tuple[LiveSession, Leg, bytes]] = []
        """Bytes that were read, in that order; their sessions have not heard of them."""
        self._costly_seconds = costly_seconds
        self._on_fault = on_fault

    def add(self, live: LiveSession, leg: Leg, data: bytes) -> None:
        """Have the session hear of it."""
        live.unheard = True
        self.waiting.append((live, leg, data))

    def ask(self, now: float) -> list[Decided]:
        """Ask all of them, and return what is to be carried out. They are driven until the caller has done so.

        ``costly`` of a leg is whether it took long to deal with what it has brought.
        """
        waiting, self.waiting = self.waiting, []
        decided: list[Decided] = []
        began = clock()
        for live, leg, data in waiting:
            live.unheard = False
            if live.closing or leg.fd < 0:
                continue  # by what another session has reported
            live.driven = True
            try:
                decided.append((live, leg, live.session.receive(leg.side, data, now)))
            except Exception as exc:
                self._on_fault(live, exc)
                live.driven = False
            ended = clock()
            leg.costly, began = ended - began > self._costly_seconds, ended
        return decided
