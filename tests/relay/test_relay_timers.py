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


async def test_what_is_not_due_any_more_wakes_nobody(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    wanted, looked, rung = set(range(10)), set[float](), list[tuple[float, int]]()

    def due(when: float, key: int) -> float | None:
        looked.add(trio.current_time())
        return when if key in wanted else None

    timers = Timers(lambda when, key: rung.append((when, key)), due)
    for key in range(10):
        timers.set(10.0 + key, key)
    nursery.start_soon(timers.run)
    await trio.sleep(1)
    wanted = {9}
    await trio.sleep(30)
    assert rung == [(19.0, 9)]
    assert looked == {0.0, 10.0, 19.0}, "at its beginning, at the first deadline, and at the one that was left"


async def test_what_was_put_off_comes_once_and_not_earlier(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rung: list[tuple[float, float, int]] = []
    put_off = {1: 7.0, 2: 2.5}
    timers = Timers(
        lambda when, key: rung.append((trio.current_time(), when, key)), lambda when, key: put_off.get(key, when)
    )
    for key in (1, 2, 3):
        timers.set(float(key), key)
    nursery.start_soon(timers.run)
    await trio.sleep(20)
    assert rung == [(2.5, 2.5, 2), (3.0, 3.0, 3), (7.0, 7.0, 1)]


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
