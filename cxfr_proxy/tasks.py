"""Run tasks from which a fault does not spread.

A nursery ends all its tasks when one of them raises, so an unforeseen exception in one health check would end the
proxy. Everything that serves one thing (a check, a session, a command, a worker's message) therefore runs inside one of
these. An exception that leaves it ends that one thing, with one line in the log (``fault``):

============== =====================================================================================
isolated       a stretch of code; the code behind it may ask whether it failed
start          a task that goes on until it returns by itself: after a fault it begins again, later
               each time
start_once     a task that does one thing
============== =====================================================================================

A fault is an :class:`Exception` that reaches here. Exceptions that were foreseen never do: they are caught where their
meaning is known. Cancellation and the end of the process pass.

:class:`Task` lists everything that is served this way, and ``tests/test_tasks.py`` puts a fault into each. No other
file calls ``start_soon``, except for the calls that the test lists.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial
from os.path import basename
from types import TracebackType
from typing import Final

import trio

from cxfr_proxy.events import FieldValue, emit

FIRST_PAUSE_SECONDS: Final = 0.1
LAST_PAUSE_SECONDS: Final = 10.0
"""The pause between a fault and the next try: the first one, which doubles, and the longest."""
CALM_SECONDS: Final = 30.0
"""A task that ran for so long begins with the first pause again."""

_log = logging.getLogger(__name__)


class Task(StrEnum):
    """Something that is served by itself; the ``task`` of the event ``fault``."""

    ACCEPT = "accept"
    ANSWER = "answer"
    CHECK = "check"
    CONNECTION = "connection"
    CONTROL = "control"
    DRAINS = "drains"
    ELSEWHERE = "elsewhere"
    ETCD = "etcd"
    FEATURES = "features"
    GRANTS = "grants"
    HISTORY = "history"
    HTTP = "http"
    LOOKING = "looking"
    LOOKUP = "lookup"
    MESSAGE = "message"
    MOVER = "mover"
    PUMP = "pump"
    REBALANCE = "rebalance"
    RELOAD = "reload"
    REPORT = "report"
    RESTART = "restart"
    ROLL = "roll"
    SEND_OFF = "send-off"
    SERVICE_MANAGER = "service-manager"
    SESSION = "session"
    SHARING = "sharing"
    SIGNAL = "signal"
    SLOT = "slot"
    SOURCE = "source"
    STATE = "state"
    TELLING = "telling"
    TIMERS = "timers"
    UPGRADE = "upgrade"
    USER_MAP = "user-map"
    VACANCY = "vacancy"
    WORKER = "worker"


def report_fault(task: Task, exc: BaseException, **fields: FieldValue) -> None:
    """Log the exception. A group of one is logged as that one."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    emit(_log, "fault", level=logging.ERROR, exc_info=exc, task=str(task), at=_place(exc.__traceback__), **fields)


def _place(traceback: TracebackType | None) -> str | None:
    """Return where it was raised, as ``file.py:12``; by that, one defect is told from another where many are summed
    up."""
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"


class isolated:
    """``with isolated(Task.CHECK, node="n1") as turn:`` keeps a fault in; then ``turn.fault`` is the exception.

    Exceptions in ``passing`` have a meaning outside and are no fault; ``fields`` go to the log.
    """

    __slots__ = ("_fields", "_passing", "_task", "fault")

    def __init__(self, task: Task, passing: tuple[type[Exception], ...] = (), /, **fields: FieldValue) -> None:
        self._task = task
        self._passing = passing
        self._fields = fields
        self.fault: Exception | None = None

    def __enter__(self) -> isolated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if exc is None or isinstance(exc, self._passing):
            return False
        if isinstance(exc, Exception):
            self._note(exc)
            return True
        if isinstance(exc, BaseExceptionGroup):  # cancelled in one task, and a fault in another
            faults, rest = exc.split(Exception)
            if faults is not None and rest is not None:
                self._note(faults)
                raise rest
        return False

    def _note(self, fault: Exception) -> None:
        self.fault = fault
        report_fault(self._task, fault, **self._fields)


async def keep_going(task: Task, serve: Callable[[], Awaitable[object]], **fields: FieldValue) -> None:
    """Call ``serve`` until it returns without a fault, with a pause after each fault."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        began = trio.current_time()
        with isolated(task, (), **fields) as turn:
            await serve()
        if turn.fault is None:
            return
        if trio.current_time() - began >= CALM_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        await trio.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE_SECONDS)


async def once(task: Task, serve: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Call ``serve`` once; a fault ends it."""
    with isolated(task):
        await serve(*arguments)


def start(nursery: trio.Nursery, task: Task, serve: Callable[[], Awaitable[object]], **fields: FieldValue) -> None:
    """Start a task that goes on until ``serve`` returns, or is cancelled; see :func:`keep_going`."""
    nursery.start_soon(partial(keep_going, task, serve, **fields), name=str(task))


def start_once(nursery: trio.Nursery, task: Task, serve: Callable[[], Awaitable[object]]) -> None:
    """Start a task that does one thing; see :func:`once`."""
    nursery.start_soon(once, task, serve, name=str(task))
