"""The stages of a drain: grace, those that are awake, everybody, the rest; and an abort. Time is trio's mock clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import trio
from session_script import ACTIVE, INACTIVE, answer
from test_transfers_mover import House, HouseSession, working
from trio.testing import MockClock

from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.session.tables import State
from cxfr_proxy.transfers.drain_stages import Schedule, Stage
from cxfr_proxy.transfers.slow_logins import LOGIN_SECONDS


def asleep(sessions: list[HouseSession]) -> list[int]:
    """Their ids."""
    for session in sessions:
        session.script.client(INACTIVE)
    return [session.id for session in sessions]


@pytest.mark.parametrize(
    ("grace", "deadline", "stages"),
    [
        (None, None, {0: "all", 100: "all"}),
        (10, None, {0: "grace", 9: "grace", 10: "all", 1000: "all"}),
        (None, 60, {0: "awake", 29: "awake", 30: "all", 59: "all", 60: "rest", 1000: "rest"}),
        (10, 60, {0: "grace", 10: "awake", 30: "all", 60: "rest"}),
        (40, 60, {0: "grace", 39: "grace", 40: "all", 60: "rest"}),
        (0, None, {0: "all"}),
    ],
)
def test_stages_by_the_clock(grace: float | None, deadline: float | None, stages: dict[int, str]) -> None:
    schedule = Schedule(5.0).changed(5.0, grace=grace, deadline=deadline)
    assert {after: schedule.stage(5.0 + after).value for after in stages} == stages


def test_a_later_order_changes_what_it_says_and_nothing_else() -> None:
    schedule = Schedule(0.0).changed(0.0, grace=10, deadline=60)
    assert schedule.changed(5.0, grace=None, deadline=None) == schedule
    assert schedule.changed(5.0, grace=None, deadline=20) == Schedule(10.0, halfway=15.0, deadline=25.0)
    assert schedule.changed(5.0, grace=0, deadline=None) == Schedule(5.0, halfway=30.0, deadline=60.0)


def test_a_drain_is_late_if_too_many_are_left_in_the_second_half_of_its_time() -> None:
    schedule = Schedule(0.0).changed(0.0, grace=10, deadline=60)
    late = {
        now: [left for left in range(101) if schedule.is_late(now, left=left, total=100)] for now in (5, 29, 35, 59)
    }
    assert late == {5: [], 29: [], 35: [*range(51, 101)], 59: [*range(3, 101)]}
    assert not schedule.is_late(60, left=100, total=100)  # they are closed now
    assert not Schedule(0.0).is_late(1000.0, left=100, total=100)


def test_a_late_drain_is_late_until_it_is_a_tenth_ahead() -> None:
    schedule = Schedule(0.0).changed(0.0, grace=10, deadline=60)
    late = {
        now: [left for left in range(101) if schedule.is_late(now, left=left, total=100, already=True)]
        for now in (29, 35, 50, 56, 60)
    }
    assert late == {29: [], 35: [*range(41, 101)], 50: [*range(11, 101)], 56: [*range(1, 101)], 60: []}


@dataclass
class Emptied:
    """A node that is being emptied, in a model in which moves go slowly, or fast where a drain is late."""

    deadline: float
    left: float = 1000.0
    late: bool = False
    changes: int = 0

    def look(self, now: float) -> None:
        schedule = Schedule(0.0).changed(0.0, grace=None, deadline=self.deadline)
        late = schedule.is_late(now, left=math.ceil(self.left), total=1000, already=self.late)
        self.changes += late is not self.late
        self.late = late


@pytest.mark.parametrize("deadlines", [(600,), (600, 600), (600, 900), (300, 1200)])
@pytest.mark.parametrize("slow", [0.5, 0.9, 0.99, 1.0, 1.01])
def test_the_pace_of_drains_that_are_late_now_and_then_changes_seldom(deadlines: Sequence[int], slow: float) -> None:
    """``slow`` is a part of the pace by which all could just be over in time."""
    drains = [Emptied(deadline) for deadline in deadlines]
    needed = sum(1000 / drain.deadline for drain in drains)
    for tenth in range(10 * max(deadlines)):
        now, going = tenth / 10, [drain for drain in drains if drain.left]
        pace = needed * (4 if any(drain.late for drain in drains) else slow)
        for drain in going:
            drain.left = max(0.0, drain.left - pace / len(going) / 10)
            drain.look(now)
            assert drain.left == 0 or now < drain.deadline - 1
    assert max(drain.changes for drain in drains) <= 4


# --- grace


async def test_nobody_is_moved_before_the_grace_is_over(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 7)
        house.empty("a", grace=3.0)
        [late] = house.populate("a", 1)
        house.mover.enqueue_leaving(late.id)
        house.mover.look_again()
        await trio.sleep(2.9)
        drain = house.drain("a")
        assert (house.orders, drain.reason) == ([], "nobody is moved before the grace is over")
        await trio.sleep(10)
        assert drain.done
    assert house.times == pytest.approx([3.0] * 5 + [3.1, 3.2, 3.3], abs=0.11)


async def test_the_lost_do_not_wait_for_a_grace(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        [lost, *_] = house.populate("a", 3)
        house.empty("a", grace=30.0)
        house.mover.enqueue_lost(lost.id, Trigger.NODE_LOST)
        await trio.sleep(1)
    assert house.moved == [lost.id]


async def test_the_deadline_counts_from_the_command(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 100)
        house.empty("a", grace=3.0, deadline=5.0)
        await trio.sleep(20)
    hurried = [at for at, _, order in house.orders if order.hurried]
    assert min(house.times) == pytest.approx(3.0, abs=0.11)
    assert hurried == pytest.approx([5.0] * len(hurried), abs=0.11)
    assert len(hurried) > 50


async def test_a_drain_without_grace_ends_that_of_one_under_way(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 5)
        house.empty("a", grace=30.0)
        await trio.sleep(1)
        house.empty("a")
        await trio.sleep(1)
        assert not house.orders, "it is not what was said"
        house.empty("a", grace=0.0)
        await trio.sleep(1)
    assert len(house.orders) == 5


# --- who is not in use


async def test_without_a_deadline_they_are_only_last(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        last = asleep(house.populate("a", 3))
        house.populate("a", 4)
        house.empty("a")
        await trio.sleep(5)
    assert house.moved == [4, 5, 6, 7, *last]
    assert house.times[-1] == 0.2


async def test_who_falls_asleep_in_the_queue_goes_last_and_who_wakes_up_does_not(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        sleepers = house.populate("a", 4)
        asleep(sleepers)
        others = house.populate("a", 8)
        house.empty("a")
        await trio.sleep(0.05)
        assert house.moved == [5, 6, 7, 8, 9]
        asleep(others[5:6])
        sleepers[3].script.client(ACTIVE)
        house.mover.look_again()
        house.mover.look_again()
        [late] = house.populate("a", 1)
        house.mover.enqueue_leaving(late.id)
        await trio.sleep(5)
    assert house.moved[5:] == [11, 12, 4, 13, 10, 1, 2, 3]
    assert house.times[-1] == pytest.approx(0.8), "nobody's turn is used up"


async def test_they_sleep_for_half_of_the_deadline(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        sleeping = asleep(house.populate("a", 6))
        house.populate("a", 6)
        house.empty("a", deadline=20.0)
        await trio.sleep(5)
        assert house.moved == [7, 8, 9, 10, 11, 12]
        assert "inactive" in (house.drain("a").reason or "")
        house.mover.look_again()  # a reload, a node that is up again
        await trio.sleep(4)
        assert len(house.moved) == 6
        await trio.sleep(2)
    assert house.moved[6:] == sleeping
    assert house.times[6:] == pytest.approx([10.0] * 5 + [10.1], abs=0.11)
    assert not any(order.hurried for _, _, order in house.orders)


async def test_who_wakes_up_is_asked_and_who_falls_asleep_is_not(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        sleepers = house.populate("a", 2)
        asleep(sleepers)
        others = house.populate("a", 7)
        house.empty("a", deadline=20.0)
        await trio.sleep(0.05)
        assert len(house.moved) == 5
        asleep(others[5:6])
        await trio.sleep(2)
        assert house.moved == [*(each.id for each in others[:5]), others[6].id]
        sleepers[1].script.client(ACTIVE)
        house.mover.enqueue_leaving(sleepers[1].id)
        await trio.sleep(1)
        assert house.moved[6:] == [sleepers[1].id]


async def test_who_sleeps_uses_up_nobody_s_turn(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        asleep(house.populate("a", 50))
        house.empty("a", deadline=100.0)
        await trio.sleep(0.01)
        house.populate("b", 5)
        for session in house.sessions[50:]:
            house.mover.enqueue_lost(session.id, Trigger.NODE_LOST)
        await trio.sleep(1)
    assert house.times == [round(at, 6) for at in [0.01] * 5]


async def test_everybody_leaves_a_worker_that_is_replaced_and_they_last(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        last = asleep(house.populate("a", 2))
        house.populate("b", 2)
        house.empty("a", grace=1000.0, deadline=2000.0)
        house.mover.leave(Trigger.WORKER_RESTART)
        await trio.sleep(1)
    assert house.moved == [3, 4, *last]


# --- abort


async def test_an_abort_leaves_the_rest_where_they_are(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 20)
        house.empty("a", deadline=5.0, rate=2.0)
        await trio.sleep(0.6)
        assert len(house.moved) == 2
        house.drains.abort("a")
        drain = house.drain("a")
        assert (drain.reason, drain.deadline) == ("the drain was aborted", None)
        assert house.rate.now == 10.0
        house.cluster.get("b").health = Health.UP
        house.mover.look_again()
        [late] = house.populate("a", 1)
        house.mover.enqueue_leaving(late.id)
        await trio.sleep(60)
        assert len(house.moved) == 2
        assert house.cluster.get("a").admin_state is AdminState.DRAIN, "nobody new comes"
        house.empty("a")
        assert house.drain("a") is drain
        await trio.sleep(60)
        assert len(house.moved) == 21
        assert drain.done
    assert not any(order.hurried for _, _, order in house.orders), "its deadline went with it"


@pytest.mark.parametrize("how", ["abort", "follow", "undrain"])
async def test_who_was_asked_and_does_not_go_stays(how: str, autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        [refuses, silent] = house.populate("a", 2, stays=True)
        [lost] = house.populate("b", 1, stays=True)
        house.cluster.get("a").set_admin_state(AdminState.DRAIN)
        house.mover.follow("a", Stage.ALL) if how == "follow" else house.empty("a")
        house.mover.enqueue_lost(lost.id, Trigger.NODE_LOST)
        await trio.sleep(1)
        assert [each.rung for each in house.sessions] == [Rung.CXFR] * 3
        match how:
            case "abort":
                house.drains.abort("a")
            case "follow":
                house.mover.follow("a", Stage.ABORTED)
            case "undrain":
                house.undrain("a")
        refuses.script.client(answer("error"))
        silent.script.tick()
        lost.script.client(answer("error"))
        assert [each.session.state for each in house.sessions] == [State.BOUND, State.BOUND, State.TRANSFERRING]
        await trio.sleep(60)
        assert len(house.orders) == 3
        house.empty("a")
        await trio.sleep(1)
        assert [order.trigger for _, _, order in house.orders[3:]] == [Trigger.DRAIN] * 2, "a new drain moves them"


async def test_logins_may_take_their_time_where_nobody_is_moved(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        [session] = house.populate("a", 1, named=False)
        session.opened = trio.current_time() - LOGIN_SECONDS - 1
        house.empty("a", grace=2.0)
        await trio.sleep(1.5)
        assert not session.stopped
        house.drains.abort("a")
        await trio.sleep(5)
        assert not session.stopped
        house.cluster.get("b").health = Health.DOWN
        house.empty("a")
        await trio.sleep(1)
        assert session.stopped


async def test_one_that_was_over_and_begins_again_gives_its_rate_back(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.empty("a")
        await trio.sleep(1)
        assert house.drain("a").done
        house.empty("a", rate=2.0)
        assert house.rate.now == 2.0
        await trio.sleep(1)
        assert house.drain("a").done
        assert house.rate.now == 10.0


# --- who is told the stage


async def test_a_stage_that_somebody_else_says(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        sleeping = asleep(house.populate("a", 2))
        house.populate("a", 2)
        house.cluster.get("a").set_admin_state(AdminState.DRAIN)
        for stage, moved in (
            (Stage.GRACE, []),
            (Stage.ABORTED, []),
            (Stage.AWAKE, [3, 4]),
            (Stage.AWAKE, [3, 4]),
            (Stage.ALL, [3, 4, *sleeping]),
        ):
            house.mover.follow("a", stage)
            await trio.sleep(30)
            assert house.moved == moved, stage
        house.populate("a", 1, stays=True)
        house.mover.follow("a", Stage.REST)
        await trio.sleep(30)
        assert [order.hurried for _, _, order in house.orders] == [False] * 4 + [True]


async def test_one_that_could_not_go_goes_when_the_nodes_are_told_again(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 1)
        house.cluster.get("a").set_admin_state(AdminState.DRAIN)
        house.cluster.get("b").health = Health.DOWN
        house.mover.follow("a", Stage.ALL)
        await trio.sleep(1)
        assert house.waiting_reason("a") is not None
        house.cluster.get("b").health = Health.UP
        house.mover.follow("a", Stage.ALL)
        assert house.waiting_reason("a") is None
        await trio.sleep(1)
    assert len(house.moved) == 1
