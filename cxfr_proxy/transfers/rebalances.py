"""The rebalances, as the supervisor keeps them; workers carry them out.

One rebalance runs at a time, and the next one takes its place: a list of nodes that has changed again makes the old
plan worthless. Workers are told of a rebalance as a state, with a number. A worker that sees a number for the first
time plans for the sessions that it has, and so does a worker that begins later. When no session is left to be moved,
the rebalance is over, and its number is sent no more.

A client that was moved less than ``redirect-window`` ago is not moved again. Such sessions are *held*, and reported as
held. When the window is over for all of them, another rebalance begins by itself, for them alone, unless something else
begins one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from cxfr_proxy.transfers.pace import Rate
from cxfr_proxy.units import counted

_WATCH_SECONDS: Final = 0.1
_MARGIN_SECONDS: Final = 0.5
"""Seconds added to a time that a worker reports: the report may be so old, and clocks differ."""


@dataclass(frozen=True, slots=True)
class RebalanceTerms:
    """The rebalance that goes on, as workers are told of it. ``max_share``: at most so many percent of each node's
    sessions are moved; ``None``: all that have to. ``again``: only those that the last one has held."""

    number: int
    max_share: float | None = None
    again: bool = False


@dataclass(slots=True)
class RebalanceCounts:
    """The outcome of the rebalance with that ``number``, in one process or in all. ``planned`` sessions were to be
    moved when it began, and ``left`` are waiting or being asked. ``held`` were moved too lately to be moved again; all
    of them may be moved in ``held_seconds``."""

    number: int = 0
    planning: bool = False
    planned: int = 0
    asked: int = 0
    moved: int = 0
    refused: int = 0
    silent: int = 0
    failed: int = 0
    left: int = 0
    held: int = 0
    held_seconds: float = 0.0

    def include(self, other: RebalanceCounts) -> None:
        """Add the counts of another process, if they are about the same rebalance."""
        if other.number == self.number:
            self.planning |= other.planning
            self.planned += other.planned
            self.asked += other.asked
            self.moved += other.moved
            self.refused += other.refused
            self.silent += other.silent
            self.failed += other.failed
            self.left += other.left
            self.held += other.held
            self.held_seconds = max(self.held_seconds, other.held_seconds)


@dataclass(eq=False, slots=True)
class Rebalance:
    """A rebalance. ``reason``: why it began by itself; ``None``: by a command. ``ended``: what ended it, once it is
    over; empty if all sessions were asked. ``again_at``: when those that it has held are to be moved, by the clock."""

    terms: RebalanceTerms
    reason: str | None
    counts: RebalanceCounts = field(default_factory=RebalanceCounts)
    planned: bool = False
    ended: str | None = None
    again_at: float | None = None

    @property
    def number(self) -> int:
        return self.terms.number

    def held_reason(self, now: float) -> str | None:
        """Return why some sessions are left although all were asked, and what follows; ``None``: none are."""
        if not self.counts.held:
            return None
        then = f", and are looked at again in {self.again_at - now:.0f} s" if self.again_at is not None else ""
        return f"{self.counts.held} were moved less than redirect-window ago{then}"


class RebalanceHost(Protocol):
    """The part of the proxy that has rebalances carried out."""

    def follow_rebalance(self, rebalance: RebalanceTerms | None) -> None:
        """Tell all workers which rebalance runs; ``None``: none."""

    def counts_of_rebalance(self, number: int) -> RebalanceCounts | None:
        """Return how far that one is; ``None``: not all workers have reported yet."""

    def report_rebalance(self, event: str, rebalance: Rebalance) -> None:
        """Report its event: ``rebalance-begins`` or ``rebalance-ends``."""


class Rebalances:
    """All rebalances, one after the other, by trio's clock."""

    def __init__(self, rate: Rate, host: RebalanceHost) -> None:
        self._rate = rate
        self._host = host
        self.last: Rebalance | None = None
        rate.add_user(self)

    @property
    def busy(self) -> bool:
        """Whether one runs."""
        return self.current is not None

    @property
    def current(self) -> Rebalance | None:
        """The one that runs."""
        return self.last if self.last is not None and self.last.ended is None else None

    def begin(
        self,
        *,
        rate: float | None = None,
        max_share: float | None = None,
        reason: str | None = None,
        again: bool = False,
    ) -> Rebalance:
        """Begin a rebalance for the nodes as they are now, in place of one that goes on.

        ``rate`` replaces the usual one until it is over. ``again``: for those that the last one has held.
        """
        number = self.last.number + 1 if self.last is not None else 1
        if self.current is not None:
            self._end(self.current, "another one has begun")
        self._forget_held()
        self.last = Rebalance(RebalanceTerms(number, max_share, again), reason, RebalanceCounts(number))
        if rate is not None:
            self._rate.ask(rate)
        self._host.follow_rebalance(self.last.terms)
        return self.last

    def stop(self) -> bool:
        """Ask no more clients, those that are held included. Return whether there was anything to stop.

        Clients that were asked already may still go.
        """
        if self.current is None:
            return self._forget_held()
        self._end(self.current, "it was stopped")
        self._host.follow_rebalance(None)
        return True

    def _forget_held(self) -> bool:
        """Have no rebalance begin for those that are held. Return whether one would have."""
        waited = self.last is not None and self.last.again_at is not None
        if self.last is not None:
            self.last.again_at = None
        return waited

    def _end(self, rebalance: Rebalance, why: str) -> None:
        self._see(rebalance)
        rebalance.ended = why
        if rebalance.counts.held and not why:
            rebalance.again_at = trio.current_time() + rebalance.counts.held_seconds + _MARGIN_SECONDS
        self._rate.restore()
        # One that began by itself and had nothing to do is not worth reporting.
        if rebalance.counts.planned or rebalance.reason is None:
            self._host.report_rebalance("rebalance-ends", rebalance)

    def _see(self, rebalance: Rebalance) -> None:
        counts = self._host.counts_of_rebalance(rebalance.number)
        if counts is None:
            return
        rebalance.counts = counts
        if not rebalance.planned and not counts.planning:
            rebalance.planned = True
            if counts.planned or rebalance.reason is None:
                self._host.report_rebalance("rebalance-begins", rebalance)

    def look(self) -> None:
        """Note how far it is, and begin another one if it is time for those that were held."""
        last = self.last
        if last is not None and last.again_at is not None and trio.current_time() >= last.again_at:
            self.begin(reason=f"{counted(last.counts.held, 'session')} had been moved too lately", again=True)
        rebalance = self.current
        if rebalance is not None:
            self._see(rebalance)
            if rebalance.planned and rebalance.counts.left <= 0:
                self._end(rebalance, "")
                self._host.follow_rebalance(None)

    async def watch(self) -> None:
        """Have it end when nobody is left to be moved; until cancelled."""
        while True:
            await trio.sleep(_WATCH_SECONDS)
            self.look()


def total(number: int, counts: Iterable[RebalanceCounts]) -> RebalanceCounts:
    """Return the sum of all processes' counts."""
    result = RebalanceCounts(number)
    for each in counts:
        result.include(each)
    return result
