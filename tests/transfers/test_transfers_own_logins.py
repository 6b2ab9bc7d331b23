"""The turns of the proxy's own logins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.net.waits import TRIO, Waits
from cxfr_proxy.transfers.own_logins import AT_ONCE, OwnLogins

T = TypeVar("T")


def has_room(logins: OwnLogins) -> bool:
    return logins.has_room(coming=0, hurried=True)


async def test_so_many_are_under_way_at_once_and_there_is_room_when_nobody_waits(autojump_clock: MockClock) -> None:
    logins, begun, room = OwnLogins(), [], []

    async def log_in() -> None:
        await logins.take_turn(TRIO)
        begun.append(trio.current_time())
        await trio.sleep(1)
        logins.end_turn()

    async def wait() -> None:
        while not has_room(logins):
            await logins.change()
        room.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(2 * AT_ONCE):
            nursery.start_soon(log_in)
        await wait_all_tasks_blocked()
        nursery.start_soon(wait)
    assert begun == [began] * AT_ONCE + [began + 1] * AT_ONCE
    assert room == [began + 2]


async def test_the_first_that_waits_is_the_next() -> None:
    logins, begun = OwnLogins(), []

    async def log_in(number: int) -> None:
        await logins.take_turn(TRIO)
        begun.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(AT_ONCE + 3):
            nursery.start_soon(log_in, number)
            await wait_all_tasks_blocked()
        for _ in range(3):
            logins.end_turn()
            await wait_all_tasks_blocked()
    assert begun == list(range(AT_ONCE + 3))


async def test_one_that_gives_up_waiting_takes_no_turn() -> None:
    logins = OwnLogins()
    for _ in range(AT_ONCE):
        await logins.take_turn(TRIO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logins.take_turn, TRIO)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    logins.end_turn()
    assert has_room(logins)


class GivenUpTooLate:
    """Gives up the wait for a turn when that has just been given."""

    def __init__(self, logins: OwnLogins) -> None:
        self._logins = logins

    async def in_trio(self, _: Callable[[], Awaitable[T]]) -> T:
        self._logins.end_turn()
        raise EOFError


async def test_one_that_gives_up_when_it_has_got_a_turn_gives_it_to_the_next_one() -> None:
    logins = OwnLogins()
    for _ in range(AT_ONCE):
        await logins.take_turn(TRIO)
    with pytest.raises(EOFError):
        await logins.take_turn(cast("Waits", GivenUpTooLate(logins)))
    assert has_room(logins)
    await logins.take_turn(TRIO)
    assert not has_room(logins)
