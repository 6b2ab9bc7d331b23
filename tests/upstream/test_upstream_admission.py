"""Admission: one after the other, at the rate, and not for ever. Time is trio's mock clock: exact and free."""

from __future__ import annotations

import pytest
import trio
from relay_tools import transport_pair
from trio.testing import MockClock

from cxfr_proxy.errors import NodeError
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.upstream.admission import Admission, ClientHungUp
from cxfr_proxy.xmpp.names import StreamCondition


class Burst:
    """Clients that all come at once; ``admitted`` says who got in when, ``refused`` who did not and why."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.began = trio.current_time()
        self.admitted: list[tuple[str, float]] = []
        self.refused: dict[str, tuple[str, float]] = {}
        self.left: set[str] = set()

    async def client(self, name: str, node: str = "a", address: str = "192.0.2.1") -> None:
        try:
            await self.admission.admit(node, address, lambda: name in self.left)
        except ClientHungUp:
            self.refused[name] = "gone", self.elapsed
        except NodeError as error:
            self.refused[name] = error.condition, self.elapsed
        else:
            self.admitted.append((name, self.elapsed))

    @property
    def elapsed(self) -> float:
        return round(trio.current_time() - self.began, 6)


async def test_first_come_first_served_at_the_rate(autojump_clock: MockClock) -> None:
    burst = Burst(Admission(10.0, 60.0))
    async with trio.open_nursery() as nursery:
        for number in range(31):
            nursery.start_soon(burst.client, f"{number:02}")
            await trio.testing.wait_all_tasks_blocked()
    assert burst.admitted == [(f"{number:02}", round(number / 10, 6)) for number in range(31)]


@pytest.mark.parametrize("other", ["192.0.2.2", "2001:db8:0:2::1", "fe80::1%eth0", "local"])
async def test_one_address_cannot_fill_the_queue(other: str, autojump_clock: MockClock) -> None:
    """A thousand from one network wait behind each other: who comes from another has two of them in
    front, and one more for each that they sent before."""
    burst = Burst(Admission(1.0, 60.0))
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(burst.client, f"many{number}", "a", f"2001:db8:0:1::{number:x}")
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(4.5)
        for number in range(2):
            nursery.start_soon(burst.client, f"other{number}", "a", other)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    came = {name: at for name, at in burst.admitted if name.startswith("other")}
    assert came == {"other0": 7.0, "other1": 9.0}
    assert len(burst.admitted) == 10


@pytest.mark.parametrize(("rate", "times"), [(1.0, [0.0, 6.0, 7.0, 8.0]), (None, [0.0, 5.0, 5.0, 5.0])])
async def test_another_rate_is_that_of_those_who_wait(
    rate: float | None, times: list[float], autojump_clock: MockClock
) -> None:
    admission = Admission(0.01, 600.0)
    burst = Burst(admission)
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(burst.client, f"{number}")
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(5)
        admission.set_rate(rate, 1.0)
    assert [round(at, 1) for _, at in burst.admitted] == times
    assert admission.limits is (rate is not None)


async def test_some_of_it_may_come_at_once(autojump_clock: MockClock) -> None:
    burst = Burst(Admission(100.0, 60.0))
    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(burst.client, str(number))
    # Then those whose turn comes in the same fiftieth of a second.
    assert [at for _, at in burst.admitted] == [0.0] * 10 + [round(n / 50, 6) for n in range(1, 11) for _ in "ab"]


async def test_each_node_has_a_queue_of_its_own(autojump_clock: MockClock) -> None:
    burst = Burst(Admission(1.0, 60.0))
    async with trio.open_nursery() as nursery:
        for node in "ab":
            for number in range(3):
                nursery.start_soon(burst.client, f"{node}{number}", node)
        await trio.testing.wait_all_tasks_blocked()
        assert (burst.admission.waiting("a"), burst.admission.waiting("b"), burst.admission.waiting("c")) == (2, 2, 0)
    assert sorted(at for _, at in burst.admitted) == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]


async def test_who_waits_too_long_is_told_to_try_again(autojump_clock: MockClock) -> None:
    burst = Burst(Admission(1.0, 3.5))
    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(burst.client, str(number))
    assert [at for _, at in burst.admitted] == [0.0, 1.0, 2.0, 3.0]
    assert set(burst.refused.values()) == {(StreamCondition.RESOURCE_CONSTRAINT, 3.5)}
    assert len(burst.refused) == 5
    assert burst.admission.waiting("a") == 0


async def test_who_has_left_takes_nobody_s_turn(autojump_clock: MockClock) -> None:
    burst = Burst(Admission(1.0, 60.0))
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(burst.client, str(number))
            await trio.testing.wait_all_tasks_blocked()
        burst.left = {"1", "3"}
        nursery.start_soon(burst.client, "5")
    assert burst.admitted == [("0", 0.0), ("2", 1.0), ("4", 2.0), ("5", 3.0)]
    assert burst.refused == {"1": ("gone", 1.0), "3": ("gone", 2.0)}


async def test_who_is_cancelled_takes_nobody_s_turn(autojump_clock: MockClock) -> None:
    burst = Burst(Admission(1.0, 60.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(burst.client, "0")
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as impatient:
            impatient.start_soon(burst.client, "1")
            await trio.sleep(0.25)
            nursery.start_soon(burst.client, "2")
            await trio.sleep(0.25)
            impatient.cancel_scope.cancel()
    assert burst.admitted == [("0", 0.0), ("2", 1.0)]
    assert burst.admission.waiting("a") == 0


async def test_without_a_rate_nobody_waits(autojump_clock: MockClock) -> None:
    burst = Burst(Admission(None, 1.0))
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(burst.client, str(number))
    assert {at for _, at in burst.admitted} == {0.0}


@pytest.mark.parametrize("unread", [b"", b"<stream:stream>"])
def test_a_client_that_hangs_up_is_seen_without_reading(unread: bytes) -> None:
    there, here = transport_pair()
    with here, there:
        endpoint = Endpoint(here)
        there.send(unread or b" ")
        assert not endpoint.has_hung_up()
        there.close()
        assert endpoint.has_hung_up()
