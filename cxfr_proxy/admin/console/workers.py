"""Workers, as an operator sees and replaces them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from cxfr_proxy.admin.console.parts import Restarts, Sessions
from cxfr_proxy.admin.feed import ChangeFeed, follow
from cxfr_proxy.admin.rows.order_rows import RestartProgress
from cxfr_proxy.admin.rows.rows import WorkerRow
from cxfr_proxy.errors import ConfigError


class WorkerControl:
    def __init__(self, sessions: Sessions, feed: ChangeFeed, restarts: Restarts) -> None:
        self._sessions = sessions
        self._feed = feed
        self._restarts = restarts

    async def rows(self) -> list[WorkerRow]:
        """Return the workers by number; both of a number while one takes over from the other."""
        await self._sessions.refresh()
        return self.known_rows()

    def known_rows(self) -> list[WorkerRow]:
        """Return them with the counts that they have reported by themselves: none is asked."""
        return self._sessions.worker_rows()

    def progress_rows(self) -> list[RestartProgress]:
        """Return how far the replacing of workers is that goes on, or was the last; none where there was none."""
        return [self._restarts.last.progress()] if self._restarts.last is not None else []

    def restart(self) -> None:
        """Start replacing all workers, one by one; return at once. Again while it goes on: nothing new.

        Raises :class:`ConfigError` where the only worker is in the supervisor's process, or the proxy is stopping.
        """
        self._restarts.begin()

    def follow(self) -> AsyncGenerator[RestartProgress, None]:
        """Return how far it is, again and again until its end; see :func:`~cxfr_proxy.admin.feed.follow`.

        Raises :class:`ConfigError` where workers were never being replaced.
        """
        restart = self._restarts.last
        if restart is None:
            raise ConfigError("the workers are not being replaced")
        return follow(self._feed, restart.progress)
