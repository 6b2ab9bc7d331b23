"""The client's half of XEP-0198: what it has sent that the server has not acknowledged."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from cxfr_proxy.demo.account import Numbered


@dataclass(slots=True)
class ClientResumption:
    """``unacknowledged`` pairs each stanza with its number, if it is a numbered one.

    ``sm_id`` is ``None`` until the server has given one, and where the stream can't be resumed.
    """

    sm_id: str | None
    received: int
    unacknowledged: deque[tuple[bytes, Numbered | None]] = field(default_factory=deque)
    acknowledged: int = 0

    @property
    def numbers(self) -> set[int]:
        """Of the numbered ones that are not acknowledged."""
        return {numbered.number for _, numbered in self.unacknowledged if numbered is not None}

    def acknowledge(self, h: int) -> list[Numbered]:
        """Take the server's ``h``; the numbered ones among what it acknowledges for the first time.

        Raises :class:`ValueError` if it counts more than was sent.
        """
        newly = (h - self.acknowledged) % 2**32
        if newly > len(self.unacknowledged):
            raise ValueError(f"h={h}, but only {self.acknowledged + len(self.unacknowledged)} were sent")
        self.acknowledged = h
        taken = [self.unacknowledged.popleft()[1] for _ in range(newly)]
        return [numbered for numbered in taken if numbered is not None]
