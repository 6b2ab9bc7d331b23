"""The live view of the proxy: each topic as it was when somebody looked last, and which of them are new to whom.

All who watch share the looks. Nobody has a queue: of each topic there is the latest state, and somebody who has seen
all up to a number is told the topics with a greater one. A reader that is slow skips states and costs no memory.

Nobody looks while nobody watches.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from cxfr_proxy.admin.feed import QUIET_SECONDS, ChangeFeed
from cxfr_proxy.admin.http.topics import TOPICS
from cxfr_proxy.admin.rows.codec import json_pieces
from cxfr_proxy.admin.rows.rows import OperatorRow

if TYPE_CHECKING:
    from cxfr_proxy.admin.console.console import Console

PAUSE_SECONDS: Final = 0.5
"""Between two looks at least."""
_SHARE: Final = 0.05
"""Of the time at most that looks take: of very many nodes one takes long."""
_ROWS_AT_A_TIME: Final = 100
"""Rows looked at between two checkpoints: about a millisecond."""
_AGES: Final = ("_seconds", "seconds_ago")
"""The ends of the names of fields that time alone changes, and each reader can count on."""
_NO_AGES: Final = ("cpu_seconds",)
"""Fields whose names end so, and that only grow by work: a rate is made of them, which needs each change."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it was last. ``number`` counts changes of all topics; this is the latest one of this topic."""

    topic: str
    number: int
    data: bytes
    """``{"rows": [...]}`` as JSON."""
    without_ages: object


class LiveView:
    """All topics that can be watched; ``feed`` says when they may have changed."""

    def __init__(self, console: Console, feed: ChangeFeed) -> None:
        self._console = console
        self._feed = feed
        self._number = 0
        self.life = secrets.token_hex(4)
        """Another one in each process."""
        self._states: dict[str, TopicState] = {}
        self._looking = trio.Lock()
        self._next_look = -1.0

    def event_id(self, number: int) -> str:
        """Return the ID of an event, by which :meth:`number_of` knows what somebody has seen."""
        return f"{self.life}-{number}"

    def number_of(self, event_id: str) -> int:
        """Return the number in the ID of an event; 0 for one that is not of this view."""
        life, _, number = event_id.partition("-")
        known = life == self.life and number.isascii() and number.isdigit() and len(number) < 20
        return int(number) if known and int(number) <= self._number else 0

    async def newer_than(self, number: int) -> AsyncGenerator[Sequence[TopicState], None]:
        """Yield the topics that have changed since that number, 0 for all; and then again and again, those that have
        changed meanwhile. It yields at least every :data:`~cxfr_proxy.admin.feed.QUIET_SECONDS`, though nothing may
        have changed."""
        while True:
            version = self._feed.version
            await self._look_if_due()
            news = sorted(
                (each for each in self._states.values() if each.number > number), key=lambda each: each.number
            )
            number = max([number, *(each.number for each in news)])
            yield news
            await trio.sleep_until(self._next_look)
            with trio.move_on_after(QUIET_SECONDS):
                await self._feed.newer_than(version)

    async def _look_if_due(self) -> None:
        async with self._looking:
            began = trio.current_time()
            if began < self._next_look:
                return
            with trio.CancelScope(shield=True):  # given up half-way, over and over, looks would take all of the time
                for name, topic in TOPICS.items():
                    await self._note(name, await topic.look(self._console))
            ended = trio.current_time()
            self._next_look = ended + max(PAUSE_SECONDS, (ended - began) / _SHARE)

    async def _note(self, topic: str, rows: Sequence[OperatorRow]) -> None:
        """Note how that topic is now: a thousand nodes take milliseconds, so others get their turn in between."""
        data, without_ages = bytearray(b'{"rows":'), []
        for at in range(0, len(rows), _ROWS_AT_A_TIME):
            without_ages += [_without_ages(row) for row in rows[at : at + _ROWS_AT_A_TIME]]
            await trio.lowlevel.checkpoint()
        for piece in json_pieces(list(rows)):
            data += piece
            await trio.lowlevel.checkpoint()
        before = self._states.get(topic)
        if before is None or before.without_ages != without_ages:
            self._number += 1
            number = self._number
        else:
            number = before.number
        # In any case: somebody who comes later is told the ages as they are now.
        self._states[topic] = TopicState(topic, number, bytes(data) + b"}", without_ages)


def _without_ages(row: OperatorRow) -> dict[str, Any]:
    return {
        name: value for name, value in msgspec.to_builtins(row).items() if name in _NO_AGES or not name.endswith(_AGES)
    }
