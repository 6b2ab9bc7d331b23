"""A drain is done when its node can be stopped: some time after the last session has left, where nodes share them."""

from __future__ import annotations

import math

import pytest
import trio
from test_transfers_mover import House, HouseSession, working
from trio.testing import MockClock

from cxfr_proxy.cluster.nodes import SHARED_SETTLE_SECONDS

SHARED = "a 10.0.0.1 resume=shared\nb 10.0.0.2 resume=shared"
LOOK_SECONDS = 0.1
"""Between two looks at a drain."""


def leave(house: House, session: HouseSession) -> None:
    house.registry.remove(session)
    house.last_moves["a"] = trio.current_time()


def settles(house: House) -> bool:
    return house.drain("a").settling_seconds(trio.current_time()) is not None


async def done_after(house: House) -> float:
    """Return the seconds until the drain is done."""
    began = trio.current_time()
    with trio.fail_after(100):
        while not house.drain("a").done:  # noqa: ASYNC110 - the clock jumps
            await trio.sleep(LOOK_SECONDS / 10)
    return trio.current_time() - began


@pytest.mark.parametrize(
    ("nodes", "seconds"),
    [
        (SHARED, SHARED_SETTLE_SECONDS),
        (SHARED.replace("shared", "shared settle=7s"), 7.0),
        (SHARED.replace("shared", "shared settle=0"), 0.0),
        (SHARED.replace("shared", "own"), 0.0),
        (SHARED.replace("shared", "own settle=1m"), 60.0),
    ],
)
async def test_it_is_done_so_long_after_the_last_one_has_left(
    nodes: str, seconds: float, autojump_clock: MockClock
) -> None:
    async with working(House(nodes)) as house:
        first, second = house.populate("a", 2, stays=True)
        house.empty("a")
        await trio.sleep(5)
        leave(house, first)
        await trio.sleep(5)
        assert not settles(house)
        leave(house, second)
        if seconds:
            await trio.sleep(LOOK_SECONDS)
            assert settles(house)
            assert house.reports == [("drain-begins", "a")]
            seconds -= LOOK_SECONDS
        assert await done_after(house) == pytest.approx(seconds, abs=2.1 * LOOK_SECONDS)
        assert house.reports == [("drain-begins", "a"), ("drain-ends", "a")]
        assert house.drain("a").settling_seconds(trio.current_time()) is None


async def test_one_that_comes_meanwhile_is_waited_for_again(autojump_clock: MockClock) -> None:
    async with working(House(SHARED)) as house:
        [session] = house.populate("a", 1, stays=True)
        house.empty("a")
        leave(house, session)
        await trio.sleep(SHARED_SETTLE_SECONDS - 1)
        [late] = house.populate("a", 1, stays=True)  # it was being dialled
        await trio.sleep(10)
        assert not settles(house)
        leave(house, late)
        assert await done_after(house) == pytest.approx(SHARED_SETTLE_SECONDS, abs=2.1 * LOOK_SECONDS)


async def test_a_move_that_is_reported_behind_the_counts(autojump_clock: MockClock) -> None:
    async with working(House(SHARED)) as house:
        [session] = house.populate("a", 1, stays=True)
        house.empty("a")
        leave(house, session)
        await trio.sleep(1)
        house.last_moves["a"] = trio.current_time()
        assert await done_after(house) == pytest.approx(SHARED_SETTLE_SECONDS, abs=2.1 * LOOK_SECONDS)


@pytest.mark.parametrize(("left", "seconds"), [(math.inf, 0.0), (1.0, SHARED_SETTLE_SECONDS - 1)])
async def test_a_node_that_was_empty_when_its_drain_began(
    left: float, seconds: float, autojump_clock: MockClock
) -> None:
    """Nobody can die with it, unless somebody has left it just before."""
    async with working(House(SHARED)) as house:
        await trio.sleep(100)
        house.last_moves["a"] = trio.current_time() - left
        house.empty("a")
        assert await done_after(house) == pytest.approx(seconds, abs=2.1 * LOOK_SECONDS)


async def test_a_drain_that_goes_on_settles_anew(autojump_clock: MockClock) -> None:
    async with working(House(SHARED)) as house:
        [session] = house.populate("a", 1, stays=True)
        house.empty("a")
        leave(house, session)
        await done_after(house)
        [late] = house.populate("a", 1, stays=True)
        house.empty("a")
        assert not house.drain("a").done
        await trio.sleep(1)
        leave(house, late)
        assert await done_after(house) == pytest.approx(SHARED_SETTLE_SECONDS, abs=2.1 * LOOK_SECONDS)


async def test_undraining_a_node_that_settles_ends_its_drain(autojump_clock: MockClock) -> None:
    async with working(House(SHARED)) as house:
        [session] = house.populate("a", 1, stays=True)
        house.empty("a")
        leave(house, session)
        await trio.sleep(LOOK_SECONDS)
        house.undrain("a")
        assert house.reports[-1] == ("drain-ends", "a")
        assert house.drains.is_done("a")
