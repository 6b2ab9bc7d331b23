"""How long something still takes, by how fast it went of late."""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 30.0
"""The past that counts: a drain's stages differ in speed, and what was minutes ago says little."""
_LEAST_SECONDS: Final = 2.0
"""Before that nothing is said: the first clients leave at once, all the others at the rate."""


class TimeLeft:
    """Watches how many are left. Times are a clock's that never goes back, in seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, left: int) -> float | None:
        """Note how many are left, and return about how many seconds it takes until none is.

        ``None``: too little was seen, or there has been no progress within the window.
        """
        self._seen.append((now, left))
        # The oldest one stays as long as the second is within the window: it says what there was when that began.
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        if now - began < _LEAST_SECONDS or left >= before:
            return None
        return left * (now - began) / (before - left)
