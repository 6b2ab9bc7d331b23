"""Clients, as an operator finds them, looks at them and ends their sessions."""

from __future__ import annotations

import logging

import trio

from cxfr_proxy.admin.console.parts import Sessions
from cxfr_proxy.admin.rows.filters import FoundSessions, SessionFilter
from cxfr_proxy.admin.rows.rows import SessionDetailsRow
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.errors import NoSuchSession
from cxfr_proxy.events import emit

_log = logging.getLogger(__name__)


class _Look:
    """A look through all sessions that goes on."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.found: FoundSessions | None = None


class SharedLists:
    """Lists of sessions, of which one with the same filter is made at a time: of very many sessions it takes seconds,
    and many who ask at once would all be out of time.

    Those who ask while one is made share the next one: it has begun after they asked, so nothing is older than that.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._looks: dict[SessionFilter, _Look] = {}

    async def find(self, wanted: SessionFilter) -> FoundSessions:
        """Return the sessions that match. A look that fails, or is cancelled, does so for one caller alone."""
        earlier = self._looks.get(wanted)
        if earlier is not None:
            await earlier.over.wait()
        while (look := self._looks.get(wanted)) is not None:
            await look.over.wait()
            if look.found is not None:
                return look.found
        look = self._looks[wanted] = _Look()
        try:
            look.found = await self._sessions.find_sessions(wanted)
            return look.found
        finally:
            del self._looks[wanted]
            look.over.set()


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
