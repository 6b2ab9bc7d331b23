"""Many deadlines, one sleeping task."""

from __future__ import annotations

import socket

import trio
from relay_tools import until
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.relay.timers import Timers


async def test_in_their_order_and_not_before_their_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rung: list[tuple[float, float, int]] = []
    timers = Timers(lambda when, key: rung.append((trio.current_time(), when, key)))
    timers.set(5.0, 1)
    nursery.start_soon(timers.run)
    await wait_all_tasks_blocked()
    timers.set(9.0, 2)
    timers.set(2.0, 3)  # before what the task sleeps for
    timers.set(5.0, 4)
    await trio.sleep(20)
    assert rung == [(2.0, 2.0, 3), (5.0, 5.0, 1), (5.0, 5.0, 4), (9.0, 9.0, 2)]
    timers.set(trio.current_time() - 1, 5)
    await wait_all_tasks_blocked()
    assert rung[-1] == (20.0, 19.0, 5)


async def test_a_listener_may_set_the_next(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rung: list[float] = []

    def ring(when: float, key: int) -> None:
        rung.append(when)
        if key:
            timers.set(when + 1, key - 1)

    timers = Timers(ring)
    timers.set(1.0, 3)
    nursery.start_soon(timers.run)
    await trio.sleep(10)
    assert rung == [1.0, 2.0, 3.0, 4.0]


async def test_others_get_their_turn_between_many(nursery: trio.Nursery) -> None:
    rung: list[int] = []
    timers = Timers(lambda when, key: rung.append(key))
    for key in range(1000):
        timers.set(0.0, key)
    nursery.start_soon(timers.run)
    seen = set()
    while len(rung) < 1000:
        seen.add(len(rung))
        await trio.lowlevel.checkpoint()
    assert len(seen) > 5


async def test_what_came_while_the_process_was_held_up_is_read_first(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    done: list[str] = []
    timers = Timers(lambda when, key: done.append("timer"))
    nursery.start_soon(timers.run)
    near, theirs = socket.socketpair()
    with trio.socket.from_stdlib_socket(near) as ours, theirs:

        async def read() -> None:
            while await ours.recv(1):
                done.append("read")

        nursery.start_soon(read)
        for number in range(1, 13):
            await wait_all_tasks_blocked()
            timers.set(mock_clock.current_time() + 1, 1)
            theirs.send(b"x")
            mock_clock.jump(2)
            await until(lambda n=number: len(done) == 2 * n)  # type: ignore[misc]
        assert done == ["read", "timer"] * 12
        nursery.cancel_scope.cancel()
