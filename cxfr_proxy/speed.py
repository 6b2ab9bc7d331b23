"""How fast a count changes, by what was seen of it of late."""

from __future__ import annotations

from collections import deque


class Speed:
    """Watches a count. ``window``: the seconds that matter, since what was before them says little. ``least``: the
    seconds for which it has to be watched before anything is said. Times are a clock's that never goes back."""

    def __init__(self, window: float, least: float) -> None:
        self._window = window
        self._least = least
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, count: int) -> float | None:
        """Note the count, and return by how much it changes a second; ``None``: too little was seen."""
        self._seen.append((now, count))
        # The oldest one stays as long as the second is within the window: it says what there was when that began.
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._window:
            self._seen.popleft()
        began, before = self._seen[0]
        return (count - before) / (now - began) if now - began >= self._least else None
