"""Keep a worker in each slot, and replace a worker that serves by a new one.

One task per slot decides everything about it, so that there is one answer to each question:

* A worker that ends is replaced at once, or, if it lived less than a second, after a pause that doubles. In a pause its
  sockets do not listen: the kernel would give them connections that nobody takes.
* A worker that is to be replaced stays until the new one serves, and then leaves. Both have the same listening sockets
  meanwhile, so there is always one that accepts, and what one leaves in the kernel's queue is the other's.
* A new worker that does not come up changes nothing. If the old one ends before the new one is up, the new one is its
  replacement.
* When the proxy stops, no worker is replaced any more.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final, Protocol

import trio

from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.launch import Launched, Launcher
from cxfr_proxy.ipc.messages import Hello, Message, Stop
from cxfr_proxy.supervisor.startup_log import log_lost
from cxfr_proxy.supervisor.workers.client_sockets import ClientSockets
from cxfr_proxy.supervisor.workers.link import FirstMessages, Link, LinkListener
from cxfr_proxy.supervisor.workers.slot import WorkerSlot
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.tasks import Task, isolated, keep_going, start_once

PATIENCE_SECONDS: Final = 5.0
"""Seconds beyond ``hard-stop-after`` for a worker to end before it is killed."""
_SHORT_LIFE_SECONDS: Final = 1.0
"""Seconds of life below which a worker will probably die again at once."""
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0

_LINES_AT_A_TIME: Final = 100
"""Log lines between two checkpoints: about a millisecond."""

_log = logging.getLogger(__name__)


class SlotHost(LinkListener, Protocol):
    """Has workers kept: the supervisor."""

    def first_messages(self, slot: WorkerSlot) -> FirstMessages:
        """Return the first messages to a new worker in that slot."""

    def on_gone(self, link: Link) -> None:
        """Act on the end of that worker. Its counts were added to the past."""


class WorkerSlots:
    """``launcher`` starts workers, each with its slot's ``sockets``."""

    def __init__(
        self, workers: Workers, sockets: ClientSockets, launcher: Launcher, hard_stop_after: float, host: SlotHost
    ) -> None:
        self._workers = workers
        self._sockets = sockets
        self._launcher = launcher
        self.parting_seconds = hard_stop_after + PATIENCE_SECONDS
        """How long a worker that leaves, or all when the proxy stops, may take."""
        self._host = host
        self._nursery: trio.Nursery | None = None
        self._stop = trio.Event()
        self.cut = False
        """Some clients had to be cut when the proxy stopped."""

    def set_hard_stop_after(self, seconds: float) -> None:
        """Let workers that leave from now on have so much time."""
        self.parting_seconds = seconds + PATIENCE_SECONDS
        for link in self._workers:
            link.parting_seconds = self.parting_seconds

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Let all workers move their clients and end, and replace none any more; :meth:`run` returns when they are
        gone."""
        self._stop.set()
        for link in self._workers:
            link.post(Stop())
        for slot in self._workers.slots:
            slot.changed()

    def leave(self) -> None:
        """Let all workers move their clients at the proxy's pace and end: another process has taken over. None is
        replaced any more; :meth:`run` returns when they are gone, and :meth:`stop` makes them hurry."""
        self._stop.set()
        for link in self._workers:
            link.leave()
        for slot in self._workers.slots:
            slot.changed()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep workers until :meth:`stop`; ``started`` when all serve. Cancelling kills them.

        Raises :class:`ConfigError`, in a group, if one of the first workers does not begin to serve.
        """
        async with trio.open_nursery() as self._nursery:
            async with trio.open_nursery() as starting:
                for slot in self._workers.slots:
                    starting.start_soon(self._nursery.start, self._keep, slot)
            task_status.started()
            await self._stop.wait()
            self._nursery.cancel_scope.deadline = trio.current_time() + self.parting_seconds
        self.cut |= self._nursery.cancel_scope.cancelled_caught

    async def _keep(self, slot: WorkerSlot, *, task_status: trio.TaskStatus[None]) -> None:
        link = await self._start(slot)
        if not link.greeted and not self.stopping:
            raise ConfigError(f"{_not_up(link)}; the log may say why")
        task_status.started()
        await keep_going(Task.SLOT, partial(self._keep_on, slot), worker=slot.number)
        slot.vacant = "gone"

    async def _keep_on(self, slot: WorkerSlot) -> None:
        """Run the slot with the worker that is in it, if there is one."""
        # The newest: an older one is leaving. After a fault in this task there may be one, or none.
        link = slot.links[-1] if slot.links else await self._start(slot)
        pause = 0.0
        while await self._wait_for_news(slot, link):
            if not link.gone:
                link = await self._replace(slot, link)
                continue
            lived = trio.current_time() - link.began
            # A worker that has served for a while is replaced at once; one that dies right away would only die again.
            pause = 0.0 if link.greeted and lived > _SHORT_LIFE_SECONDS else _longer(pause)
            if not await self._pause(slot, pause):
                break
            link = await self._start(slot)
            if slot.replacement is not None and not link.greeted:
                slot.settle(f"the new {_not_up(link)}")

    async def _wait_for_news(self, slot: WorkerSlot, link: Link) -> bool:
        """Wait until that worker is gone, or is to be replaced; return false when the proxy stops."""
        await slot.until(lambda: self.stopping or link.gone or slot.replacement is not None)
        return not self.stopping

    async def _pause(self, slot: WorkerSlot, seconds: float) -> bool:
        """Pause before the next worker, unless one is asked for; return false when the proxy stops."""
        if seconds:
            self._sockets.rest(slot)
        with trio.move_on_after(seconds):
            await slot.until(lambda: self.stopping or slot.replacement is not None)
        return not self.stopping

    async def _replace(self, slot: WorkerSlot, link: Link) -> Link:
        """Return the worker that is in the slot afterwards."""
        replacement = slot.replacement
        assert replacement is not None
        # It may have died of itself after the command: then its successor is as new as was asked for.
        if link.began >= replacement.asked:
            slot.settle()  # the one that was asked to be replaced has ended meanwhile
            return link
        new = await self._start(slot)
        if not new.greeted:
            slot.settle(f"the new {_not_up(new)}; the old one stays")
            return link
        replacement.old = link
        slot.replaced += 1
        # Only now: between the two there would be nobody to accept.
        link.leave()
        slot.settle()
        return new

    # --- one worker

    async def _start(self, slot: WorkerSlot) -> Link:
        """Return a new worker, once it serves or has ended."""
        assert self._nursery is not None
        link = Link(slot.number, self, self.parting_seconds)
        start_once(self._nursery, Task.SLOT, partial(self._live, slot, link))
        slot.links.append(link)
        await slot.until(lambda: link.greeted or link.gone)
        return link

    async def _live(self, slot: WorkerSlot, link: Link) -> None:
        with isolated(Task.WORKER, worker=slot.number):
            worker = await self._launched(slot)
            if worker is not None:
                try:
                    await link.live(worker, self._host.first_messages(slot))
                finally:
                    worker.kill()  # nothing, where it has ended as it should
        # Before it is buried: whoever is told of that sees it as gone.
        link.gone = True
        with isolated(Task.WORKER, worker=slot.number):
            self._workers.bury(slot, link)
            self._log_end(link)
            self._host.on_gone(link)
        slot.changed()
        if link.died:
            with isolated(Task.WORKER, worker=slot.number):
                await self._log_lost_sessions(link)

    async def _launched(self, slot: WorkerSlot) -> Launched | None:
        """Start a worker; ``None`` if it can't be started."""
        try:
            self._sockets.wake(slot)
            return await self._launcher.launch(self._sockets.of(slot))
        except OSError as exc:
            emit(_log, "worker-not-started", level=logging.ERROR, worker=slot.number, reason=exc.strerror or str(exc))
            return None

    def on_message(self, link: Link, message: Message) -> None:
        if isinstance(message, Hello):
            emit(_log, "worker-up", worker=link.number, pid=link.pid)
            if self.stopping:
                link.post(Stop())
            self._workers.slots[link.number - 1].changed()
        self._host.on_message(link, message)

    def _log_end(self, link: Link) -> None:
        sessions = link.counts.sessions
        if link.pid is None:
            return  # it never was a worker: why is said already
        if link.died:
            self.cut |= self.stopping and bool(sessions)
            emit(
                _log,
                "worker-died",
                level=logging.ERROR,
                worker=link.number,
                pid=link.pid,
                code=link.code,
                sessions=sessions,
            )
        elif self.stopping:
            self.cut |= link.cut
        else:
            emit(_log, "worker-left", worker=link.number, pid=link.pid, cut=link.cut)

    async def _log_lost_sessions(self, link: Link) -> None:
        """Log the end of each session, as its worker would have."""
        now = trio.current_time()
        for number, (session, heard) in enumerate(link.present.values()):
            if number % _LINES_AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            log_lost(session, now - heard)
        link.present.clear()


def _longer(pause: float) -> float:
    return min(max(_FIRST_PAUSE_SECONDS, pause * 2), _LONGEST_PAUSE_SECONDS)


def _not_up(link: Link) -> str:
    how = f"ended before it served, with exit code {link.code}" if link.code is not None else "could not be started"
    return f"worker {link.number} {how}"
