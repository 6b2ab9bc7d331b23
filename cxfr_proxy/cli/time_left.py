"""How long something still takes, by how fast it went of late."""

from __future__ import annotations

from typing import Final

from cxfr_proxy.speed import Speed

WINDOW_SECONDS: Final = 30.0
"""The past that counts: a drain's stages differ in speed, and what was minutes ago says little."""
_LEAST_SECONDS: Final = 2.0
"""Before that nothing is said: the first clients leave at once, all the others at the rate."""


class TimeLeft:
    """Watches how many are left. Times are a clock's that never goes back, in seconds."""

    def __init__(self) -> None:
        self._speed = Speed(WINDOW_SECONDS, _LEAST_SECONDS)

    def note(self, now: float, left: int) -> float | None:
        """Note how many are left, and return about how many seconds it takes until none is.

        ``None``: too little was seen, or there has been no progress within the window.
        """
        speed = self._speed.note(now, left)
        return left / -speed if speed is not None and speed < 0 else None
