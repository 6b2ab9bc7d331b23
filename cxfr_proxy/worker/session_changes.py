"""Report sessions as they come and go, so that the supervisor can log their end when the worker can't any more.

The report goes in pieces, beside the worker's counts. Sessions that came and went between two reports are in none. A
worker that is killed takes with it what it had not reported yet, a few milliseconds' worth, as with its counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cxfr_proxy.ipc.messages import Present, SessionsChanged
from cxfr_proxy.transfers.relayed import Relayed

PIECE: Final = 100
"""Sessions per message. A JID has at most 3,071 bytes: a line stays far below its limit."""


class SessionChanges:
    """The changes that a worker has to report."""

    def __init__(self) -> None:
        self._present: dict[int, Relayed] = {}
        self._resumed: set[int] = set()  # those of them that were bound to a session that was there before
        self._over: list[int] = []

    def note(self, relayed: Relayed, *, resumed: bool = False) -> None:
        """Note that a session has begun, or was bound; ``resumed``: to one that was there before."""
        self._present[relayed.id] = relayed
        if resumed:
            self._resumed.add(relayed.id)

    def note_end(self, relayed: Relayed) -> None:
        # Reported as over even if it was never reported as there: the supervisor ignores an id that it does not know.
        self._present.pop(relayed.id, None)
        self._over.append(relayed.id)

    def call(self, now: float) -> Iterator[SessionsChanged]:
        """Yield the changes since the last time."""
        present = [_present(each, now, resumed=each.id in self._resumed) for each in self._present.values()]
        over = self._over
        self._present, self._resumed, self._over = {}, set(), []
        for at in range(0, max(len(present), len(over)), PIECE):
            yield SessionsChanged(tuple(present[at : at + PIECE]), tuple(over[at : at + PIECE]))


def _present(relayed: Relayed, now: float, *, resumed: bool) -> Present:
    session = relayed.session
    return Present(
        relayed.id,
        session.full_jid,
        session.node,
        relayed.client_address,
        relayed.client_port,
        round(now - relayed.opened, 3),
        resumed,
    )
