"""Lists of sessions that several operators ask for at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from msgspec import Raw
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.admin.console.clients import SharedLists
from cxfr_proxy.admin.rows.filters import MOST_AT_ONCE, FoundSessions, SessionFilter
from cxfr_proxy.errors import ConfigError

ALL, ONE_NODE = SessionFilter(), SessionFilter(node="node1")


class SlowSessions:
    """Takes a second for a look, and says by ``matching`` how many looks there have been, and by the only row for
    which node."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.filters: list[int] = []
        self.fails = 0

    async def find_sessions(self, filters: Sequence[SessionFilter]) -> list[FoundSessions]:
        self.begun.append(trio.current_time())
        self.filters.append(len(filters))
        number = len(self.begun)
        await trio.sleep(1)
        if number <= self.fails:
            raise ConfigError("no")
        return [FoundSessions([Raw(str(wanted.node).encode())], number) for wanted in filters]


class Askers:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.sessions = SlowSessions()
        self.lists = SharedLists(self.sessions)  # type: ignore[arg-type]  # all that it needs of them
        self._nursery = nursery
        self.got: list[int | str] = []
        self.began = trio.current_time()

    async def ask(self, wanted: SessionFilter = ALL, scope: trio.CancelScope | None = None) -> None:
        async def find() -> None:
            with scope or trio.CancelScope():
                try:
                    found = await self.lists.find(wanted)
                    assert found.rows == [Raw(str(wanted.node).encode())], "its own"
                    self.got.append(found.matching)
                except ConfigError as exc:
                    self.got.append(str(exc))

        self._nursery.start_soon(find)
        await wait_all_tasks_blocked()

    @property
    def begun(self) -> list[float]:
        return [at - self.began for at in self.sessions.begun]


@pytest.fixture
def askers(nursery: trio.Nursery) -> Askers:
    return Askers(nursery)


async def test_many_who_ask_at_once_share_one(askers: Askers, autojump_clock: MockClock) -> None:
    for _ in range(16):
        await askers.ask()
    await trio.sleep(5)
    assert askers.begun == [0, 1], "the first one had begun when the others asked"
    assert sorted(askers.got) == [1, *[2] * 15]


async def test_nobody_is_shown_what_was_before_they_asked(askers: Askers, autojump_clock: MockClock) -> None:
    for _ in range(4):
        await askers.ask()
        await trio.sleep(0.75)
    await trio.sleep(5)
    asked = [0, 0.75, 1.5, 2.25]
    assert askers.begun == [0, 1, 2, 3]
    assert all(askers.begun[number - 1] >= at for at, number in zip(asked, sorted(map(int, askers.got)), strict=True))


async def test_one_look_serves_many_filters(askers: Askers, autojump_clock: MockClock) -> None:
    for number in range(12):
        await askers.ask(SessionFilter(node=f"node{number // 2}"))
    await trio.sleep(5)
    assert (askers.begun, askers.sessions.filters) == ([0, 1], [1, 6])
    assert sorted(askers.got) == [1, *[2] * 11]


async def test_of_very_many_filters_some_wait_for_another_look(askers: Askers, autojump_clock: MockClock) -> None:
    for number in range(2 * MOST_AT_ONCE + 5):
        await askers.ask(SessionFilter(node=f"node{number}"))
    await askers.ask(SessionFilter(node="node1"))
    await trio.sleep(5)
    assert (askers.begun, askers.sessions.filters) == ([0, 1, 2, 3], [1, MOST_AT_ONCE, MOST_AT_ONCE, 5])


async def test_a_caller_who_is_gone_takes_nobody_s_list_along(askers: Askers, autojump_clock: MockClock) -> None:
    scope = trio.CancelScope()
    await askers.ask(scope=scope)
    await askers.ask()
    await trio.sleep(0.5)
    scope.cancel()
    await trio.sleep(5)
    assert (askers.begun, askers.got) == ([0, 0.5], [2])


async def test_a_caller_who_is_gone_before_its_look_has_begun_is_missed_by_nobody(
    askers: Askers, autojump_clock: MockClock
) -> None:
    scope = trio.CancelScope()
    await askers.ask()
    await askers.ask(ONE_NODE, scope)
    await askers.ask()
    scope.cancel()
    await trio.sleep(5)
    assert (askers.begun, askers.got) == ([0, 1], [1, 2])


async def test_a_fault_is_told_to_one_alone(askers: Askers, autojump_clock: MockClock) -> None:
    askers.sessions.fails = 2
    for _ in range(3):
        await askers.ask()
    await trio.sleep(5)
    assert (askers.begun, askers.got) == ([0, 1, 2], ["no", "no", 3])
