"""Replace this proxy by a new process, with no gap: for a new version, or settings that are read at the start.

The new one is started with copies of all listening sockets. It reads everything and starts its workers; only when it
is ready, this one stops accepting, and moves its clients at its pace. Connections that wait in the kernel are the new
one's: the two have the same queues. A new one that fails changes nothing.
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

from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.admin.order_rows import UpgradeProgress, UpgradeStep
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.messages import EarlierNews, TransferEnded
from cxfr_proxy.supervisor.handover import (
    VARIABLE,
    HandedOver,
    HandoverBegins,
    HandoverChannel,
    HandoverMessage,
    NewsNoted,
    PredecessorCounts,
    PredecessorNews,
    PredecessorTransfer,
    SuccessorFailed,
    SuccessorReady,
    SuccessorStops,
)
from cxfr_proxy.tasks import Task, isolated, start_once
from cxfr_proxy.transfers.client_news import Moved

READY_SECONDS: Final = 60.0
"""Seconds for the new one: reading a list from etcd, a large user map, starting some dozens of workers."""
_COUNTS_SECONDS: Final = 0.2
_FAULT: Final = "it met a fault, which the log has"
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

    def goes_on(self) -> None:
        """Note that the new one has failed."""

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

    def hand_over(self, pid: int) -> HandedOver:
        """Take no more orders and no more clients, and let the clients there are be moved. Return what the process
        with that id gets."""

    def predecessor_counts(self) -> PredecessorCounts:
        """Return this proxy's counts."""

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
        self._channel: HandoverChannel | None = None
        self._step = UpgradeStep.START
        self._pid: int | None = None
        self._answer: SuccessorReady | SuccessorFailed | None = None
        self._news = trio.Event()
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

    @property
    def _lost(self) -> bool:
        return self.handed_over and self._gone.is_set()

    def progress(self) -> UpgradeProgress:
        left = {UpgradeStep.START: 2, UpgradeStep.MOVE: 1, UpgradeStep.DONE: 0}[self._step]
        return UpgradeProgress(
            step=str(self._step),
            pid=self._pid,
            version=self._answer.version if isinstance(self._answer, SuccessorReady) else None,
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
        if channel is None or channel.closed:
            return False
        channel.post(PredecessorNews((msgspec.Raw(msgspec.json.encode(news)),)))
        return isinstance(news.news, Moved) and isinstance(self._answer, SuccessorReady)

    def note_transfer(self, ended: TransferEnded) -> None:
        """Pass it on, once the new one counts."""
        if self._channel is not None and self.handed_over:
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
            emit(_log, "upgrade-failed", level=logging.ERROR, pid=self._pid, reason=failure)
        self._feed.changed()

    async def _replace(self) -> str | None:
        begins = self._host.handover_begins()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                given = [theirs.fileno(), *(each.descriptor for each in (*begins.for_clients, *begins.for_operators))]
                process = await trio.lowlevel.open_process(
                    self._line,
                    pass_fds=given,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **self._environment, VARIABLE: str(theirs.fileno())},
                )
        except OSError as exc:
            ours.close()
            return f"{self._line[0]}: {exc.strerror or exc}"
        except BaseException:
            ours.close()
            raise
        self._pid = process.pid
        emit(_log, "upgrade-begins", program=self._line[0], pid=process.pid, sessions=self._host.sessions)
        self._channel = HandoverChannel(ours)
        self._channel.post(begins)
        for piece in self._host.earlier_news():
            self._channel.post(PredecessorNews((msgspec.Raw(msgspec.json.encode(piece)),)))
        try:
            async with trio.open_nursery() as nursery:
                start_once(nursery, Task.UPGRADE, partial(self._watch, process))
                start_once(nursery, Task.UPGRADE, partial(self._talk, self._channel))
                failure = await self._when_ready(process)
                if failure is None:
                    await self._move()
                nursery.cancel_scope.cancel()
        finally:  # also when this proxy ends meanwhile: nobody else would end it
            if not self.handed_over and process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):  # short: SIGKILL cannot be refused
                    await process.wait()
        return failure

    async def _talk(self, channel: HandoverChannel) -> None:
        try:
            await channel.run(self._receive)
        except ConfigError as exc:
            emit(_log, "handover-fault", level=logging.ERROR, reason=exc.message)
        finally:
            self._host.announce_rest()

    def _receive(self, message: HandoverMessage) -> None:
        match message:
            case SuccessorReady() | SuccessorFailed():
                self._answer = message
                self._news.set()
            case SuccessorStops() if self.handed_over:
                self._host.hurry()
            case SuccessorStops():
                self._answer = SuccessorFailed("it was told to stop")
                self._news.set()
            case NewsNoted(session):
                self._host.announced(session)
            case _:
                pass

    async def _watch(self, process: trio.Process) -> None:
        await process.wait()
        self._gone.set()
        self._news.set()
        if self._lost:
            emit(_log, "upgrade-failed", level=logging.ERROR, pid=self._pid, reason=_LOST)
            self._feed.changed()

    async def _when_ready(self, process: trio.Process) -> str | None:
        """Wait until it is ready, and hand over. Return why that could not be done."""
        with trio.move_on_after(READY_SECONDS):
            await self._news.wait()
        if isinstance(self._answer, SuccessorReady):
            await self._host.settle()
        ready = isinstance(self._answer, SuccessorReady) and not self._gone.is_set()  # it may have ended meanwhile
        if ready and not self._host.stopping:
            assert isinstance(self._answer, SuccessorReady)
            self._step = UpgradeStep.MOVE
            assert self._channel is not None
            self._channel.post(self._host.hand_over(process.pid))
            emit(
                _log, "upgrade-handed-over", pid=process.pid, version=self._answer.version, sessions=self._host.sessions
            )
            self._feed.changed()
            return None
        if ready:
            return "the proxy is stopping"
        if isinstance(self._answer, SuccessorFailed):
            return self._answer.reason
        if self._gone.is_set():
            return f"{self._line[0]} has ended with exit code {process.returncode}; the log may say why"
        return f"{self._line[0]} was not ready within {READY_SECONDS:.0f} s"

    async def _move(self) -> None:
        assert self._channel is not None
        while not self._moved.is_set():
            self._channel.post(self._host.predecessor_counts())
            self._feed.changed()
            with trio.move_on_after(_COUNTS_SECONDS):
                await self._moved.wait()

    async def end(self) -> None:
        """Tell the new one the last counts: all clients are gone."""
        if self._channel is not None:
            self._channel.post(self._host.predecessor_counts())
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
            raise ConfigError("the proxy is stopping")
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

    async def end(self) -> None:
        """Note that all clients of this proxy are gone."""
        if self.last is not None and self.last.handed_over:
            await self.last.end()
