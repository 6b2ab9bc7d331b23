"""Replace this proxy by a new process, with no gap: for a new version, or settings that are read at the start.

The new one is started with copies of all listening sockets. It reads everything and starts its workers; only when it
is ready, and has taken over what is kept, this one stops accepting, and moves its clients at its pace. Connections that
wait in the kernel are the new one's: the two have the same queues. A new one that fails changes nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import msgspec
import trio

from cxfr_proxy import shortage
from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.admin.rows.order_rows import UpgradeProgress, UpgradeStep
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.channel import StreamChannel
from cxfr_proxy.ipc.messages import BadMessage, EarlierNews, TransferEnded
from cxfr_proxy.supervisor.upgrading.handover import (
    VARIABLE,
    HandedOver,
    HandoverBegins,
    HandoverMessage,
    NewsNoted,
    PredecessorAsked,
    PredecessorCounts,
    PredecessorEvents,
    PredecessorLeaves,
    PredecessorNews,
    PredecessorTransfer,
    SuccessorFailed,
    SuccessorReady,
    SuccessorServes,
    SuccessorStops,
    handover_channel,
)
from cxfr_proxy.tasks import Task, isolated, start_once
from cxfr_proxy.transfers.client_news import Moved

READY_SECONDS: Final = 60.0
"""Seconds for the new one: reading a list from etcd, a large user map, starting some dozens of workers."""
TAKING_SECONDS: Final = 10.0
"""Seconds for it to take over: a file is written, and it opens its doors. Orders wait meanwhile."""
_END_SECONDS: Final = 1.0
"""Seconds for a process that has closed the channel to end: its exit code says more."""
_COUNTS_SECONDS: Final = 0.2
_MANAGER_SECONDS: Final = 5.0
"""Seconds for a service manager that takes nothing at the moment, before the new one goes on without it."""
_MANAGER_PAUSE_SECONDS: Final = 0.05
_FAULT: Final = "it met a fault, which the log has"
_STOPPING: Final = "the proxy is stopping"
_LOST: Final = "it took over, and has ended since: nobody accepts connections"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """How this process was started. ``environment`` is added to that of the next one: variables for the start alone,
    which were taken out."""

    command: Sequence[str]
    arguments: Sequence[str]
    environment: Mapping[str, str]

    @classmethod
    def running(cls, environment: Mapping[str, str]) -> Program:
        """Return the program of this process.

        A script is started by its path, so that another interpreter counts as well, and so does a link that leads
        elsewhere by now.
        """
        script, arguments = sys.argv[0], sys.argv[1:]
        if os.path.basename(script) != "__main__.py" and os.access(script, os.X_OK):
            return cls([os.path.abspath(script)], arguments, environment)
        began = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
        return cls([sys.executable, *began], arguments, environment)

    def line(self, other: str | None) -> list[str]:
        """Return the command line of the next one; ``other`` is a program to use instead."""
        return [*(self.command if other is None else (other,)), *self.arguments]


class UpgradeHost(Protocol):
    """The supervisor of this proxy."""

    @property
    def sessions(self) -> int:
        """How many sessions it has."""

    @property
    def stopping(self) -> bool:
        """Whether an operator has stopped it."""

    @property
    def follows(self) -> bool:
        """Whether the proxy whose place this one has taken still moves its clients."""

    async def until_left(self) -> None:
        """Wait while the proxy whose place this one takes may still go on as it was."""

    def goes_on(self) -> None:
        """Note that the new one has failed: orders and state are this one's, as before."""

    def hurry(self) -> None:
        """Stop: the new one does."""

    async def settle(self) -> None:
        """Wait until all that is kept is on disk, or could not be written; nothing is being written then."""

    def announce_rest(self) -> None:
        """Note that the new one says nothing any more."""

    def handover_begins(self) -> HandoverBegins:
        """Return what the new one begins with. The sockets in it are to be inherited."""

    def earlier_news(self) -> Sequence[EarlierNews]:
        """Return all news that still matter."""

    def offer(self) -> HandedOver:
        """Write nothing more of what is kept, until it is clear who is the proxy. Return what the new one gets."""

    def hand_over(self) -> None:
        """Take no more orders and no more clients, and let the clients there are be moved: the new one is the
        proxy."""

    def tell_manager(self, pid: int) -> bool:
        """Tell the service manager, unless it was told, that the process with that id is the service. Return whether
        it knows, or there is none."""

    def predecessor_counts(self) -> PredecessorCounts:
        """Return this proxy's counts."""

    def predecessor_events(self) -> PredecessorEvents:
        """Return this process's latest events."""

    async def answer(self, asked: PredecessorAsked, channel: StreamChannel[HandoverMessage]) -> None:
        """Answer a question of the new one by that channel."""

    def announced(self, session: int) -> None:
        """Note that the new one knows that this client is about to be asked to move."""


class UpgradeRun:
    """One replacement of this proxy."""

    def __init__(
        self, host: UpgradeHost, feed: ChangeFeed, line: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self._host = host
        self._feed = feed
        self._line = line
        self._environment = environment
        self._channel: StreamChannel[HandoverMessage] | None = None
        self._answering: trio.Nursery | None = None
        self._step = UpgradeStep.START
        self._pid: int | None = None
        self._answer: SuccessorReady | SuccessorServes | SuccessorFailed | None = None
        self._version: str | None = None
        self._offered = False
        self._news = trio.Event()
        self._failed = trio.Event()
        self._gone = trio.Event()
        self._moved = trio.Event()
        self._failure: str | None = None

    @property
    def finished(self) -> bool:
        return self._step is UpgradeStep.DONE or self._failure is not None

    @property
    def handed_over(self) -> bool:
        """Whether the new one is the proxy."""
        return self._step in (UpgradeStep.MOVE, UpgradeStep.DONE)

    async def until_decided(self) -> None:
        """Wait while it is not clear which process is the proxy. Where it becomes the new one this never returns: who
        waits is cancelled."""
        if self._offered:
            await self._failed.wait()

    @property
    def _lost(self) -> bool:
        return self.handed_over and self._gone.is_set()

    def progress(self) -> UpgradeProgress:
        left = {UpgradeStep.START: 2, UpgradeStep.MOVE: 1, UpgradeStep.DONE: 0}[self._step]
        return UpgradeProgress(
            step=str(self._step),
            pid=self._pid,
            version=self._version,
            total=2,
            left=left,
            sessions=self._host.sessions if left else 0,
            finished=self.finished or self._lost,
            failure=_LOST if self._lost else self._failure,
        )

    # --- what this proxy says meanwhile

    def note_news(self, news: EarlierNews) -> bool:
        """Pass it on. Return whether the new one will say that it has noted it: of a client that is about to move."""
        channel = self._channel
        if channel is None or channel.broken:
            return False
        channel.post(PredecessorNews((msgspec.Raw(msgspec.json.encode(news)),)))
        return isinstance(news.news, Moved) and self._version is not None

    def note_transfer(self, ended: TransferEnded) -> None:
        """Pass it on, once the new one has the counts up to now."""
        if self._channel is not None and self._offered:
            self._channel.post(PredecessorTransfer(msgspec.Raw(msgspec.json.encode(ended))))

    # --- carrying it out

    async def run(self) -> None:
        """Replace this proxy, and go on until :meth:`end`; or until it is clear that nothing comes of it."""
        failure: str | None = _FAULT
        with isolated(Task.UPGRADE):
            failure = await self._replace()
        if failure is not None:
            self._failure = failure
            self._host.goes_on()
            self._offered = False
            self._failed.set()
            emit(_log, "upgrade-failed", level=logging.ERROR, pid=self._pid, reason=failure)
        self._feed.changed()

    async def _replace(self) -> str | None:
        begins = self._host.handover_begins()
        try:
            process, ours = await self._start(begins.descriptors)
        except OSError as exc:
            return f"{self._line[0]} can't be started: {exc.strerror or exc}"
        self._pid = process.pid
        emit(_log, "upgrade-begins", program=self._line[0], pid=process.pid, sessions=self._host.sessions)
        self._channel = handover_channel(ours)
        self._channel.post(begins)
        try:
            async with trio.open_nursery() as nursery:
                self._answering = nursery
                start_once(nursery, Task.UPGRADE, partial(self._watch, process))
                start_once(nursery, Task.UPGRADE, partial(self._talk, self._channel))
                start_once(nursery, Task.UPGRADE, partial(self._tell_earlier_news, self._channel))
                failure = await self._hand_over(process, self._channel)
                if failure is None:
                    await self._move(self._channel)
                nursery.cancel_scope.cancel()
        finally:  # also when this proxy ends meanwhile: nobody else would end it
            if not self.handed_over and process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):  # short: SIGKILL cannot be refused
                    await process.wait()
        return failure

    async def _start(self, descriptors: Sequence[int]) -> tuple[trio.Process, socket.socket]:
        """Return the new one, and this end of the channel to it. Raises ``OSError``."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, shortage.of_threads():
                process = await trio.lowlevel.open_process(
                    self._line,
                    pass_fds=[theirs.fileno(), *descriptors],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **self._environment, VARIABLE: str(theirs.fileno())},
                )
        except BaseException:
            ours.close()
            raise
        return process, ours

    async def _tell_earlier_news(self, channel: StreamChannel[HandoverMessage]) -> None:
        """Tell them one at a time: all of them may be more than the channel holds."""
        for piece in self._host.earlier_news():
            channel.post(PredecessorNews((msgspec.Raw(msgspec.json.encode(piece)),)))
            await channel.flush()

    async def _talk(self, channel: StreamChannel[HandoverMessage]) -> None:
        try:
            await channel.run(self._receive)
        except BadMessage as exc:
            emit(_log, "handover-fault", level=logging.ERROR, reason=str(exc))
        finally:
            self._host.announce_rest()
            self._news.set()

    def _receive(self, message: HandoverMessage) -> None:
        match message:
            case SuccessorReady() | SuccessorServes() | SuccessorFailed():
                if not isinstance(self._answer, SuccessorFailed):  # which is its last word, whatever is on its way
                    self._answer = message
                self._news.set()
            case SuccessorStops() if self.handed_over:
                self._host.hurry()
            case SuccessorStops():
                self._answer = SuccessorFailed("it was told to stop")
                self._news.set()
            case NewsNoted(session):
                self._host.announced(session)
            case PredecessorAsked() if self._answering is not None and self._channel is not None:
                start_once(self._answering, Task.ANSWER, partial(self._host.answer, message, self._channel))
            case _:
                pass

    async def _watch(self, process: trio.Process) -> None:
        await process.wait()
        self._gone.set()
        self._news.set()
        if self._lost:
            emit(_log, "upgrade-failed", level=logging.ERROR, pid=self._pid, reason=_LOST)
            self._feed.changed()

    async def _hand_over(self, process: trio.Process, channel: StreamChannel[HandoverMessage]) -> str | None:
        """Hand over when the new one is ready. Return why that could not be done, and then nothing has happened."""
        failure = await self._until_it_says(SuccessorReady, READY_SECONDS, process, channel)
        if failure is not None:
            return failure
        assert isinstance(self._answer, SuccessorReady)
        self._version = self._answer.version
        with trio.move_on_after(TAKING_SECONDS) as settling:
            await self._host.settle()
        if settling.cancelled_caught:
            return f"the disk has not taken what is kept within {TAKING_SECONDS:.0f} s"
        if self._host.stopping:
            return _STOPPING
        self._offered = True
        offer = self._host.offer()
        channel.post(self._host.predecessor_counts())  # those of now, from which the new one counts on
        channel.post(offer)
        failure = await self._until_it_says(SuccessorServes, TAKING_SECONDS, process, channel)
        if failure is not None:
            return failure
        stops: bool = self._host.stopping  # by now
        if stops:
            return _STOPPING
        self._step = UpgradeStep.MOVE
        self._host.hand_over()
        # Before the new one says anything to it, which it would not believe.
        await self._until_manager_knows(process.pid)
        channel.post(PredecessorLeaves())
        channel.post(self._host.predecessor_events())
        emit(_log, "upgrade-handed-over", pid=process.pid, version=self._version, sessions=self._host.sessions)
        self._feed.changed()
        return None

    async def _until_it_says(
        self,
        kind: type[SuccessorReady | SuccessorServes],
        seconds: float,
        process: trio.Process,
        channel: StreamChannel[HandoverMessage],
    ) -> str | None:
        """Wait until the new one says that. Return why it does not."""
        with trio.move_on_after(seconds):
            while not (isinstance(self._answer, (kind, SuccessorFailed)) or self._gone.is_set() or channel.broken):
                await self._news.wait()
                self._news = trio.Event()
        if channel.broken:
            with trio.move_on_after(_END_SECONDS):
                await self._gone.wait()
        if isinstance(self._answer, SuccessorFailed):
            return self._answer.reason
        if self._gone.is_set():
            return f"{self._line[0]} has ended with exit code {process.returncode}; the log may say why"
        if channel.broken:
            return f"{self._line[0]} does not speak as a proxy that takes over; the log may say more"
        if not isinstance(self._answer, kind):
            return f"{self._line[0]} was not ready within {seconds:.0f} s"
        return None

    async def _until_manager_knows(self, pid: int) -> None:
        with trio.move_on_after(_MANAGER_SECONDS):
            while not self._host.tell_manager(pid):  # noqa: ASYNC110 - nobody says when the manager reads again
                await trio.sleep(_MANAGER_PAUSE_SECONDS)

    async def _move(self, channel: StreamChannel[HandoverMessage]) -> None:
        assert self._pid is not None
        while not self._moved.is_set():
            self._host.tell_manager(self._pid)
            if not channel.unsent_bytes:  # else those before have still to be taken
                channel.post(self._host.predecessor_counts())
            self._feed.changed()
            with trio.move_on_after(_COUNTS_SECONDS):
                await self._moved.wait()

    def give_up(self) -> None:
        """End the new one, if it has not taken over."""
        if not self.handed_over:
            self._answer = SuccessorFailed(_STOPPING)
            self._news.set()

    async def end(self) -> None:
        """Tell the new one the last counts and events: all clients are gone."""
        assert self._pid is not None
        if not self._lost:
            await self._until_manager_knows(self._pid)
        if self._channel is not None:
            self._channel.post(self._host.predecessor_counts())
            self._channel.post(self._host.predecessor_events())
            with trio.move_on_after(_COUNTS_SECONDS * 10):
                await self._channel.flush()
        if not self._lost:
            self._step = UpgradeStep.DONE
        self._moved.set()
        emit(_log, "upgrade-ends", pid=self._pid)
        self._feed.changed()


class Upgrades:
    """One upgrade at a time. ``program`` is ``None`` where the proxy is a part of another program."""

    def __init__(self, host: UpgradeHost, feed: ChangeFeed, program: Program | None) -> None:
        self._host = host
        self._feed = feed
        self._program = program
        self._work = trio.Event()
        self.last: UpgradeRun | None = None
        """The one under way, or the last."""

    async def until_decided(self) -> None:
        """Wait while it is not clear which process is the proxy: an order would be lost with the other one."""
        await self._host.until_left()
        if self.last is not None:
            await self.last.until_decided()

    def begin(self, other: str | None = None) -> None:
        """Begin one; ``other`` is the program to start, ``None``: the one that runs, as it is on disk now.

        Raises :class:`ConfigError` while one goes on, and where this proxy is a part of another program, or the first
        process of a container, with which all others end.
        """
        if self._program is None:
            raise ConfigError("this proxy is a part of another program, which is to be replaced itself")
        if os.getpid() == 1:
            raise ConfigError("this is the first process of a container, which ends with it: start another container")
        if self._host.stopping:
            raise ConfigError(_STOPPING)
        if self._host.follows:
            raise ConfigError("an upgrade is under way already: the process before this one still moves its clients")
        if self.last is not None and not self.last.finished:
            raise ConfigError("an upgrade is under way already")
        self.last = UpgradeRun(self._host, self._feed, self._program.line(other), self._program.environment)
        self._work.set()

    async def run(self) -> None:
        """Carry out upgrades until cancelled."""
        while True:
            await self._work.wait()
            self._work = trio.Event()
            assert self.last is not None
            await self.last.run()

    def stop(self) -> None:
        """Note that the proxy stops. A new one goes at once: it would be ended with this one, and by then have accepted
        everybody who comes."""
        if self.last is not None:
            self.last.give_up()

    async def end(self) -> None:
        """Note that all clients of this proxy are gone."""
        if self.last is not None and self.last.handed_over:
            await self.last.end()
