"""How far a drain is, and so which of its sessions are moved.

::

    GRACE -> AWAKE -> ALL -> REST            (time goes by)
    ABORTED                                  (an operator has said so, at any of them; a new drain begins over)

The supervisor keeps a drain's :class:`Schedule`, which makes a stage of the time. Workers, which carry the drain out,
are told the stage, and so all do the same, whenever they began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Stage(StrEnum):
    """Which sessions of the node are moved."""

    GRACE = "grace"
    """None: load balancers in front of the proxy, and whoever watches it, have to notice first."""
    AWAKE = "awake"
    """Those whose clients are active. A phone in a pocket would have to be woken, and half of the time is left."""
    ALL = "all"
    """All, inactive ones last."""
    REST = "rest"
    """All: the deadline has passed, and those that are left are closed without being asked."""
    ABORTED = "aborted"
    """None, until there is another command. The node takes nobody new either."""

    @property
    def moves(self) -> bool:
        """Whether any session is moved."""
        return self not in _STANDSTILL


_STANDSTILL: Final[Mapping[Stage, str]] = MappingProxyType(
    {
        Stage.GRACE: "nobody is moved before the grace is over",
        Stage.ABORTED: "the drain was aborted",
    }
)


def standstill(stage: Stage) -> str | None:
    """Return why nobody is moved at that stage; ``None`` where somebody is."""
    return _STANDSTILL.get(stage)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a drain reaches which stage, by whatever clock the schedule was made with. ``halfway`` and ``deadline`` are
    ``None`` where there is no deadline."""

    grace_end: float
    halfway: float | None = None
    deadline: float | None = None

    def changed(self, now: float, *, grace: float | None, deadline: float | None) -> Schedule:
        """Return the schedule as a command given now wants it; both in seconds from ``now``, ``None``: as it was."""
        return Schedule(
            self.grace_end if grace is None else now + grace,
            self.halfway if deadline is None else now + deadline / 2,
            self.deadline if deadline is None else now + deadline,
        )

    def shifted(self, seconds: float) -> Schedule:
        """Return the same schedule by a clock that is so many seconds ahead."""
        return Schedule(
            self.grace_end + seconds,
            self.halfway + seconds if self.halfway is not None else None,
            self.deadline + seconds if self.deadline is not None else None,
        )

    def stage(self, now: float) -> Stage:
        """Return the stage at that time."""
        if self.deadline is not None and now >= self.deadline:
            return Stage.REST
        if now < self.grace_end:
            return Stage.GRACE
        if self.halfway is not None and now < self.halfway:
            return Stage.AWAKE
        return Stage.ALL
