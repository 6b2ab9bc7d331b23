"""When a rebalance begins by itself. Time is trio's mock clock."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio
from trio.testing import MockClock

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState, Health, NodeSpec
from cxfr_proxy.supervisor.orders.auto_rebalance import LONGEST_SECONDS, QUIET_SECONDS, STEADY_SECONDS, AutoRebalancer
from cxfr_proxy.transfers.pace import OwnPace, Rate
from cxfr_proxy.transfers.rebalances import Rebalance, RebalanceCounts, Rebalances, RebalanceTerms

SPEC = NodeSpec("a", Address("h", 5222))
B = replace(SPEC, name="b")
C = replace(SPEC, name="c")


@dataclass
class World:
    """``begun``: when rebalances began, and why; ``busy``: they have something to do, and don't get it done."""

    cluster: Cluster = field(default_factory=lambda: Cluster([SPEC, B]))
    begun: list[tuple[float, str | None]] = field(default_factory=list)
    busy: bool = False
    start: float = 0.0

    def __post_init__(self) -> None:
        self.start = trio.current_time()
        self.rebalances = Rebalances(Rate(OwnPace(1.0), 1.0), self)
        self.automatic = AutoRebalancer(self.cluster, self.rebalances)

    def follow_rebalance(self, rebalance: RebalanceTerms | None) -> None:
        if rebalance is not None:
            assert self.rebalances.last is not None
            self.begun.append((trio.current_time() - self.start, self.rebalances.last.reason))

    def counts_of_rebalance(self, number: int) -> RebalanceCounts:
        return RebalanceCounts(number, planned=1, left=int(self.busy))

    def report_rebalance(self, event: str, rebalance: Rebalance) -> None:
        pass


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    it = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.rebalances.watch)
        nursery.start_soon(it.automatic.run)
        await trio.sleep(10)
        assert not it.begun
        it.start = trio.current_time()
        yield it
        nursery.cancel_scope.cancel()


async def test_what_changes_while_nothing_begins_by_itself_is_no_reason_later(autojump_clock: MockClock) -> None:
    async with world() as it:
        it.automatic.active = False
        it.cluster.apply([SPEC, B, C])
        await trio.sleep(100)
        assert it.automatic.seconds_until_due() is None
        it.automatic.active = True
        await trio.sleep(100)
        assert not it.begun
        it.cluster.apply([SPEC, replace(B, weight=2), C])
        await trio.sleep(100)
        assert [reason for _, reason in it.begun] == ["b takes another share of them"]


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        ([SPEC, B, C], "c takes clients"),
        ([SPEC, replace(B, weight=2)], "b takes another share of them"),
        ([SPEC, replace(B, priority=1)], "b takes another share of them"),
        ([SPEC, replace(B, domain=("h",))], "b takes another share of them"),
        ([B, SPEC], None),
        ([SPEC], None),
        ([SPEC, replace(B, weight=0)], None),
        ([SPEC, replace(B, admin_state=AdminState.DRAIN)], None),
    ],
)
async def test_a_changed_list(specs: list[NodeSpec], reason: str | None, autojump_clock: MockClock) -> None:
    async with world() as it:
        it.cluster.apply(specs)
        await trio.sleep(60)
        assert [why for _, why in it.begun] == ([reason] if reason else [])
        assert all(QUIET_SECONDS <= at <= QUIET_SECONDS + 1 for at, _ in it.begun)


@pytest.mark.parametrize("what", ["drain", "down"])
async def test_a_node_that_is_back(what: str, autojump_clock: MockClock) -> None:
    """Nothing follows from its going."""
    async with world() as it:
        node = it.cluster.get("b")

        def set_up(up: bool) -> None:
            if what == "drain":
                node.set_admin_state(AdminState.READY if up else AdminState.DRAIN)
            else:
                node.health = Health.UP if up else Health.DOWN

        set_up(False)
        await trio.sleep(60)
        assert not it.begun
        set_up(True)
        await trio.sleep(60)
        assert [why for _, why in it.begun] == ["b takes clients"]


async def test_a_node_that_flaps_moves_nobody_before_it_has_been_up_for_a_while(autojump_clock: MockClock) -> None:
    """For longer each time; one that has stayed for long begins anew."""
    async with world() as it:
        node = it.cluster.get("b")
        for number in range(8):
            node.health = Health.UP if number % 2 else Health.DOWN
            await trio.sleep(20)
        assert not it.begun
        it.start = trio.current_time() - 20
        await trio.sleep(300)
        [(at, reason)] = it.begun
        assert (round(at), reason) == (round(8 * STEADY_SECONDS), "b takes clients")
        it.begun.clear()
        await trio.sleep(LONGEST_SECONDS)
        node.health = Health.DOWN
        await trio.sleep(1)
        node.health = Health.UP
        it.start = trio.current_time()
        await trio.sleep(100)
        assert [round(at) for at, _ in it.begun] == [round(STEADY_SECONDS)]


async def test_what_becomes_of_a_node_while_it_is_drained_is_no_fall(autojump_clock: MockClock) -> None:
    async with world() as it:
        node = it.cluster.get("b")
        for _ in range(3):
            node.set_admin_state(AdminState.DRAIN)
            await trio.sleep(10)
            node.health = Health.DOWN
            await trio.sleep(10)
            node.set_admin_state(AdminState.READY)
            await trio.sleep(10)
            assert not it.begun, "it is not up yet"
            node.health = Health.UP
            await trio.sleep(QUIET_SECONDS + 1)
            assert len(it.begun) == 1
            it.begun.clear()


async def test_a_node_that_flaps_holds_up_the_others_only_while_it_is_up(autojump_clock: MockClock) -> None:
    async with world() as it:
        node = it.cluster.get("b")
        for number in range(6):
            node.health = Health.UP if number % 2 else Health.DOWN
            await trio.sleep(10)
        node.health = Health.DOWN
        it.cluster.apply([SPEC, B, C])
        await trio.sleep(10)
        assert [reason for _, reason in it.begun] == ["c takes clients"]


@pytest.mark.parametrize("down", [False, True])
async def test_a_node_that_is_excused_is_no_reason(down: bool, autojump_clock: MockClock) -> None:
    """Once: with what it still lacks of its weight, also when it is up later. Every other change is one."""
    async with world() as it:
        node = it.cluster.get("b")
        node.set_admin_state(AdminState.DRAIN)
        await trio.sleep(10)
        node.health = Health.DOWN if down else Health.UP
        node.set_admin_state(AdminState.READY)
        it.automatic.excuse("b")
        await trio.sleep(60)
        node.health = Health.UP
        for warm_up in (0.1, 0.5, 1.0):
            node.warm_up = warm_up if down else 1.0
            await trio.sleep(60)
        assert not it.begun
        node.set_admin_state(AdminState.DRAIN)
        await trio.sleep(10)
        node.set_admin_state(AdminState.READY)
        it.automatic.excuse("b")
        it.automatic.excuse("b", excused=False)
        await trio.sleep(60)
        assert [reason for _, reason in it.begun] == ["b takes clients"]


async def test_nothing_begins_while_nodes_are_restarted(autojump_clock: MockClock) -> None:
    async with world() as it:
        it.cluster.get("a").to_restart = True
        it.cluster.apply([SPEC, B, C])
        await trio.sleep(100)
        assert not it.begun
        it.cluster.get("a").to_restart = False
        await trio.sleep(QUIET_SECONDS + 1)
        assert [reason for _, reason in it.begun] == ["c takes clients"]


async def test_when_it_is_due(autojump_clock: MockClock) -> None:
    async with world() as it:
        assert it.automatic.seconds_until_due() == 0
        node = it.cluster.get("b")
        node.set_admin_state(AdminState.DRAIN)
        await trio.sleep(60)
        node.set_admin_state(AdminState.READY)
        assert it.automatic.seconds_until_due() == QUIET_SECONDS
        await trio.sleep(2)
        assert it.automatic.seconds_until_due() == QUIET_SECONDS - 2
        node.health = Health.DOWN
        await trio.sleep(1)
        node.health = Health.UP
        assert it.automatic.seconds_until_due() == STEADY_SECONDS


async def test_a_weight_that_grows_begins_one_again_and_again(autojump_clock: MockClock) -> None:
    async with world() as it:
        node = it.cluster.get("b")
        node.set_admin_state(AdminState.DRAIN)
        await trio.sleep(1)
        node.set_admin_state(AdminState.READY)
        node.warm_up = 0.0
        it.start = trio.current_time()
        for number in range(1, 61):
            node.warm_up = number / 60
            await trio.sleep(1)
        await trio.sleep(60)
        times = [at for at, _ in it.begun]
        assert 10 <= len(times) <= 13
        assert all(later - at >= QUIET_SECONDS for at, later in itertools.pairwise(times))
        assert 59 <= times[-1] <= 66


async def test_what_an_operator_has_begun_goes_on(autojump_clock: MockClock) -> None:
    async with world() as it:
        it.busy = True
        it.rebalances.begin()
        it.cluster.apply([SPEC, B, C])
        await trio.sleep(60)
        assert [why for _, why in it.begun] == [None]
        it.busy = False
        await trio.sleep(1)
        assert [why for _, why in it.begun] == [None, "c takes clients"]
        it.busy = True
        it.cluster.get("c").warm_up = 0.5
        await trio.sleep(6)
        it.cluster.get("c").warm_up = 1.0
        await trio.sleep(6)
        assert len(it.begun) == 4  # one of its own it replaces
