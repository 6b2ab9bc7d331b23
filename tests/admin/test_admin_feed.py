"""The feed of changes, and what is seen by it."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.admin.feed import PAUSE_SECONDS, QUIET_SECONDS, ChangeFeed, follow


@dataclass(frozen=True)
class Seen:
    left: int

    @property
    def finished(self) -> bool:
        return not self.left


class Subject:
    """Something that is watched; ``looks`` counts how often."""

    def __init__(self, left: int = 3) -> None:
        self.feed = ChangeFeed()
        self.left = left
        self.looks = 0
        self.seen: list[tuple[float, int]] = []

    def look(self) -> Seen:
        self.looks += 1
        return Seen(self.left)

    def becomes(self, left: int) -> None:
        self.left = left
        self.feed.changed()

    async def watch(self) -> None:
        began = trio.current_time()
        async with aclosing(follow(self.feed, self.look)) as rows:
            async for row in rows:
                self.seen.append((round(trio.current_time() - began, 3), row.left))


async def test_each_change_is_seen_and_the_end_is_the_end(autojump_clock: MockClock) -> None:
    subject = Subject()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.watch)
        await trio.sleep(1)
        subject.becomes(2)
        await trio.sleep(0.5)
        subject.becomes(0)
    assert subject.seen == [(0.0, 3), (1.0, 2), (1.5, 0)]
    assert subject.looks == 3, "nobody looks while nothing changes"


async def test_many_changes_are_one_look(autojump_clock: MockClock) -> None:
    subject = Subject(1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.watch)
        await wait_all_tasks_blocked()
        while subject.left:
            subject.becomes(subject.left - 1)
            await trio.sleep(0.001)
    assert subject.looks <= 1 / PAUSE_SECONDS + 3
    assert subject.seen[-1][1] == 0


async def test_what_changes_behind_a_look_is_seen(autojump_clock: MockClock) -> None:
    """While the row is read, and in the pause behind it."""
    subject = Subject()
    async with aclosing(follow(subject.feed, subject.look)) as rows:
        assert (await anext(rows)).left == 3
        subject.becomes(2)
        began = trio.current_time()
        assert (await anext(rows)).left == 2
        assert trio.current_time() - began <= PAUSE_SECONDS + 0.001


async def test_a_change_elsewhere_is_no_news(autojump_clock: MockClock) -> None:
    subject = Subject()
    with trio.move_on_after(QUIET_SECONDS - 0.1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.watch)
            while True:
                subject.feed.changed()
                await trio.sleep(0.05)
    assert [left for _, left in subject.seen] == [3]


async def test_who_waits_hears_that_the_proxy_lives(autojump_clock: MockClock) -> None:
    """And what time alone has changed is seen."""
    subject = Subject()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.watch)
        await trio.sleep(QUIET_SECONDS * 1.5)
        subject.left = 0  # nobody says so
    assert subject.seen == [(0.0, 3), (QUIET_SECONDS, 3), (2 * QUIET_SECONDS, 0)]


async def test_leaving_ends_the_waiting_only(autojump_clock: MockClock) -> None:
    subject = Subject()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.watch)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    subject.becomes(0)
    assert [row.left async for row in follow(subject.feed, subject.look)] == [0]
