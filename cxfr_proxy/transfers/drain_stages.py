"""The stage of a drain, and so which of its sessions are moved.

::

    GRACE -> AWAKE -> ALL -> REST            (time goes by)
    ABORTED                                  (by an operator's command, at any stage; a new drain begins again)

The supervisor keeps a drain's :class:`Schedule`, from which the stage follows at any time. Workers carry the drain out
and are told the stage, so all do the same, whenever they began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

_AHEAD: Final = 0.1
"""The share of its sessions by which a late drain has to come ahead before it is late no more. Otherwise the pace would
change each time that it crosses the line, to which it falls back as soon as it goes slower. Where that is more than may
be left, it hurries to its end."""


class Stage(StrEnum):
    """Which sessions of the node are moved."""

    GRACE = "grace"
    """None: load balancers in front of the proxy, and monitoring, have to notice first."""
    AWAKE = "awake"
    """Those whose clients are active. A phone in a pocket would have to be woken, and there is time: half of it is
    left."""
    ALL = "all"
    """All, inactive ones last."""
    REST = "rest"
    """All: the deadline has passed, and sessions that are left are closed without being asked."""
    ABORTED = "aborted"
    """None, until there is another command. The node takes no new sessions either."""

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
    """Return why no session is moved at that stage; ``None`` if some are."""
    return _STANDSTILL.get(stage)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The times of a drain's stages, by the clock with which the schedule was made. ``halfway`` and ``deadline`` are
    ``None`` if there is no deadline."""

    grace_end: float
    halfway: float | None = None
    deadline: float | None = None

    def changed(self, now: float, *, grace: float | None, deadline: float | None) -> Schedule:
        """Return the schedule as changed by a command that is given now; both in seconds from ``now``, ``None``: as it
        was."""
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

    def is_late(self, now: float, *, left: int, total: int, already: bool = False) -> bool:
        """Return whether more of the node's ``total`` sessions are left, in the second half of the time, than if equal
        shares of them left in equal times. One that is late ``already`` stays so until it is well ahead of that."""
        if self.deadline is None or self.stage(now) is not Stage.ALL:
            return False
        due = total * (self.deadline - now) / (self.deadline - self.grace_end)
        return left > (max(0.0, due - total * _AHEAD) if already else due)
