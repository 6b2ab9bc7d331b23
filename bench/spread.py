"""One figure, measured in several rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """``values`` has one for each round, in their order: the n-th of two spreads were measured one after the other."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def minus(self, other: Spread) -> Spread:
        """Round by round."""
        return Spread.of(mine - theirs for mine, theirs in zip(self.values, other.values, strict=True))

    def scaled(self, factor: float) -> Spread:
        return Spread.of(value * factor for value in self.values)

    def show(self, scale: float = 1.0, digits: int = 1) -> str:
        """``median (min-max)``, or the one value there is."""
        low, middle, high = (f"{value * scale:,.{digits}f}" for value in (self.low, self.median, self.high))
        return middle if len(self.values) == 1 else f"{middle} ({low}-{high})"


def ratio(mine: Spread | None, theirs: Spread | None) -> Spread | None:
    """Round by round, for what slowed one round down slowed both. Its median is the ratio to quote.

    Rounds in which there is nothing to divide by are left out; ``None`` where no round, or one of the two, is there.
    """
    if mine is None or theirs is None:
        return None
    pairs = zip(mine.values, theirs.values, strict=True)
    ratios = tuple(one / other for one, other in pairs if other > 0)
    return Spread(ratios) if ratios else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least that share of all below it; NaN where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
