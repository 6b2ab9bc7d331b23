"""The poller knows which legs are ready: by epoll, and by the switchboard that serves those on which there is nothing
to decide.

The pump says of each leg what it waits for (:meth:`Poller.register`) and whether its bytes may pass without a question
(:meth:`Poller.connect`). In a turn, the switchboard (``_turn.c``) passes on what it may, and calls the pump for
everything else. Without a compiled switchboard, the poller asks epoll itself and calls the pump for everything.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from cxfr_proxy.net.transport import RECORD_BYTES
from cxfr_proxy.relay import engine
from cxfr_proxy.relay.live_session import Leg, LiveSession
from cxfr_proxy.relay.turns import clock
from cxfr_proxy.relay.websocket_transport import WebSocketTransport

if TYPE_CHECKING:
    from cxfr_proxy.relay._turn import Switchboard

IN: Final = select.EPOLLIN
OUT: Final = select.EPOLLOUT
ALL_BUT_IN: Final = ~IN
ALL_BUT_OUT: Final = ~OUT
MAX_EVENTS: Final = 256
"""Most legs that are served before other tasks run."""


class LegServer(Protocol):
    """Serves what the poller finds. Legs are named by their descriptors."""

    def on_ready(self, fd: int, events: int) -> None:
        """Read or write the leg; nothing was read yet."""
        ...

    def on_ended(self, fd: int) -> None:
        """End the leg's input: the switchboard has met its end."""
        ...

    def on_scanned(self, fd: int, data: bytes, boundary: int, used: int) -> None:
        """Go on with data that the switchboard has read and cannot pass on as it is. It has scanned ``used`` bytes of
        it."""
        ...

    def on_unsent(self, fd: int, data: bytes) -> None:
        """Keep data that came from this leg and that the switchboard could not send to the other one."""
        ...


class Poller:
    """See the module. :meth:`close` comes when it has no leg any more."""

    def __init__(self) -> None:
        self.legs: dict[int, Leg] = {}
        """All legs, by descriptor."""
        self._epoll = select.epoll()
        self._board: Switchboard | None = engine.new_switchboard(self._epoll)
        self.received_here = [0, 0]
        """Bytes that were read by anybody else than the switchboard, by side."""
        self._ready: deque[tuple[int, int]] = deque()  # what epoll has reported, if no switchboard asks it
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._waker, IN)

    def fileno(self) -> int:
        """Return a descriptor that is readable when a leg is ready, or :meth:`wake` was called."""
        return self._epoll.fileno()

    def wake(self) -> None:
        """Have a turn, whether a leg is ready or not."""
        os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._waker)

    # --- a turn

    def serve(self, now: float, seconds: float, server: LegServer) -> None:
        """Have ready legs served: at least one, and no more once so many seconds are over.

        Raises what the switchboard meets while it serves :meth:`leg_at_fault`.
        """
        if self._board is not None:
            self._board.turn(now, seconds, server.on_ready, server.on_ended, server.on_scanned, server.on_unsent)
            return
        # Ask epoll again until nothing is ready: that costs less than a round through trio's loop.
        until, ready, on_ready = clock() + seconds, self._ready, server.on_ready
        for _ in range(MAX_EVENTS):
            if not ready:
                ready.extend(self._epoll.poll(0, MAX_EVENTS))
                if not ready:
                    return
            fd, events = ready.popleft()
            on_ready(fd, events)
            if clock() >= until:
                return

    def leg_at_fault(self) -> Leg | None:
        """Return the leg at which an exception has ended the turn; ``None`` if it was no leg's fault."""
        return self.legs.get(self._board.serving) if self._board is not None else None

    def woken(self, fd: int) -> None:
        """Forget that :meth:`wake` was called, if that is the descriptor that was ready."""
        if fd == self._waker:
            os.eventfd_read(fd)

    # --- what is known of a leg

    def add(self, leg: Leg, watched: int = 0) -> None:
        """Know a leg from now on. ``watched``: the events that epoll was told of before. Nothing is wanted of the leg
        yet; should epoll report something, the caller calls :meth:`ignore`. That is rare, so as a rule
        :meth:`register` finds epoll told already."""
        self.legs[leg.fd] = leg
        leg.watched = watched

    def register(self, leg: Leg, interest: int) -> None:
        """Wait for these events from now on; 0: for none."""
        if not interest:
            self.ignore(leg)
        elif not leg.watched:
            self._epoll.register(leg.fd, interest)
        elif interest != leg.watched:
            self._epoll.modify(leg.fd, interest)
        leg.interest = leg.watched = interest

    def ignore(self, leg: Leg) -> None:
        """Have epoll report nothing of a leg any more: it always reports EPOLLHUP and EPOLLERR, so the pump would
        spin."""
        if leg.watched:
            self._epoll.unregister(leg.fd)
            leg.watched = 0

    def watch(self, fd: int, events: int, *, known: bool) -> None:
        """Wait for these events of a descriptor that is no leg's. ``known``: one of that number was watched before,
        which may have been closed meanwhile."""
        if known:
            try:
                self._epoll.modify(fd, events)
            except FileNotFoundError:
                known = False
        if not known:
            self._epoll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Wait for it no more. Raises ``OSError`` if it was closed."""
        self._epoll.unregister(fd)

    def connect(self, leg: Leg) -> None:
        """Have the switchboard pass on this leg's bytes, or stop doing so, as the session's state has it now."""
        if self._board is None:
            return
        # A leg that may not be read must not be connected: the switchboard would read it.
        lane = leg.live.session.fast[leg.side] if leg.interest & IN else None
        # None also for the engine in Python, and while an event waits for the session.
        scanner = lane.scanner if lane is not None else None
        if scanner is leg.connected:
            return
        if scanner is None:
            self._disconnect(leg)
            return
        there, beyond = leg.transport, leg.other.transport
        # SSL_read() returns at most one record. A smaller buffer would leave decrypted bytes inside, where epoll does
        # not see them.
        most = max(leg.read_size, RECORD_BYTES)
        self._board.connect(
            leg.fd,
            leg.other.fd,
            leg.side,
            scanner,
            most,
            there.native_read,
            beyond.native_write,
            there if isinstance(there, WebSocketTransport) else None,
            beyond if isinstance(beyond, WebSocketTransport) else None,
        )
        leg.connected = scanner

    def _disconnect(self, leg: Leg) -> None:
        if self._board is not None and leg.connected is not None:
            # The switchboard forgets the time with the leg.
            leg.live.heard = max(leg.live.heard, self._board.disconnect(leg.fd))
            leg.connected = None

    def remove(self, leg: Leg) -> None:
        """Forget a leg before its descriptor is closed: the next connection may get that number."""
        self.ignore(leg)
        leg.interest = 0
        for each in (leg, leg.other):
            self._disconnect(each)  # both: the other one's bytes would be sent to the next connection with this number
        del self.legs[leg.fd]
        leg.fd = -1

    def received(self) -> list[int]:
        """Return how many bytes were read so far, by side."""
        client, node = self.received_here
        if self._board is None:
            return [client, node]
        return [client + self._board.received_0, node + self._board.received_1]

    def last_heard(self, live: LiveSession) -> float:
        """Return when bytes came last, from either side."""
        if self._board is None:
            return live.heard
        return max(live.heard, *(self._board.heard(leg.fd) for leg in live.legs))
