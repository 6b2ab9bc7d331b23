"""Clients, as an operator finds them, looks at them and ends their sessions."""

from __future__ import annotations

import logging

import trio

from cxfr_proxy.admin.console.parts import Sessions
from cxfr_proxy.admin.rows.filters import MOST_AT_ONCE, FoundSessions, SessionFilter
from cxfr_proxy.admin.rows.rows import SessionDetailsRow
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.errors import NoSuchSession
from cxfr_proxy.events import emit

_log = logging.getLogger(__name__)


class _Look:
    """A look through all sessions, which has begun or waits for its turn."""

    def __init__(self) -> None:
        self.filters: dict[SessionFilter, None] = {}  # in the order in which they came
        self.found: dict[SessionFilter, FoundSessions] | None = None

    def takes(self, wanted: SessionFilter) -> bool:
        """Return whether it can serve that filter as well, before it has begun."""
        return wanted in self.filters or len(self.filters) < MOST_AT_ONCE


class SharedLists:
    """Lists of sessions, by one look through all of them at a time: of very many sessions it takes seconds, and many
    who ask at once would all be out of time.

    All who ask while one goes on share the next one, whatever their filters: it has begun after they asked, so nothing
    is older than that. So they wait for two looks at most, or for one more for each :data:`MOST_AT_ONCE` other filters.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._turn = trio.Lock()  # whoever has waited longest is next
        self._next: _Look | None = None
        """The look that has not begun."""

    async def find(self, wanted: SessionFilter) -> FoundSessions:
        """Return the sessions that match. A look that fails, or is cancelled, does so for one caller alone."""
        if self._next is None or not self._next.takes(wanted):
            self._next = _Look()
        look = self._next
        look.filters[wanted] = None
        async with self._turn:
            if look is self._next:
                self._next = None
            if look.found is None:
                filters = tuple(look.filters)
                look.found = dict(zip(filters, await self._sessions.find_sessions(filters), strict=True))
        return look.found[wanted]


class ClientControl:
    def __init__(self, cluster: Cluster, sessions: Sessions) -> None:
        self._cluster = cluster
        self._sessions = sessions
        self._lists = SharedLists(sessions)

    async def sessions(self, wanted: SessionFilter) -> FoundSessions:
        """Return the sessions that match. Raises :class:`ConfigError` for a node that is not listed."""
        if wanted.node is not None:
            self._cluster.get(wanted.node)
        return await self._lists.find(wanted)

    async def details(self, session_id: int) -> SessionDetailsRow:
        """Return everything that is known of a session. Raises :class:`NoSuchSession` where there is none."""
        row = await self._sessions.session_details(session_id)
        if row is None:
            raise NoSuchSession(f"there is no session {session_id}; it may be over (show sessions)")
        return row

    async def kick(self, address: str) -> int:
        """End the sessions of that user's clients, or of the client with that full JID; return how many.

        Raises :class:`NoSuchSession` where there is none.
        """
        ended = await self._sessions.kick(address)
        if not ended:
            raise NoSuchSession(f"{address} has no session (show sessions --user)")
        emit(_log, "kick", jid=address, sessions=ended)
        return ended
