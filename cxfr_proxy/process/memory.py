"""What workers tell each other about users, kept for those that start later.

A worker hears as it happens whom the others redirected and what can be resumed by which id. One that starts later is
told what still matters, in pieces: all of it may be more than one line can hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, TypeVar

from cxfr_proxy.process.messages import Redirected, Remembered, Resumable
from cxfr_proxy.session.registry import REMEMBERED

_T = TypeVar("_T")

PIECE: Final = 500
"""Entries a message. A JID has at most 3,071 bytes, so a line stays far below its limit."""


class Memory:
    """``redirect_window`` as the registry's, in seconds; ``limit`` for each of the two kinds, the oldest go first."""

    def __init__(self, redirect_window: float, limit: int = REMEMBERED) -> None:
        self._redirect_window = redirect_window
        self._limit = limit
        self._redirected: OrderedDict[str, float] = OrderedDict()
        self._resumable: OrderedDict[str, str] = OrderedDict()

    def note(self, message: Redirected | Resumable, now: float) -> None:
        """A worker has just said it."""
        match message:
            case Redirected(user):
                self._redirected[user] = now
                self._redirected.move_to_end(user)
                self._forget(now)
            case Resumable(stream_management_id, full_jid):
                self._resumable[stream_management_id] = full_jid
                self._resumable.move_to_end(stream_management_id)
                if len(self._resumable) > self._limit:
                    self._resumable.popitem(last=False)

    def pieces(self, now: float) -> list[Remembered]:
        """Everything that matters at this time, oldest first."""
        self._forget(now)
        redirected = [{user: now - at for user, at in each} for each in _cut(list(self._redirected.items()))]
        resumable = [dict(each) for each in _cut(list(self._resumable.items()))]
        return [*(Remembered(each, {}) for each in redirected), *(Remembered({}, each) for each in resumable)]

    def _forget(self, now: float) -> None:
        """Redirects that are too many, or out of the window."""
        while self._redirected:
            user, at = next(iter(self._redirected.items()))
            if len(self._redirected) <= self._limit and now - at < self._redirect_window:
                return
            del self._redirected[user]


def _cut(entries: list[_T]) -> Iterator[list[_T]]:
    return (entries[at : at + PIECE] for at in range(0, len(entries), PIECE))
