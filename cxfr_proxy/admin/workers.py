"""Workers, as an operator sees and replaces them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

import trio

from cxfr_proxy.admin.drains import PROGRESS_SECONDS
from cxfr_proxy.admin.parts import Restarts, Sessions
from cxfr_proxy.admin.rows import RestartProgress, WorkerRow
from cxfr_proxy.errors import ConfigError

ONE_PROCESS: Final = "with --workers 1 everything is one process, which has no worker to replace"


class WorkerControl:
    """``restarts`` is ``None`` where the proxy is one process."""

    def __init__(self, sessions: Sessions, restarts: Restarts | None = None) -> None:
        self._sessions = sessions
        self._restarts = restarts

    async def rows(self) -> list[WorkerRow]:
        """Return the workers by number; both of a number while one takes over from the other."""
        await self._sessions.refresh()
        return self._sessions.worker_rows()

    def restart(self) -> None:
        """Start replacing all workers, one by one; return at once. Again while it goes on: nothing new.

        Raises :class:`ConfigError` where there are no workers, or the proxy is stopping.
        """
        if self._restarts is None:
            raise ConfigError(ONE_PROCESS)
        self._restarts.begin()

    async def follow(self) -> AsyncGenerator[RestartProgress, None]:
        """Yield how far it is about five times a second, and once more on its end; then stop.

        Raises :class:`ConfigError` where workers were never being replaced. Closing it ends the waiting only.
        """
        restart = self._restarts.last if self._restarts is not None else None
        if restart is None:
            raise ConfigError("the workers are not being replaced")
        while True:
            await self._sessions.refresh()
            progress = restart.progress()
            yield progress
            if progress.finished:
                return
            await trio.sleep(PROGRESS_SECONDS)
