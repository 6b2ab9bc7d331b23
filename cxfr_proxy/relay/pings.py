"""Pings to silent clients on WebSocket (RFC 6455 section 5.5.2), and the end of those that don't answer.

Balancers and address translators in front of browsers forget a connection on which nothing passes, after a minute or
a few, and tell neither end. TCP's own probes reach the nearest of them and no further. A ping passes through all of
them, and every browser answers it without its page.

A connection is silent while nothing passes in either direction: to those in between, each is as good as the other. One
that goes on getting bytes it doesn't take is TCP's to find out (``keepalive-timeout``, ``write-stall-timeout``).
"""

from __future__ import annotations

import trio

from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.relay.timers import Timers


class Pings:
    """``seconds``: how long a client may be silent, and how long it has to answer; 0: no pings."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """Of the sessions that are watched from now on."""
        self._timers = Timers(self._on_timer)
        self._watched: dict[int, tuple[LiveSession, float]] = {}

    async def run(self) -> None:
        """Ping until cancelled."""
        await self._timers.run()

    def watch(self, live: LiveSession) -> None:
        """Ping this session's client from now on, if it is on WebSocket; until :meth:`forget`."""
        if self.seconds and live.websocket is not None:
            self._watched[live.id] = live, self.seconds
            self._timers.set(trio.current_time() + self.seconds, live.id)

    def forget(self, live: LiveSession) -> None:
        """Ping it no more; does nothing where it was not watched."""
        self._watched.pop(live.id, None)

    def _on_timer(self, when: float, session_id: int) -> None:
        watched = self._watched.get(session_id)
        if watched is None:
            return
        live, seconds = watched
        websocket = live.websocket
        if websocket is None:
            return
        now = trio.current_time()
        due = live.last_active + seconds
        if due <= now:
            if websocket.awaits_pong:
                live.lose_client()
                return
            live.ping()
            due = now + seconds
        self._timers.set(due, session_id)
