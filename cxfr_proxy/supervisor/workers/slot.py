"""The place of one worker: the workers that are in it, and what was counted of those before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from cxfr_proxy.admin.rows.rows import WorkerRow
from cxfr_proxy.ipc.messages import WorkerCounts
from cxfr_proxy.supervisor.workers.link import Link

ID_MARGIN: Final = 100_000
"""Session ids that a new worker skips, times the workers: for sessions that its predecessor could not report any more,
or still accepts until the new one is up."""


@dataclass(eq=False, slots=True)
class Replacement:
    """A replacement that a slot is asked for: a worker that has begun after ``asked`` (trio's clock)."""

    asked: float
    settled: bool = False
    old: Link | None = None
    """The worker that leaves for it; ``None`` if there was none."""
    failure: str | None = None
    """Why there is no new one; the old one stays."""


class WorkerSlot:
    """The place of one worker. ``number`` from 1 on."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.links: list[Link] = []
        """The workers in it, oldest first."""
        self.deaths = 0
        self.hung = 0
        self.replaced = 0
        """How many were replaced on command."""
        self.cpu_seconds = 0.0
        """Of the workers that are gone."""
        self.vacant = "waiting"
        """Its state while no worker is in it."""
        self.replacement: Replacement | None = None
        self._last_id: int | None = None
        self._lot = trio.lowlevel.ParkingLot()

    def next_first_id(self, workers: int) -> int:
        """Return the first session id of the next worker."""
        if self._last_id is None:
            self._last_id = self.number
        else:
            self._last_id = max([self._last_id, *(link.counts.last_id for link in self.links)]) + workers * ID_MARGIN
        return self._last_id

    def replace(self, asked: float) -> Replacement:
        """Have a worker in it that is new; see :meth:`~.worker_slots.WorkerSlots.run`."""
        self.replacement = Replacement(asked)
        self.changed()
        return self.replacement

    def settle(self, failure: str | None = None) -> None:
        """Note that the replacement is done, or can't be done."""
        assert self.replacement is not None
        self.replacement.settled = True
        self.replacement.failure = failure
        self.replacement = None
        self.changed()

    @property
    def last_id(self) -> int:
        """The highest id of its sessions."""
        return max([self._last_id or 0, *(link.counts.last_id for link in self.links)])

    def begin_behind(self, last_id: int, workers: int) -> None:
        """Have the ids of its first worker's sessions be well above that one."""
        self._last_id = (last_id // workers + 1) * workers + self.number

    def note_last_id(self, counts: WorkerCounts) -> None:
        self._last_id = max(self._last_id or 0, counts.last_id)

    def changed(self) -> None:
        """Wake the tasks that wait for a change."""
        self._lot.unpark_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is checked after each :meth:`changed`."""
        while not condition():
            await self._lot.park()

    def rows(self) -> Iterator[WorkerRow]:
        """Yield what operators are shown: a row for each worker in it, or one for the slot while it is empty."""
        if not self.links:
            past = self.deaths, self.hung, self.replaced
            yield WorkerRow(self.number, None, self.vacant, 0, 0, *past, cpu_seconds=self.cpu_seconds)
        cpu_seconds = self.cpu_seconds + sum(link.counts.process.cpu_seconds for link in self.links)
        for link in self.links:
            counts = link.counts
            yield WorkerRow(
                self.number,
                link.pid,
                str(link.state),
                counts.sessions,
                counts.connections,
                self.deaths,
                self.hung,
                self.replaced,
                trio.current_time() - link.overdue_since if link.overdue_since is not None else None,
                cpu_seconds,
                counts.process.resident_bytes,
                counts.process.open_descriptors,
                counts.process.max_descriptors,
            )
