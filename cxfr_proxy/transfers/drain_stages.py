"""How far a drain is, and so who of its sessions is moved.

::

    GRACE -> AWAKE -> ALL -> REST            (time goes by)
    ABORTED                                  (an operator has said so, at any of them; a new drain begins over)

Whoever keeps a drain has its :class:`Schedule`, which tells the stage from the clock. Who only carries it out, as a
worker does, is told the stage, and so does the same whenever it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Stage(StrEnum):
    GRACE = "grace"
    """Nobody is moved: who stands in front of the proxy, or watches it, has to notice first."""
    AWAKE = "awake"
    """Clients that are in use. A phone in a pocket would have to be woken for it, and half of the time is left."""
    ALL = "all"
    """Everybody, and those that are not in use last."""
    REST = "rest"
    """The deadline has passed: who is left is closed without being asked."""
    ABORTED = "aborted"
    """Nobody, until there is another order. Nobody new comes either."""

    @property
    def moves(self) -> bool:
        """Whether somebody is moved at all."""
        return self not in _STANDSTILL


_STANDSTILL: Final[Mapping[Stage, str]] = MappingProxyType(
    {
        Stage.GRACE: "nobody is moved before the grace is over",
        Stage.ABORTED: "the drain was aborted",
    }
)


def standstill(stage: Stage) -> str | None:
    """Why nobody is moved at that stage; ``None`` where somebody is."""
    return _STANDSTILL.get(stage)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a drain reaches which stage, by whatever clock it was made with. ``halfway`` and ``deadline`` are ``None``
    where there is no deadline."""

    grace_end: float
    halfway: float | None = None
    deadline: float | None = None

    def changed(self, now: float, *, grace: float | None, deadline: float | None) -> Schedule:
        """As an order of this instant wants it; both in seconds from ``now``, ``None``: as it was."""
        return Schedule(
            self.grace_end if grace is None else now + grace,
            self.halfway if deadline is None else now + deadline / 2,
            self.deadline if deadline is None else now + deadline,
        )

    def shifted(self, seconds: float) -> Schedule:
        """The same by a clock that is so far ahead of this one's."""
        return Schedule(
            self.grace_end + seconds,
            self.halfway + seconds if self.halfway is not None else None,
            self.deadline + seconds if self.deadline is not None else None,
        )

    def stage(self, now: float) -> Stage:
        if self.deadline is not None and now >= self.deadline:
            return Stage.REST
        if now < self.grace_end:
            return Stage.GRACE
        if self.halfway is not None and now < self.halfway:
            return Stage.AWAKE
        return Stage.ALL
