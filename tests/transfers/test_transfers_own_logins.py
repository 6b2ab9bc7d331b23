"""The turns of the proxy's own logins."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.transfers.own_logins import AT_ONCE, OwnLogins


async def test_so_many_are_under_way_at_once_and_there_is_room_when_nobody_waits(autojump_clock: MockClock) -> None:
    logins, begun, room = OwnLogins(), [], []

    async def log_in() -> None:
        async with logins.turn():
            begun.append(trio.current_time())
            await trio.sleep(1)

    async def wait() -> None:
        await logins.wait_for_room()
        room.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(2 * AT_ONCE):
            nursery.start_soon(log_in)
        await wait_all_tasks_blocked()
        nursery.start_soon(wait)
    assert begun == [began] * AT_ONCE + [began + 1] * AT_ONCE
    assert room == [began + 2]


async def test_one_that_is_given_up_makes_room(autojump_clock: MockClock) -> None:
    logins = OwnLogins()

    async def log_in(scope: trio.CancelScope) -> None:
        with scope:
            async with logins.turn():
                await trio.sleep_forever()

    scopes = [trio.CancelScope() for _ in range(AT_ONCE + 1)]
    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(log_in, scope)
        await wait_all_tasks_blocked()
        nursery.start_soon(logins.wait_for_room)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == AT_ONCE + 2
        scopes[0].cancel()
        scopes[-1].cancel()
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == AT_ONCE - 1
        nursery.cancel_scope.cancel()
