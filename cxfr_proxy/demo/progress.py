"""Tell a story that goes on slowly from one that is stuck, and slow it down where the machine is busy.

A time limit would judge the machine: beside a compiler, the same steps take ten times as long. So time is counted in
*looks* at the story. A look comes around only after each task of the demo that could do something has had its turn, so
a busy machine has fewer of them. The story is stuck when many looks in a row have found nothing new, and its traffic
follows their pace, or there would be so much of it that nothing else came to its turn.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final

LOOK_SECONDS: Final = 0.02
"""Between two looks, if the machine has time."""
LOOKS_IN_VAIN: Final = 750
"""A quarter of a minute on an idle machine: longer than anything may take in which nothing is to be seen, such as a
client's wait for the end of its stream."""
_SMOOTHING: Final = 0.1
"""Of the latest look in the slowness: one that was late is not yet a busy machine."""


class Patience:
    """A wait of the story's for something, and all that was found meanwhile."""

    def __init__(self) -> None:
        self._found: set[Hashable] = set()
        self._in_vain = 0

    def look(self, facts: Iterable[Hashable]) -> bool:
        """Return whether there is hope: something was new, now or not too many looks ago.

        The facts that can be found have to be finite in number, or somebody who comes and goes for ever is progress.
        """
        before = len(self._found)
        self._found.update(facts)
        self._in_vain = 0 if len(self._found) > before else self._in_vain + 1
        return self._in_vain < LOOKS_IN_VAIN


class Tempo:
    """How much slower the story goes than on an idle machine."""

    def __init__(self) -> None:
        self.slowness = 1.0
        """Now: how many times as long everything takes."""
        self._looks = 0
        self._seconds = 0.0

    def looked(self, seconds: float) -> None:
        """Note how long it took for a look to come around."""
        self._looks += 1
        self._seconds += seconds
        self.slowness += _SMOOTHING * (max(1.0, seconds / LOOK_SECONDS) - self.slowness)

    @property
    def average(self) -> float:
        """The slowness of the whole story."""
        return max(1.0, self._seconds / (self._looks * LOOK_SECONDS)) if self._looks else 1.0
