"""Clients, as an operator finds them, looks at them and ends their sessions."""

from __future__ import annotations

import logging

from cxfr_proxy.admin.console.parts import Sessions
from cxfr_proxy.admin.rows.filters import FoundSessions, SessionFilter
from cxfr_proxy.admin.rows.rows import SessionDetailsRow
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.errors import NoSuchSession
from cxfr_proxy.events import emit

_log = logging.getLogger(__name__)


class ClientControl:
    def __init__(self, cluster: Cluster, sessions: Sessions) -> None:
        self._cluster = cluster
        self._sessions = sessions

    async def sessions(self, wanted: SessionFilter) -> FoundSessions:
        """Return the sessions that match. Raises :class:`ConfigError` for a node that is not listed."""
        if wanted.node is not None:
            self._cluster.get(wanted.node)
        return await self._sessions.find_sessions(wanted)

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
