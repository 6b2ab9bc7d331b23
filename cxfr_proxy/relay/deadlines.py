"""The deadlines of sessions in the pump: each has one, which is due first of what the session waits for, and of its
legs that take no bytes.

A deadline is looked at whenever something has happened to its session, and nearly always it is not reached; so what is
set by then costs little (:mod:`.timers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from cxfr_proxy.relay.live_session import Leg, LiveSession
from cxfr_proxy.relay.timers import Timers
from cxfr_proxy.session.commands import Side

_CLIENT = Side.CLIENT


class SessionDeadlines:
    """Calls ``on_due`` with each of the ``sessions`` whose deadline is over, while :meth:`run` does.

    ``write_stall_timeout`` in seconds: how long a leg may take no byte of what waits for it. It may be set anew.
    """

    def __init__(
        self, sessions: Mapping[int, LiveSession], on_due: Callable[[LiveSession], None], write_stall_timeout: float
    ) -> None:
        self._sessions = sessions
        self._on_due = on_due
        self.write_stall_timeout = write_stall_timeout
        self._timers = Timers(self._on_timer, self._put_off)
        self.run = self._timers.run

    def keep(self, live: LiveSession) -> None:
        """Have it called in time, after something has happened to it."""
        due = self._due(live)
        if due < live.timer_at:  # a timer that was set for an earlier time is put off when it is the next one
            live.timer_at = due
            self._timers.set(due, live.id)

    def is_stuck(self, leg: Leg, now: float) -> bool:
        """Return whether it has taken no byte for too long."""
        return leg.stuck_since is not None and now >= leg.stuck_since + self.write_stall_timeout

    @staticmethod
    def is_over(live: LiveSession, now: float) -> bool:
        """Return whether what the session itself waits for is due."""
        due = live.session.due(backlogged=bool(live.legs[_CLIENT].unsent))
        return due is not None and now >= due

    def _due(self, live: LiveSession) -> float:
        client, node = live.legs
        due = live.session.due(backlogged=bool(client.unsent))
        if client.stuck_since is not None or node.stuck_since is not None:
            stuck = min(leg.stuck_since for leg in live.legs if leg.stuck_since is not None) + self.write_stall_timeout
            return stuck if due is None else min(due, stuck)
        return due if due is not None else math.inf

    def _put_off(self, when: float, session_id: int) -> float | None:
        """Return when a timer is due, now that it is the next one; ``None``: not any more."""
        live = self._sessions.get(session_id)
        if live is None or live.timer_at != when:  # it was set anew since, for something that is due earlier
            return None
        live.timer_at = max(when, self._due(live))
        return live.timer_at if live.timer_at < math.inf else None

    def _on_timer(self, when: float, session_id: int) -> None:
        live = self._sessions[session_id]
        live.timer_at = math.inf
        self._on_due(live)
