"""How exactly a rate was held, by when each client had its turn.

The plan is what the proxy promises: so many seconds' worth may go at once, and then one every 1/rate seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.fleet import Counted
from bench.plots import Lines

BURST_SECONDS = 0.5
"""Of a drain."""


@dataclass(frozen=True, slots=True)
class Pace:
    """``held`` is clients a second from a second after the first on; ``least`` and ``most`` of a whole second of them.

    ``behind`` and ``ahead`` of the plan, in seconds, was the client that was worst off. ``first``: in the first second.
    """

    held: float
    least: int
    most: int
    behind: float
    ahead: float
    first: int


def told_at(counted: Counted) -> list[float]:
    """When each client was told to go, as :func:`since_first`."""
    return since_first(counted.asked)


def since_first(instants: Sequence[float]) -> list[float]:
    """In seconds after the first one, in order, to the tenth of a millisecond."""
    ordered = sorted(instants)
    return [round(at - ordered[0], 4) for at in ordered]


def pace_of(told: Sequence[float], rate: float, burst_seconds: float = BURST_SECONDS) -> Pace:
    """Against what the proxy promises."""
    burst = _burst(rate, burst_seconds)
    off = [at - (index - burst) / rate for index, at in enumerate(told) if index >= burst]
    steady = [at for at in told if at >= 1.0]
    if len(steady) < 2 or not off:
        return Pace(float("nan"), 0, 0, 0.0, 0.0, len(told))
    in_second = _by_second(told)[1:-1] or [len(steady)]
    return Pace(
        held=(len(steady) - 1) / (steady[-1] - steady[0]),
        least=min(in_second),
        most=max(in_second),
        behind=max(0.0, *off),
        ahead=max(0.0, -min(off)),
        first=len(told) - len(steady),
    )


def _burst(rate: float, seconds: float) -> int:
    return int(max(1.0, rate * seconds))


def _by_second(told: Sequence[float]) -> list[int]:
    """How many were told in each; the last one is not over."""
    counts = [0] * (int(told[-1]) + 1)
    for at in told:
        counts[int(at)] += 1
    return counts


def pace_panels(told: Sequence[float], rate: float) -> list[Lines]:
    """All that were told so far, and how many in each second, each beside the plan."""
    if not told:
        return []
    end, burst = told[-1], _burst(rate, BURST_SECONDS)
    plan = [(0.0, float(burst)), (max(0.0, (len(told) - burst) / rate), float(len(told)))]
    so_far = [(at, float(index)) for index, at in enumerate(told, 1)]
    counts = _by_second(told)[:-1]
    seconds = [(float(second), float(count)) for second, count in enumerate([*counts, *counts[-1:]])]
    level = [(0.0, rate), (end, rate)]
    return [
        Lines("clients told to go, so far", "seconds", "clients", {"proxy": so_far, "plan": plan}),
        Lines("clients told in each second", "seconds", "clients", {"proxy": seconds, "plan": level}, steps=True),
    ]
