"""A token bucket that is told the time.

The bucket starts full. It keeps how many tokens are *missing*, and at which instant, not how many are in it: so a full
bucket needs no instant at all, and none has to be invented before the first token is taken.

A task that waits for :meth:`TokenBucket.delay` seconds and tries again succeeds: ``delay`` and ``take`` compare with
the same instant, and rounding is made up for. Otherwise a task that waits at a large clock value would be told, for
ever, to wait for less than the clock can show.
"""

from __future__ import annotations

import math


class TokenBucket:
    """At most ``burst + rate * t`` tokens in any window of ``t`` seconds.

    ``rate`` is in tokens per second, 0 gives none (a pause); ``burst`` is the bucket's size, at least 1, or
    no token would ever fit. ``now`` is in seconds of any one monotonic clock; a step back counts as no time
    at all.

    Raises :class:`ValueError` for a rate or a burst that is out of range or not finite.
    """

    __slots__ = ("_at", "_missing", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = _checked(rate)
        self.burst = _checked_burst(burst)
        self._missing = 0.0
        self._at = -math.inf

    def __repr__(self) -> str:
        return f"<TokenBucket {self.rate}/s, burst {self.burst}>"

    def delay(self, now: float) -> float:
        """Return the seconds until a token is there: 0 if one is, ``math.inf`` if none will come at this rate."""
        due = self._due()
        if now >= due:
            return 0.0
        delay = due - now
        return delay if now + delay >= due else delay + math.ulp(due)  # the sum was rounded down

    def take(self, now: float) -> bool:
        """Take one token if there is one. Return whether there was."""
        if now < self._due():
            return False
        self._missing = min(self.burst, self._missing_at(now) + 1.0)
        self._at = max(self._at, now)
        return True

    def put_back(self, now: float) -> None:
        """Put back a token that was taken in vain, as if it had stayed in the bucket."""
        self._missing = max(0.0, self._missing_at(now) - 1.0)
        self._at = max(self._at, now)

    def set_rate(self, rate: float, now: float, burst: float | None = None) -> None:
        """Fill at another rate from now on. The tokens in the bucket stay; with a smaller ``burst``, those that fit."""
        rate = _checked(rate)
        there = self.burst - self._missing_at(now)
        self._at = max(self._at, now)
        self.rate = rate
        if burst is not None:
            self.burst = _checked_burst(burst)
        self._missing = self.burst - min(there, self.burst)

    def _missing_at(self, now: float) -> float:
        if not self._missing or now <= self._at:
            return self._missing
        return max(0.0, self._missing - (now - self._at) * self.rate)

    def _due(self) -> float:
        """Return the instant from which on a token is there."""
        lacking = self._missing + 1.0 - self.burst
        if lacking <= 0:
            return -math.inf
        return self._at + lacking / self.rate if self.rate else math.inf


def _checked(rate: float) -> float:
    if not (math.isfinite(rate) and rate >= 0):
        raise ValueError(f"rate: expected a finite number of at least 0, found {rate}")
    return rate


def _checked_burst(burst: float) -> float:
    if not (math.isfinite(burst) and burst >= 1):
        raise ValueError(f"burst: expected a finite number of at least 1, found {burst}")
    return burst
