"""Connections that open, each a coroutine that the pump carries on without a trio task: a client's before it has a
session, and one of the proxy's own to a node that is to resume a session.

A connection waits some eight times until it has a session, nearly always for its own socket. In a trio task each wait
costs a round of trio's loop with a registration, a checkpoint and a look at the cancel scopes. So the pump's epoll
wakes these coroutines, too: the code awaits as usual, and each wait in the end is one of the methods of its
:class:`PumpWaits`, which tell the pump which socket is waited for, and suspend.

So *such a coroutine may not await trio*, nor open a cancel scope: there is no task that these would be about. Where it
needs something that only a task can have (a queue, DNS, an HTTP client), it awaits :meth:`PumpWaits.in_trio`.

It runs on the pump's turns, like a session. It gives up where it waits: ``trio.TooSlowError`` is raised there at its
deadline, :class:`GivenUp` when the proxy stops, and ``GeneratorExit`` when it, or all, is to be closed at once.
"""

from __future__ import annotations

import contextlib
import math
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import trio

from cxfr_proxy.net.transport import Transport, Verdict
from cxfr_proxy.relay.poller import IN, OUT, Poller
from cxfr_proxy.relay.timers import Timers
from cxfr_proxy.tasks import Task, report_fault, start_once

T = TypeVar("T")

_WAIT_READABLE: Final = Verdict.WAIT_READABLE
_OVER: Final = Verdict.OVER


class GivenUp(BaseException):
    """The proxy stops: what has no session yet ends. No ``Exception``, as ``trio.Cancelled`` is none."""


@types.coroutine
def _suspend() -> Generator[None, None, None]:
    yield


class PumpWaits:
    """One coroutine as the pump carries it on, and how it waits (:class:`~cxfr_proxy.net.waits.Waits`)."""

    __slots__ = (
        "_coroutine",
        "_deadline",
        "_events",
        "_fd",
        "_id",
        "_openings",
        "_pending",
        "_task",
        "_timer_at",
        "_transport",
        "may_be_given_up",
        "now",
    )

    def __init__(self, openings: Openings, number: int) -> None:
        self._openings = openings
        self._id = number
        self._coroutine: Coroutine[Any, None, None]
        self._fd = -1
        self._events = 0  # what epoll was told of it
        self._transport: Transport | None = None  # whose descriptor that is
        self._deadline = self._timer_at = math.inf
        self._pending: BaseException | None = None  # to be raised where it waits next
        self._task: trio.CancelScope | None = None  # of the task that it waits for
        self.may_be_given_up = False
        """Whether it ends when the proxy stops."""
        self.now = 0.0
        """The time by trio's clock, as of when it was carried on last: what it does until it waits again is short."""

    # --- for the coroutine

    def begin(self, deadline: float) -> None:
        """Have what follows end at the deadline, and with the proxy, until :meth:`settle`. Raises :class:`GivenUp`."""
        self.deadline, self.may_be_given_up = deadline, True
        if self.stopping:
            raise GivenUp

    def settle(self) -> None:
        """Set no deadline any more, and let the end of the proxy pass: it ends by itself soon."""
        self._deadline, self._pending, self.may_be_given_up = math.inf, None, False

    @property
    def deadline(self) -> float:
        """When ``trio.TooSlowError`` is raised where it waits, by trio's clock."""
        return self._deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if deadline < self._timer_at:
            self._timer_at = deadline
            self._openings.timers.set(deadline, self._id)

    @property
    def stopping(self) -> bool:
        """Whether the proxy stops."""
        return self._openings.stopping

    async def call(
        self, transport: Transport, operation: Callable[[], T], doing: Verdict, *, at_once: bool = False
    ) -> T:
        """See :class:`Waits`. To read is waited for first: nearly always there is nothing yet, and epoll says it for
        all connections in one call. So a peer that sends fast is one of many in the pump's turns."""
        if doing is _WAIT_READABLE and not at_once and not transport.pending():
            await self.ready(transport, doing)
        while True:
            try:
                return operation()
            except OSError as exc:
                verdict = transport.judge(exc, doing)
                if verdict is _OVER:
                    raise
            await self.ready(transport, verdict)
            if transport.wants_write:
                transport.write_own()

    @types.coroutine
    def ready(self, transport: Transport, verdict: Verdict) -> Generator[None, None, None]:
        if self._pending is None:
            self._watch(transport, IN if verdict is _WAIT_READABLE else OUT)
            yield
        if self._pending is not None:
            self._raise_pending()

    async def check(self) -> None:
        self._raise_pending()

    def goes_on(self, before: Transport, after: Transport) -> None:
        if self._transport is before:
            self._transport = after  # epoll goes on with it as well

    @contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        before, self.deadline = self._deadline, trio.current_time() + seconds
        try:
            yield
        finally:
            self.deadline = before

    async def in_trio(self, serve: Callable[[], Awaitable[T]]) -> T:
        self.release()
        self._raise_pending()
        results: list[T | BaseException] = []
        self._task = trio.CancelScope()
        start_once(self._openings.tasks, Task.CONNECTION, partial(self._serve_in_trio, self._task, serve, results))
        try:
            await _suspend()
        finally:
            task, self._task = self._task, None
            if not results:
                task.cancel()  # nobody waits for it any more
        if not results:
            self._raise_pending()
        (result,) = results
        if isinstance(result, BaseException):
            raise result
        return result

    async def _serve_in_trio(
        self, scope: trio.CancelScope, serve: Callable[[], Awaitable[T]], results: list[T | BaseException]
    ) -> None:
        try:
            with scope:
                try:
                    results.append(await serve())
                except Exception as exc:
                    results.append(exc)
        except BaseException:
            self._openings.close(self)  # this task is cancelled, and with it all that it is a part of
            raise
        self._openings.carry_on(self)

    def release(self) -> None:
        """Have the pump look at its socket no more: it waits for something else, or the socket is another's now."""
        if self._fd >= 0:
            self._openings.unwatch(self, self._fd)
            self._fd, self._events, self._transport = -1, 0, None

    def hand_over(self, transport: Transport) -> int:
        """Leave this socket to a session, and return the events of it that epoll goes on watching; 0: none."""
        if transport is not self._transport:  # its number may be that of one which was closed
            self.release()
        events, self._fd, self._events, self._transport = self._events, -1, 0, None
        return events

    def _raise_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            raise pending

    def _watch(self, transport: Transport, events: int) -> None:
        if transport is self._transport and events == self._events:
            return
        fd = transport.fileno()
        if fd != self._fd:
            self.release()
        self._openings.watch(self, fd, events, known=fd == self._fd)
        self._fd, self._events, self._transport = fd, events, transport


class Openings:
    """All that there are. ``tasks`` has to be there before one of them needs a task."""

    tasks: trio.Nursery

    def __init__(self, poller: Poller, on_empty: Callable[[], None]) -> None:
        self.timers = Timers(self._on_timer, self._due)
        self.stopping = False
        self.now = 0.0
        """When the pump's turn has begun that is under way."""
        self._poller = poller
        self._on_empty = on_empty
        self._last = 0
        self._all: dict[int, PumpWaits] = {}
        self._by_fd: dict[int, PumpWaits] = {}
        self.new: deque[PumpWaits] = deque()
        """Those that are to begin with the next turn."""

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, serve: Callable[[PumpWaits], Coroutine[Any, None, None]], *, at_once: bool = True) -> PumpWaits:
        """Call ``serve``, and carry it on until it returns; ``at_once`` false: not before the pump's next turn. Return
        how it waits, by which it can be closed."""
        self._last += 1
        opening = self._all[self._last] = PumpWaits(self, self._last)
        opening._coroutine = serve(opening)
        if at_once:
            self.carry_on(opening)
        else:
            self.new.append(opening)
            self._poller.wake()
        return opening

    def begin_new(self) -> None:
        """Begin those that were to wait for the next turn."""
        for _ in range(len(self.new)):
            self.carry_on(self.new.popleft(), self.now)

    def stop(self) -> None:
        """Have all give up that may, and those that come later."""
        self.stopping = True
        for opening in list(self._all.values()):
            if opening.may_be_given_up:
                self._interrupt(opening, GivenUp())

    def close_all(self) -> None:
        """End all at once."""
        self.begin_new()  # what has not begun can't clean up
        for opening in list(self._all.values()):
            self.close(opening)

    def on_ready(self, fd: int) -> bool:
        """Carry that one on which waits for this descriptor; false: nobody does."""
        opening = self._by_fd.get(fd)
        if opening is None:
            return False
        self.carry_on(opening, self.now)
        return True

    def carry_on(self, opening: PumpWaits, now: float | None = None) -> None:
        """Have it run until it waits again. A fault ends this one alone. ``now``: the time, as far as it is known."""
        if opening._id not in self._all:
            return
        opening.now = now if now is not None else trio.current_time()
        try:
            if opening._coroutine.send(None) is not None:
                raise RuntimeError("a connection that opens has awaited trio")
        except (StopIteration, GivenUp):
            self._forget(opening)
        except BaseException as exc:
            self._forget(opening)
            opening._coroutine.close()  # it has not ended where it was it that has awaited trio
            if not isinstance(exc, Exception):
                raise
            report_fault(Task.CONNECTION, exc)

    def close(self, opening: PumpWaits) -> None:
        """End that one at once."""
        if opening._id in self._all:
            self._forget(opening)
            opening._coroutine.close()

    def _forget(self, opening: PumpWaits) -> None:
        opening.release()
        if self._all.pop(opening._id, None) is not None and not self._all:
            self._on_empty()

    def _interrupt(self, opening: PumpWaits, exc: BaseException) -> None:
        """Raise the exception where it waits; where that is for a task, once this has been cancelled."""
        opening._pending = exc
        if opening._task is not None:
            opening._task.cancel()
        elif opening not in self.new:
            self.carry_on(opening)

    def _due(self, when: float, number: int) -> float | None:
        """Return when the deadline is to which it may have been put off since; ``None`` if there is none any more, or
        it was set for what is due earlier."""
        opening = self._all.get(number)
        if opening is None or opening._timer_at != when:
            return None
        opening._timer_at = opening._deadline
        return opening._deadline if opening._deadline < math.inf else None

    def _on_timer(self, when: float, number: int) -> None:
        opening = self._all[number]
        opening._deadline = opening._timer_at = math.inf
        self._interrupt(opening, trio.TooSlowError())

    # --- epoll

    def watch(self, opening: PumpWaits, fd: int, events: int, *, known: bool) -> None:
        """Carry it on at one of these events. ``known``: the descriptor had that number before."""
        self._by_fd[fd] = opening
        self._poller.watch(fd, events, known=known)

    def hand_over(self, transport: Transport) -> int:
        """See :meth:`PumpWaits.hand_over`, if one of these has waited for the socket last."""
        fd = transport.fileno()
        opening = self._by_fd.get(fd)
        if opening is None:
            return 0
        events = opening.hand_over(transport)
        self._by_fd.pop(fd, None)
        return events

    def unwatch(self, opening: PumpWaits, fd: int) -> None:
        if self._by_fd.get(fd) is opening:
            del self._by_fd[fd]
            with contextlib.suppress(OSError):  # it was closed a moment ago, and nobody has got its number yet
                self._poller.unwatch(fd)
