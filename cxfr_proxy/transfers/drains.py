"""The drains under way, and at which pace sessions are moved: what a mover needs besides sessions.

Apart from the mover because where several processes serve, one of them keeps the drains and the pace for all, and the
others move the sessions that they have.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from cxfr_proxy.tasks import Task, isolated
from cxfr_proxy.transfers.drain_stages import Schedule, Stage, standstill
from cxfr_proxy.transfers.pace import TokenBucket
from cxfr_proxy.transfers.registry import NodeCounts

_STAGES_SECONDS: Final = 0.1
"""Between two looks at what has come to its end, at least."""
_STAGES_SHARE: Final = 0.05
"""Of the time, for these looks: thousands of nodes can be leaving."""


@dataclass(slots=True)
class Drain:
    """A drain under way. Counts are the node's since the drain began."""

    node: str
    total: int
    asked_before: int
    moved_before: int
    refused_before: int
    silent_before: int
    failed_before: int
    returned_before: int = 0
    stage: Stage = Stage.ALL
    schedule: Schedule | None = None
    """``None``: the stage is not for the clock to say; it was aborted, or another process keeps the drain."""
    done: bool = False
    """The node was seen empty, and nobody awaited."""
    waiting_reason: str | None = None
    """Why nobody can be moved, as its sessions' turns have shown; ``None`` while there is no reason not to."""

    @property
    def deadline(self) -> float | None:
        """By the clock; ``None``: none."""
        return self.schedule.deadline if self.schedule is not None else None

    @property
    def over(self) -> bool:
        """Nobody is moved for it any more."""
        return self.done or self.stage is Stage.ABORTED

    @property
    def reason(self) -> str | None:
        """Why nobody is being moved; ``None`` while somebody is."""
        return standstill(self.stage) or self.waiting_reason


class Pace(Protocol):
    """Where a mover gets its tokens from: one for each session that it gives an order."""

    async def wait(self) -> None:
        """Return when a token is at hand; it stays until it is spent."""

    def spend(self) -> None:
        """Use the token."""

    def rest(self) -> None:
        """Nobody is to be moved now: tokens at hand are of no use."""

    def queued(self, *, lost: int, leaving: int, misplaced: int) -> None:
        """How many wait for being moved, without a node, with one that is being emptied, and with one that is only not
        theirs; called whenever there are more."""

    def set_rate(self, rate: float) -> None:
        """In sessions a second, from now on."""


class OwnPace:
    """One token bucket: of the mover's own, where it is the only one. ``rate`` in clients a second."""

    def __init__(self, rate: float, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._bucket = TokenBucket(rate, _burst(rate))
        self._rate_changed = trio.Event()

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        while delay := self._bucket.delay(self._clock()):
            with trio.move_on_after(delay):
                await self._rate_changed.wait()

    def spend(self) -> None:
        self._bucket.take(self._clock())

    def put_back(self) -> None:
        """One that was spent was of no use."""
        self._bucket.put_back(self._clock())
        self._wake()

    def rest(self) -> None:
        pass

    def queued(self, *, lost: int, leaving: int, misplaced: int) -> None:
        pass

    def set_rate(self, rate: float) -> None:
        self._bucket.set_rate(rate, self._clock(), _burst(rate))
        self._wake()

    def _wake(self) -> None:
        self._rate_changed.set()
        self._rate_changed = trio.Event()


def _burst(rate: float) -> float:
    """Half a second's worth at once: enough not to be late, too little to be a storm."""
    return max(1.0, rate / 2)


class Rate:
    """At which rate sessions are moved: the usual one, or one that was asked for, until nobody has anything to move."""

    def __init__(self, pace: Pace, usual: float) -> None:
        self._pace = pace
        self._usual = self.now = usual
        self.share = 1.0
        """Which part of it is this proxy's, where several have one together."""
        self._users: list[Callable[[], bool]] = []

    def add_user(self, busy: Callable[[], bool]) -> None:
        self._users.append(busy)

    def ask(self, rate: float) -> None:
        self.now = rate
        self._pace.set_rate(rate * self.share)

    def set_share(self, share: float) -> None:
        """Of the usual rate, and of any other; 0 to 1."""
        self.share = share
        self.ask(self.now)

    def restore(self) -> None:
        """Somebody has nothing to move any more."""
        if self.now != self._usual and not any(busy() for busy in self._users):
            self.ask(self._usual)


class Drains:
    """The drains by node.

    ``counts_of`` gives a node's counts as they stand, ``awaited`` how many of those that were cut from it may still
    come for their sessions. ``advanced`` is called with a drain that has come to another stage, unless it has just been
    begun; ``look_after`` again and again with the name of each node that is not empty yet. ``report`` is told what
    becomes of a drain: ``drain-begins``, ``drain-waits`` (for a node to take its clients, say), ``drain-aborted``, and
    ``drain-ends`` when it is empty.
    """

    def __init__(
        self,
        rate: Rate,
        *,
        counts_of: Callable[[str], NodeCounts],
        awaited: Callable[[str], int],
        advanced: Callable[[Drain], None],
        look_after: Callable[[str], None] | None = None,
        report: Callable[[str, Drain], None] | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._rate = rate
        self._counts_of = counts_of
        self._awaited = awaited
        self._advanced = advanced
        self._look_after = look_after
        self._report = report
        self._clock = clock
        self.by_node: dict[str, Drain] = {}
        rate.add_user(lambda: any(not drain.over for drain in self.by_node.values()))

    def begin(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> Drain:
        """A drain of that node, the one that runs if there is one; arguments as for :meth:`Mover.drain`."""
        drain, now = self._of(node), self._clock()
        schedule = (drain.schedule or Schedule(now)).changed(now, grace=grace, deadline=deadline)
        return self._go_by(drain, schedule, rate)

    def adopt(self, node: str, schedule: Schedule | None, rate: float | None) -> Drain:
        """A drain of that node, as another proxy was told of it; no ``schedule``: it was aborted."""
        drain = self._of(node)
        if schedule is not None:
            return self._go_by(drain, schedule, rate)
        if drain.stage is not Stage.ABORTED:
            self.abort(node)
        return drain

    def _go_by(self, drain: Drain, schedule: Schedule, rate: float | None) -> Drain:
        drain.schedule = schedule
        drain.stage = schedule.stage(self._clock())
        drain.waiting_reason = None
        if drain.done:  # somebody is there again, or not: it is looked at once more
            drain.done = False
            self._tell("drain-begins", drain)
        if rate is not None:
            self._rate.ask(rate)
        return drain

    def follow(self, node: str, stage: Stage) -> Drain:
        """A drain of that node that another process keeps, and which is there by now."""
        drain = self._of(node)
        drain.waiting_reason = None
        self._enter(drain, stage)
        return drain

    def abort(self, node: str) -> None:
        """Move nobody any more. Its deadline is void; a drain that is begun again says its own."""
        drain = self.by_node[node]
        drain.schedule = None
        self._enter(drain, Stage.ABORTED)
        self._rate.restore()
        self._tell("drain-aborted", drain)

    def _of(self, node: str) -> Drain:
        drain = self.by_node.get(node)
        if drain is None:
            counts = self._counts_of(node)
            drain = self.by_node[node] = Drain(
                node,
                counts.sessions,
                counts.asked,
                counts.moved,
                counts.refused,
                counts.silent,
                counts.failed,
                counts.returned,
            )
            self._tell("drain-begins", drain)
        return drain

    def _enter(self, drain: Drain, stage: Stage) -> None:
        if stage is not drain.stage:
            drain.stage = stage
            drain.waiting_reason = None
            self._advanced(drain)

    def end(self, node: str) -> None:
        """There is nothing to empty any more. Who ends it because the node is empty may have seen that first."""
        drain = self.by_node.pop(node, None)
        if drain is not None and not drain.done and self._is_empty(node):
            self._finish(drain)
        else:
            self._rate.restore()

    def waits(self, drain: Drain, reason: str | None) -> None:
        """Nobody is being moved, and why; ``None``: somebody is."""
        news = reason is not None and drain.waiting_reason is None
        drain.waiting_reason = reason
        if news:
            self._tell("drain-waits", drain)

    def _tell(self, what: str, drain: Drain) -> None:
        if self._report is not None:
            self._report(what, drain)

    async def watch(self) -> None:
        """See drains end and stages come, until cancelled."""
        took = 0.0
        while True:
            await trio.sleep(max(_STAGES_SECONDS, took / _STAGES_SHARE))
            began, now = time.thread_time(), self._clock()
            for drain in list(self.by_node.values()):
                with isolated(Task.DRAINS, node=drain.node):
                    if not drain.done:
                        self._see(drain)
                    if drain.schedule is not None:
                        self._enter(drain, drain.schedule.stage(now))
            took = time.thread_time() - began

    def _is_empty(self, node: str) -> bool:
        return not self._counts_of(node).sessions and not self._awaited(node)

    def _finish(self, drain: Drain) -> None:
        drain.done = True
        drain.waiting_reason = None
        self._rate.restore()
        self._tell("drain-ends", drain)

    def _see(self, drain: Drain) -> None:
        if self._is_empty(drain.node):
            self._finish(drain)
        elif self._look_after is not None and drain.stage.moves:
            self._look_after(drain.node)
