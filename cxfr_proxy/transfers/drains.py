"""The drains under way, as the supervisor keeps them for all workers.

A worker is told only the stage of each (:mod:`.drain_stages`), and moves the sessions that it has (:mod:`.leaving`).

A node that is empty *settles*: the sessions that have moved away could still die with it, so its drain is done only
some seconds after the last of them has left.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from cxfr_proxy.speed import Speed
from cxfr_proxy.tasks import Task, isolated
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drain_stages import Schedule, Stage, standstill
from cxfr_proxy.transfers.pace import Rate
from cxfr_proxy.transfers.statistics import TriedRung

_STAGES_SECONDS: Final = 0.1
"""Least seconds between two looks at drains that may have ended or changed their stage."""
_STAGES_SHARE: Final = 0.05
"""Largest share of the time for these looks: thousands of nodes can be leaving."""
_SPEED_SECONDS: Final = 1.0
"""Between two looks at how fast they go."""
_LATE_SECONDS: Final = 10.0
"""The past that counts for that."""


def _new_speed() -> Speed:
    return Speed(_LATE_SECONDS, _SPEED_SECONDS)


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
    """``None``: the clock does not change the stage, since the drain was aborted."""
    settled_at: float | None = None
    """From when on the empty node can be stopped, by the clock; ``None``: it has sessions, or clients are awaited."""
    done: bool = False
    """The node was seen to be empty, no client was awaited, and it has settled."""
    waiting_reason: str | None = None
    """Why no session can be moved, as their turns have shown; ``None`` while there is no reason."""
    tried_before: Counter[TriedRung] = field(default_factory=Counter)
    """The rungs that had been tried on clients of the node when the drain began."""
    late: bool = False
    """It may not be over at its deadline, if it goes on like this."""
    per_second: float | None = None
    """How many clients have moved a second of late; ``None``: too little was seen."""
    _speed: Speed = field(default_factory=_new_speed)

    @property
    def deadline(self) -> float | None:
        """The deadline by the clock; ``None``: none."""
        return self.schedule.deadline if self.schedule is not None else None

    @property
    def over(self) -> bool:
        """No session is moved for it any more."""
        return self.done or self.stage is Stage.ABORTED

    @property
    def reason(self) -> str | None:
        """Why no session is being moved; ``None`` while some are."""
        return standstill(self.stage) or self.waiting_reason

    def note_moved(self, now: float, moved: int) -> None:
        """Note how many clients have moved by now."""
        self.per_second = self._speed.note(now, moved)

    def rest(self) -> None:
        """Forget how fast it went: nobody is moved now, and that says nothing of later."""
        if self.per_second is not None:
            self.per_second, self._speed = None, _new_speed()

    def settling_seconds(self, now: float) -> float | None:
        """Return for how long the empty node must not be stopped yet; ``None``: it has sessions, or can be stopped."""
        return self.settled_at - now if self.settled_at is not None and self.settled_at > now else None


class DrainHost(Protocol):
    """The part of the proxy that empties the nodes."""

    def of_node(self, node: str) -> NodeCounts:
        """Return the node's counts as they stand."""

    def tried_on(self, node: str) -> Counter[TriedRung]:
        """Return how often which rung was tried on clients of the node, and how that ended."""

    def awaited(self, node: str) -> int:
        """Return how many clients that were cut from the node may still come for their sessions."""

    def last_move(self, node: str) -> float:
        """Return when a session has moved away from the node last, by the clock; minus infinity: none has."""

    def settle_seconds(self, node: str) -> float:
        """Return how long after that the node has to go on."""

    def is_paced(self) -> bool:
        """Return whether moves go as slowly as they do so that clients are held for short times."""

    def stage_changed(self, drain: Drain) -> None:
        """Take note of a drain's new stage, or that it is late, or no more; not called for one that has just begun."""

    def report(self, event: str, drain: Drain) -> None:
        """Report an event of a drain: ``drain-begins``, ``drain-waits`` (for a node to take its clients, say),
        ``drain-aborted``, and ``drain-ends`` when the node is empty and has settled."""


class Drains:
    """The drains by node."""

    def __init__(self, rate: Rate, host: DrainHost) -> None:
        self._rate = rate
        self._host = host
        self.by_node: dict[str, Drain] = {}
        self.paced_rate: float | None = None
        """How many clients have moved a second when it was not the rate that bounded that; ``None``: it always was."""
        self._speed_due = -math.inf
        rate.add_user(self)

    @property
    def busy(self) -> bool:
        """Whether sessions are still moved for one of them."""
        return any(not drain.over for drain in self.by_node.values())

    def begin(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> Drain:
        """Begin a drain of that node, or have the one that runs, or was aborted, go on with other terms.

        ``grace`` and ``deadline`` in seconds from now: no session is moved before the grace is over, and after the
        deadline the rest is closed without being asked. ``rate``, in clients a second, replaces the usual one until the
        drain is over.
        """
        drain, now = self._of(node), trio.current_time()
        schedule = (drain.schedule or Schedule(now)).changed(now, grace=grace, deadline=deadline)
        return self._go_by(drain, schedule, rate)

    def adopt(self, node: str, schedule: Schedule | None, rate: float | None) -> Drain:
        """Take over a drain of that node that another proxy was told of; no ``schedule``: it was aborted."""
        drain = self._of(node)
        if schedule is not None:
            return self._go_by(drain, schedule, rate)
        if drain.stage is not Stage.ABORTED:
            self.abort(node)
        return drain

    def _go_by(self, drain: Drain, schedule: Schedule, rate: float | None) -> Drain:
        drain.schedule = schedule
        drain.stage = schedule.stage(trio.current_time())
        drain.waiting_reason = None
        if drain.done:  # there may be sessions again, so it is looked at once more
            drain.done, drain.settled_at = False, self._settled_if_empty(drain.node)
            self._host.report("drain-begins", drain)
        if rate is not None:
            self._rate.ask(rate)
        return drain

    def abort(self, node: str) -> None:
        """Move no more sessions. The deadline is void; a drain that is begun again has its own."""
        drain = self.by_node[node]
        drain.schedule, drain.late = None, False
        self._enter(drain, Stage.ABORTED)
        self._rate.restore()
        self._host.report("drain-aborted", drain)

    def _of(self, node: str) -> Drain:
        drain = self.by_node.get(node)
        if drain is None:
            counts = self._host.of_node(node)
            drain = self.by_node[node] = Drain(
                node,
                counts.sessions,
                counts.asked,
                counts.moved,
                counts.refused,
                counts.silent,
                counts.failed,
                counts.returned,
                settled_at=self._settled_if_empty(node),
                tried_before=self._host.tried_on(node).copy(),
            )
            self._host.report("drain-begins", drain)
        return drain

    def _enter(self, drain: Drain, stage: Stage) -> None:
        if stage is not drain.stage:
            drain.stage = stage
            drain.waiting_reason = None
            self._host.stage_changed(drain)

    def end(self, node: str) -> None:
        """Forget the drain: there is nothing to empty any more. The node may be empty without having been seen so."""
        drain = self.by_node.pop(node, None)
        if drain is not None and not drain.done and self._is_empty(node):
            self._finish(drain)
        else:
            self._rate.restore()

    def waits(self, drain: Drain, reason: str | None) -> None:
        """Note why no session is being moved; ``None``: some are."""
        news = reason is not None and drain.waiting_reason is None
        drain.waiting_reason = reason
        if news:
            self._host.report("drain-waits", drain)

    async def watch(self) -> None:
        """Have drains end, and come to their next stages, until cancelled."""
        took = 0.0
        while True:
            await trio.sleep(max(_STAGES_SECONDS, took / _STAGES_SHARE))
            began, now = time.thread_time(), trio.current_time()
            if now >= self._speed_due:
                self._speed_due = now + _SPEED_SECONDS
                self._note_speed(now)
            for drain in list(self.by_node.values()):
                # A fault in one drain must not stop the others.
                with isolated(Task.DRAINS, node=drain.node):
                    if not drain.done:
                        self._see(drain)
                    if drain.schedule is not None:
                        self._follow(drain, drain.schedule, now)
            # CPU time: a busy machine must not make the looks rare.
            took = time.thread_time() - began

    def _follow(self, drain: Drain, schedule: Schedule, now: float) -> None:
        self._enter(drain, schedule.stage(now))
        left = self._host.of_node(drain.node).sessions
        late = schedule.is_late(now, left=left, total=drain.total, already=drain.late)
        if late is not drain.late:
            drain.late = late
            self._host.stage_changed(drain)

    def _note_speed(self, now: float) -> None:
        for drain in self.by_node.values():
            if drain.stage.moves and not drain.done:
                drain.note_moved(now, self._host.of_node(drain.node).moved)
            else:
                drain.rest()
        rate = sum(drain.per_second or 0.0 for drain in self.by_node.values())
        if rate and self._host.is_paced():
            self.paced_rate = rate

    def is_done(self, node: str) -> bool:
        """Look at the node's drain once more; return whether it is done, or there is none."""
        drain = self.by_node.get(node)
        if drain is not None and not drain.done:
            self._see(drain)
        return drain is None or drain.done

    def _settled_if_empty(self, node: str) -> float | None:
        """Return from when on a node can be stopped whose drain begins; ``None``: it is not empty."""
        return self._host.last_move(node) + self._host.settle_seconds(node) if self._is_empty(node) else None

    def _is_empty(self, node: str) -> bool:
        return not self._host.of_node(node).sessions and not self._host.awaited(node)

    def _finish(self, drain: Drain) -> None:
        drain.done = True
        drain.waiting_reason = None
        self._rate.restore()
        self._host.report("drain-ends", drain)

    def _see(self, drain: Drain) -> None:
        if not self._is_empty(drain.node):
            drain.settled_at = None
            return
        now = trio.current_time()
        # A session that was cut has moved for some time when it is resumed elsewhere, and leaves only then. The report
        # of the last one that has moved may come behind the counts.
        left = now if drain.settled_at is None else -math.inf
        settled = max(left, self._host.last_move(drain.node)) + self._host.settle_seconds(drain.node)
        drain.settled_at = max(settled, drain.settled_at if drain.settled_at is not None else -math.inf)
        if now >= drain.settled_at:
            self._finish(drain)
