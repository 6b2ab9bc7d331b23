"""Logins of the proxy's own, in the place of clients whose sessions it takes to another node, or to the same one again.

A few are under way at once, and no session is taken to another node while all turns are taken: one that has to wait
here could be out of time before it is on the other node, and its client would notice. More at once would not be faster
either, since a login is mostly work for the node: it would only take longer to answer each, and clients are held while
it does.

Moves that can wait are fewer still if clients are held for long: :mod:`.move_window`. A session whose connection broke
is held already, and takes any turn.
"""

from __future__ import annotations

from typing import Final

import trio

from cxfr_proxy.net.waits import Waits
from cxfr_proxy.session.commands import Event
from cxfr_proxy.transfers.move_window import MoveWindow

AT_ONCE: Final = 8
"""In one process. Each is a TLS handshake and a few round trips, milliseconds for a node that has time."""


class OwnLogins:
    """The turns of one process, and the moves for which they are taken."""

    def __init__(self) -> None:
        self._free = AT_ONCE
        self._waiting: dict[trio.Event, None] = {}  # in their order; whoever is taken out has a turn
        self._change = trio.Event()
        self.window = MoveWindow(AT_ONCE)

    async def take_turn(self, waits: Waits) -> None:
        """Wait for a turn, and take it until :meth:`end_turn`. When given up, it has none."""
        if self._free:
            self._free -= 1
            return
        mine = trio.Event()
        self._waiting[mine] = None
        try:
            await waits.in_trio(mine.wait)
        except BaseException:
            if mine in self._waiting:
                del self._waiting[mine]
            else:
                self.end_turn()  # it was given one a moment ago
            raise

    def end_turn(self) -> None:
        """Give it to the next one that waits."""
        if self._waiting:
            next_one = next(iter(self._waiting))
            del self._waiting[next_one]
            next_one.set()
        else:
            self._free += 1
        self.changed()

    def note(self, session_id: int, event: Event) -> None:
        """Take in what a session reports: its move may have begun, or be over."""
        if self.window.note(session_id, event):
            self.changed()

    def forget(self, session_id: int) -> None:
        """Forget a session that is over. One that has ended by a fault may not have reported that its move is."""
        if self.window.forget(session_id):
            self.changed()

    def has_room(self, *, coming: int, hurried: bool) -> bool:
        """Return whether another session may be taken to another node; see :meth:`.move_window.MoveWindow.has_room`."""
        return self._free > 0 and self.window.has_room(coming=coming, hurried=hurried)

    async def change(self) -> None:
        """Return when a login or a move has ended, or :meth:`changed` was called. Then there may be room."""
        await self._change.wait()

    def changed(self) -> None:
        """Have those that wait for room look again."""
        self._change.set()
        self._change = trio.Event()
