"""Replace all workers, one by one: for a fix in what workers do, or to get memory back.

The next worker is not touched before the last one has gone, so there is one worker more than usual at any time, and the
clients that move share the proxy's transfer rate only with drains. The first new worker that does not come up ends it:
the others would not come up either.
"""

from __future__ import annotations

import logging

import trio

from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.admin.rows.order_rows import RestartProgress
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.supervisor.workers.slot import WorkerSlot
from cxfr_proxy.supervisor.workers.worker_slots import WorkerSlots
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.tasks import Task, isolated

_log = logging.getLogger(__name__)
_STOPPING = "the proxy is stopping"
_ONE_PROCESS = "with --workers 1 everything is one process, which has no worker to replace"
_FAULT = "it met a fault, which the log has"


class RollingRestart:
    """One pass through all slots. Workers that have begun after it need no replacing."""

    def __init__(self, workers: Workers, slots: WorkerSlots, feed: ChangeFeed) -> None:
        self._workers = workers
        self._slots = slots
        self._feed = feed
        self._began = trio.current_time()
        self._replaced = 0
        self._cut = 0
        self._failure: str | None = None
        self.finished = False

    def progress(self) -> RestartProgress:
        leaving = sum(link.counts.sessions for slot in self._workers.slots for link in slot.links[:-1])
        total = len(self._workers.slots)
        return RestartProgress(
            total=total,
            replaced=self._replaced,
            left=total - self._replaced,
            sessions=leaving,
            cut=self._cut,
            finished=self.finished,
            failure=self._failure,
        )

    async def run(self) -> None:
        """Replace them until all are new, or one can't be replaced."""
        emit(_log, "restart-begins", workers=len(self._workers.slots), sessions=self._workers.sessions)
        # Stays, if an exception ends the replacing.
        self._failure = _FAULT
        with isolated(Task.RESTART):
            self._failure = await self._replace_all()
        self.finished = True
        self._feed.changed()
        emit(
            _log,
            "restart-ends",
            level=logging.INFO if self._failure is None else logging.ERROR,
            replaced=self._replaced,
            workers=len(self._workers.slots),
            reason=self._failure,
        )

    async def _replace_all(self) -> str | None:
        """Replace the workers one by one; return why that ended early, ``None`` if all were replaced."""
        for slot in self._workers.slots:
            failure = await self._replace(slot)
            if failure is not None:
                return failure
            self._replaced += 1
            self._feed.changed()
        return None

    async def _replace(self, slot: WorkerSlot) -> str | None:
        """Replace the worker in that slot; return why that could not be done, ``None`` if it was."""
        replacement = slot.replace(self._began)
        await slot.until(lambda: replacement.settled or self._slots.stopping)
        if not replacement.settled:
            return _STOPPING
        old = replacement.old
        if old is not None:
            # The next worker is not touched before this one is gone, so there is never more than one worker too many.
            await slot.until(lambda: old.gone)
            self._cut += old.cut
        return replacement.failure


class RollingRestarts:
    """One restart at a time. ``feed`` is told of its progress."""

    def __init__(self, workers: Workers, slots: WorkerSlots, feed: ChangeFeed) -> None:
        self._workers = workers
        self._slots = slots
        self._feed = feed
        self._work = trio.Event()
        self.last: RollingRestart | None = None
        """The restart that is running, or the last one."""

    def begin(self) -> None:
        """Begin a restart; if one is running, it goes on instead.

        Raises :class:`ConfigError` while the proxy stops, and if the only worker is in this process: a new one would be
        the same program.
        """
        if len(self._workers.slots) == 1:
            raise ConfigError(_ONE_PROCESS)
        if self._slots.stopping:
            raise ConfigError(_STOPPING)
        if self.last is not None and not self.last.finished:
            emit(_log, "restart-goes-on", reason="one is under way already")
            return
        self.last = RollingRestart(self._workers, self._slots, self._feed)
        self._work.set()

    async def run(self) -> None:
        """Carry out restarts until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            assert self.last is not None
            await self.last.run()
