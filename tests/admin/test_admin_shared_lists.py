"""Lists of sessions that several operators ask for at once."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.admin.console.clients import SharedLists
from cxfr_proxy.admin.rows.filters import FoundSessions, SessionFilter
from cxfr_proxy.errors import ConfigError

ALL, ONE_NODE = SessionFilter(), SessionFilter(node="node1")


class SlowSessions:
    """Takes a second for a list, and says by ``matching`` how many lists there have been."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.fails = 0

    async def find_sessions(self, wanted: SessionFilter) -> FoundSessions:
        self.begun.append(trio.current_time())
        number = len(self.begun)
        await trio.sleep(1)
        if number <= self.fails:
            raise ConfigError("no")
        return FoundSessions([], number)


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
                    self.got.append((await self.lists.find(wanted)).matching)
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


async def test_other_filters_do_not_wait(askers: Askers, autojump_clock: MockClock) -> None:
    await askers.ask()
    await askers.ask(ONE_NODE)
    await trio.sleep(5)
    assert askers.begun == [0, 0]
    assert askers.lists._looks == {}


async def test_a_caller_who_is_gone_takes_nobody_s_list_along(askers: Askers, autojump_clock: MockClock) -> None:
    scope = trio.CancelScope()
    await askers.ask(scope=scope)
    await askers.ask()
    await trio.sleep(0.5)
    scope.cancel()
    await trio.sleep(5)
    assert (askers.begun, askers.got) == ([0, 0.5], [2])
    assert askers.lists._looks == {}


async def test_a_fault_is_told_to_one_alone(askers: Askers, autojump_clock: MockClock) -> None:
    askers.sessions.fails = 2
    for _ in range(3):
        await askers.ask()
    await trio.sleep(5)
    assert (askers.begun, askers.got) == ([0, 1, 2], ["no", "no", 3])
