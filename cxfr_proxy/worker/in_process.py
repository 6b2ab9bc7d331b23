"""A worker in the supervisor's own process: a single worker needs no process of its own.

It is the same worker, at the other end of a channel that hands messages over as they are. It only has no process that
could be killed: a fault that ends it ends it alone, and the supervisor starts the next one; but anything that holds up
the worker holds up the supervisor, too.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.channel import in_memory
from cxfr_proxy.tasks import Task, isolated, start_once
from cxfr_proxy.worker.worker import Worker

_FAULT_CODE: Final = 1
_CONFIG_CODE: Final = 2
_KILLED_CODE: Final = -9
"""Exit codes as processes have them: after an exception, faulty settings, SIGKILL."""

_log = logging.getLogger(__name__)


class InProcessWorkers:
    """Starts workers in this process, while :meth:`running`."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self.latest: InProcessWorker | None = None
        """The worker that was started last."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run workers within the block, until they have ended."""
        async with trio.open_nursery() as self._nursery:
            yield

    async def launch(self, listening: Sequence[socket.socket]) -> InProcessWorker:
        """Start a worker, with copies of these sockets. Raises :class:`OSError`."""
        assert self._nursery is not None
        self.latest = InProcessWorker([sock.dup() for sock in listening])
        start_once(self._nursery, Task.WORKER, self.latest.run)
        await trio.lowlevel.checkpoint()
        return self.latest


class InProcessWorker:
    """A :class:`~.launch.Launched`. ``listening`` belongs to it."""

    ends_unheard = False  # whatever ends it, its pump logs each session's end

    def __init__(self, listening: Sequence[socket.socket]) -> None:
        self.pid = os.getpid()
        self.channel, theirs = in_memory()
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in listening]
        self.worker = Worker(theirs, listeners, lambda setup: None)
        self._listeners = listeners
        self._life = trio.CancelScope()
        self._ended = trio.Event()
        self._code = _FAULT_CODE

    async def run(self) -> None:
        """Serve until it has stopped, or is killed."""
        try:
            with self._life, isolated(Task.WORKER) as turn:
                await self._run()
            if self._life.cancelled_caught:
                self._code = _KILLED_CODE
            elif turn.fault is not None:
                self._code = _FAULT_CODE
        finally:
            self.channel.close()
            for listener in self._listeners:
                listener.socket.close()
            self._ended.set()

    async def _run(self) -> None:
        try:
            await self.worker.run()
            self._code = 0
        except ConfigError as exc:
            emit(_log, "worker-fault", level=logging.ERROR, reason=str(exc))
            self._code = _CONFIG_CODE

    # --- as a process

    async def wait(self) -> int:
        await self._ended.wait()
        return self._code

    def kill(self) -> None:
        self._life.cancel()
