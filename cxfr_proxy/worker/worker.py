"""A worker: it serves clients for a supervisor.

It has its listening sockets and one end of a :class:`~cxfr_proxy.ipc.channel.Channel`; everything else comes over that,
settings and nodes included. It decides nothing that concerns the whole proxy: nodes, health, drains and pace are the
supervisor's, and it reports what its sessions learn about nodes.

Signals of an operator are the supervisor's too, and ignored here (service managers send them to every process). A
worker whose supervisor is gone moves its clients as it would at a stop, and ends.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import trio

from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.channel import Channel
from cxfr_proxy.ipc.messages import (
    VERSION,
    Announced,
    AnswerPart,
    Ask,
    BadMessage,
    Elsewhere,
    Grant,
    Hello,
    Leave,
    Listed,
    Message,
    News,
    Nodes,
    Pinned,
    PinnedBefore,
    Remembered,
    Setup,
    Stop,
    Stopped,
)
from cxfr_proxy.tasks import Task, isolated, start, start_once
from cxfr_proxy.worker.parts import WorkerParts
from cxfr_proxy.worker.queries import answer
from cxfr_proxy.worker.reporter import Reporter

_REPORT_SECONDS: Final = 0.005
"""Least seconds between two reports; the first one after a pause is sent at once."""
_REPORT_ALONE_SECONDS: Final = 0.05
"""The same for the only worker: no other one places users by its counts, and a question is answered at once."""
_REPORT_SHARE: Final = 0.02
"""Share of the time for making reports: those of many nodes and addresses are sent less often."""
_AWAITING_SECONDS: Final = 0.1
"""Seconds between two reports while clients are awaited."""
_WORDS_SECONDS: Final = 1.0
"""Seconds for the last messages, at the end."""
_FAULT: Final = "it met a fault, which the log has"

_log = logging.getLogger(__name__)


class Worker:
    """``channel`` leads to the supervisor. ``configured`` is called with the first message before anything is done."""

    def __init__(
        self, channel: Channel, listeners: Sequence[trio.SocketListener], configured: Callable[[Setup], None]
    ) -> None:
        self._channel = channel
        self._reporter = Reporter(channel)
        self._listeners = listeners
        self._configured = configured
        self.parts: WorkerParts | None = None
        """The parts that serve, once the settings are known."""
        self._ready = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._fault: ConfigError | None = None

    async def run(self) -> None:
        """Serve until the supervisor says stop, or is gone, and all clients were moved. Raises :class:`ConfigError`."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._listen)
            await self._ready.wait()
            if self.parts is not None:
                start(self._nursery, Task.REPORT, self._report)
                self._nursery.start_soon(self._serve, self.parts)
        if self._fault is not None:
            raise self._fault

    async def _serve(self, parts: WorkerParts) -> None:
        assert self._nursery is not None
        # Only when it can serve: the supervisor lets the old worker go on this.
        self._channel.post(Hello(VERSION, os.getpid()))
        cut = await parts.service.run(self._listeners)
        parts.reports.report()
        self._channel.post(Stopped(cut))
        with trio.move_on_after(_WORDS_SECONDS):
            await self._channel.flush()
        self._nursery.cancel_scope.cancel()

    async def _listen(self) -> None:
        try:
            await self._channel.run(self._receive)
        except BadMessage as exc:
            emit(_log, "channel-fault", level=logging.ERROR, reason=str(exc))
        except ConfigError as exc:
            self._fault = exc
        self._ready.set()
        if self.parts is not None and not self.parts.service.stopping:
            emit(_log, "supervisor-gone", level=logging.ERROR, sessions=len(self.parts.registry))
            # Without a supervisor there is no pace, no health, and nobody to take the clients over: it moves them and
            # ends.
            self.parts.service.stop()

    # --- what the supervisor says

    def _receive(self, message: Message) -> None:
        if isinstance(message, Setup):
            self._set_up(message)
            return
        parts = self.parts
        if parts is None:
            raise BadMessage(f"{type(message).__name__} before the settings")
        with isolated(Task.MESSAGE, (BadMessage,), message=type(message).__name__):
            self._apply(parts, message)

    def _apply(self, parts: WorkerParts, message: Message) -> None:
        match message:
            case PinnedBefore(pins):
                for user, node in pins.items():
                    parts.assigned.pins.set(user, node)
            case Nodes():
                if parts.apply_nodes(message):
                    self._ready.set()
            case Pinned(user, node):
                parts.assigned.pins.set(user, node)
            case Listed():
                listed = parts.received_map.apply(message)
                if listed is not None:
                    parts.assigned.listed = listed
            case Grant(tokens):
                parts.pace.grant(tokens)
            case Elsewhere(sessions, addresses, sessions_before):
                parts.registry.note_elsewhere(sessions)
                parts.registry.sessions_before.update(sessions_before)
                parts.registry.addresses_elsewhere = addresses
            case Remembered(earlier):
                for each in earlier:
                    parts.mover.take_news(each.news, each.seconds_ago)
            case News(news):
                parts.mover.take_news(news)
            case Announced(session):
                parts.mover.announced(session)
            case Ask():
                assert self._nursery is not None
                start_once(self._nursery, Task.ANSWER, partial(self._answer, parts, message))
            case Leave():
                parts.service.leave()
            case Stop():
                parts.service.stop()
            case _:
                raise BadMessage(f"{type(message).__name__} is a worker's to say")

    def _set_up(self, setup: Setup) -> None:
        if self.parts is not None or setup.version != VERSION:
            raise BadMessage(f"settings of version {setup.version}, or for the second time")
        self._configured(setup)
        self.parts = WorkerParts(setup, self._reporter)

    async def _answer(self, parts: WorkerParts, ask: Ask) -> None:
        error = None
        with isolated(Task.ANSWER, what=type(ask.question).__name__) as turn:
            try:
                async with aclosing(answer(parts, ask.question)) as replies:
                    async for reply in replies:
                        self._channel.post(AnswerPart(ask.request, reply))
                        await self._channel.flush()  # a million rows are more than the channel holds
            except ConfigError as exc:
                error = str(exc)
        if turn.fault is not None:
            error = _FAULT
        self._channel.post(AnswerPart(ask.request, last=True, error=error))

    # --- what there is to report

    async def _report(self) -> None:
        assert self.parts is not None
        registry = self.parts.registry
        least = _REPORT_SECONDS if self.parts.workers > 1 else _REPORT_ALONE_SECONDS
        while True:
            awaits = registry.memory.awaited(trio.current_time())
            with trio.move_on_after(_AWAITING_SECONDS if awaits else math.inf):  # time alone ends waiting
                await self._reporter.wait_changed()
            began = time.thread_time()
            self.parts.reports.report()
            await trio.sleep(max(least, (time.thread_time() - began) / _REPORT_SHARE))
