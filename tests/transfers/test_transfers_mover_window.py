"""The mover takes sessions to other nodes only as fast as their clients bear it, and lets nobody else wait for that."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
from session_fakes import FakeListener
from session_script import ENABLE, ENABLED, INACTIVE
from test_transfers_mover import House, HouseSession, working
from trio.testing import MockClock

from cxfr_proxy.cluster.nodes import Health, SessionOutlook
from cxfr_proxy.net.waits import TRIO
from cxfr_proxy.session.commands import Asked, Outcome, Transferred
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.transfers.client_news import Moved
from cxfr_proxy.transfers.move_window import WindowState
from cxfr_proxy.transfers.own_logins import AT_ONCE

LETS_GO = "resume=shared settle=0 migrate=external migrate-address=10.0.0.9:5226"
NODES = f"a 10.0.0.1 {LETS_GO}\nb 10.0.0.2 {LETS_GO}\nc 10.0.0.3 {LETS_GO}"


class MigratingSession(HouseSession):
    """One that the proxy can take to another node. That takes until it has :meth:`arrived`."""

    def __init__(self, house: House, node: str) -> None:
        super().__init__(house, house.registry.new_id(), node, stays=True)
        self._obeys = False
        self.script.client(ENABLE).node(ENABLED)
        house.registry.add(self)

    def transfer(self, order: Order) -> None:
        super().transfer(order)
        if order.migrates:
            self.house.mover.note(self.id, Asked(Rung.MIGRATE, order, first=True))

    def arrived(self, held: float = 0.001) -> None:
        tried = ((Rung.MIGRATE, Outcome.MOVED),)
        self.house.mover.note(self.id, Transferred(self.orders[-1], tried, 0.1, "a", held))
        self.house.registry.remove(self)


def populated(house: House, count: int, node: str = "a") -> dict[int, MigratingSession]:
    return {session.id: session for session in (MigratingSession(house, node) for _ in range(count))}


def under_way(house: House, sessions: dict[int, MigratingSession]) -> list[MigratingSession]:
    return [sessions[number] for number in house.moved if house.registry.get(number) is not None]


async def all_arrive(house: House, sessions: dict[int, MigratingSession]) -> list[int]:
    """How many were under way at once, each time."""
    counts: list[int] = []
    while moving := under_way(house, sessions):
        counts.append(len(moving))
        for session in moving:
            session.arrived()
        await trio.sleep(0.1)
    return counts


async def test_more_at_once_the_longer_their_clients_are_held_for_short_times(autojump_clock: MockClock) -> None:
    async with working(House(NODES, migrates=True)) as house:
        sessions = populated(house, 500)
        house.empty("a", rate=1000.0)
        await trio.sleep(10)
        assert len(house.orders) == 1
        assert house.mover.moves == WindowState(1, 1, paced=True)
        counts = await all_arrive(house, sessions)
        assert counts[:16] == [1] * 16
        assert max(counts) == AT_ONCE
        assert len(house.orders) == 500
        assert not house.mover.moves.paced
        # The next drain begins as the first one did.
        populated(house, 20, "b")
        house.empty("b", rate=1000.0)
        await trio.sleep(1)
        assert len(house.orders) == 501


async def test_a_drain_knows_how_fast_it_goes(autojump_clock: MockClock) -> None:
    """And later plans go by that, if it was not the rate that bounded it."""
    async with working(House(NODES, migrates=True)) as house:
        sessions = populated(house, 60)
        house.empty("a", rate=1000.0)
        await trio.sleep(0.5)
        assert house.drain("a").per_second is None
        for _ in range(10):
            under_way(house, sessions)[0].arrived(held=0.01)
            house.registry.counts.of_node("a").moved += 1
            await trio.sleep(0.5)
        assert house.drain("a").per_second == pytest.approx(2.0, rel=0.2)
        assert house.drains.paced_rate == house.drain("a").per_second
        house.drains.abort("a")
        await trio.sleep(100)
        assert house.drain("a").per_second is None
        house.empty("a", rate=1000.0)
        for _ in range(10):
            under_way(house, sessions)[0].arrived(held=0.01)
            house.registry.counts.of_node("a").moved += 1
            await trio.sleep(0.5)
        assert house.drain("a").per_second == pytest.approx(2.0, rel=0.3), "the pause does not count"
        house.drains.abort("a")


async def test_the_rate_is_still_the_most(autojump_clock: MockClock) -> None:
    async with working(House(NODES, migrates=True)) as house:
        sessions = populated(house, 20)
        house.empty("a", rate=1.0)
        await trio.lowlevel.checkpoint()
        began = trio.current_time()
        while len(house.orders) < 20:
            for session in under_way(house, sessions):
                session.arrived()
            await trio.sleep(0.01)
        assert trio.current_time() - began == pytest.approx(19.0, abs=0.1)
        assert house.drains.paced_rate is None
        assert not house.mover.moves.paced


async def test_who_is_told_to_move_waits_for_nobody_who_is_taken(autojump_clock: MockClock) -> None:
    """One that is without a node, one of another node's that can't be taken, and one of a node that is dead."""
    async with working(House(f"{NODES}\nd 10.0.0.4", migrates=True)) as house:
        populated(house, 3)
        dead = populated(house, 2, "b")
        lost, other = *house.populate("b", 1), *house.populate("d", 1)
        house.empty("a", rate=1000.0)
        await trio.sleep(1)
        assert len(house.orders) == 1
        house.mover.enqueue_lost(lost.id, Trigger.NODE_LOST)
        await trio.sleep(1)
        assert house.moved[1:] == [lost.id]
        node = house.cluster.get("b")
        node.health, node.session_outlook = Health.DOWN, SessionOutlook.DEAD
        house.mover.follow_health(node)
        await trio.sleep(1)
        assert house.moved[2:] == [*dead]
        assert not any(order.migrates for _, _, order in house.orders[1:])
        house.empty("d")
        await trio.sleep(1)
        assert house.moved[4:] == [other.id]
        assert house.mover.moves.paced


async def test_sessions_of_a_node_that_fails_are_taken_as_fast_as_they_can_be(autojump_clock: MockClock) -> None:
    """They could end any moment. But no more than the proxy has turns for: they would run out of time."""
    async with working(House(NODES, migrates=True)) as house:
        sessions = populated(house, 20)
        node = house.cluster.get("a")
        house.rate.ask(1000.0)
        node.health, node.session_outlook = Health.DOWN, SessionOutlook.FAILING
        house.mover.follow_health(node)
        await trio.sleep(1)
        assert len(house.orders) == AT_ONCE
        assert all(order.migrates for _, _, order in house.orders)
        under_way(house, sessions)[0].arrived()
        await trio.sleep(1)
        assert len(house.orders) == AT_ONCE + 1


async def test_a_drain_that_is_late_is_in_a_hurry(autojump_clock: MockClock) -> None:
    """What is left at its deadline is closed, and its clients notice that more than being held."""
    async with working(House(NODES, migrates=True)) as house:
        sessions = populated(house, 100)
        house.empty("a", rate=1000.0, deadline=60.0)
        await trio.sleep(29)
        assert len(house.orders) == 1
        await trio.sleep(2)
        assert house.drain("a").late
        under_way(house, sessions)[0].arrived()
        await trio.sleep(1)
        assert len({*house.moved}) == 1 + AT_ONCE
        for session in [*sessions.values()][-80:]:
            house.registry.remove(session)
        await trio.sleep(1)
        assert not house.drain("a").late
        for session in under_way(house, sessions)[1:]:
            session.arrived()
        await trio.sleep(1)
        assert len({*house.moved}) == 1 + AT_ONCE
        house.drains.abort("a")


async def test_a_drain_that_is_late_does_not_wait_for_another_one(autojump_clock: MockClock) -> None:
    async with working(House(NODES, migrates=True)) as house:
        sessions = populated(house, 20) | populated(house, 5, "b")
        house.empty("a", rate=1000.0)
        house.empty("b", deadline=60.0)
        await trio.sleep(29)
        assert len(house.orders) == 1
        await trio.sleep(2)
        assert len(house.orders) == 1 + 5, "no more of the other one: their clients would be held for longer"
        await all_arrive(house, sessions)
        assert len(house.orders) == 25
        assert not any(order.hurried for _, _, order in house.orders)


async def test_a_late_drain_whose_clients_were_all_told_hurries_nobody(autojump_clock: MockClock) -> None:
    async with working(House(f"{NODES}\nd 10.0.0.4", migrates=True)) as house:
        populated(house, 20)
        told = house.populate("d", 5, stays=True)
        house.empty("d", rate=1000.0, deadline=60.0)
        house.empty("a")
        await trio.sleep(32)
        assert house.drain("d").late
        assert len({*house.moved}) == len(told) + 1
        house.drains.abort("a")
        house.drains.abort("d")


async def test_those_of_a_late_drain_go_before_those_of_another_one(autojump_clock: MockClock) -> None:
    """However many there are: they wait at the same rate, and what is left at the deadline is closed."""
    async with working(House("a 10.0.0.1\nb 10.0.0.2\nc 10.0.0.3")) as house:
        house.populate("a", 2000)
        late = house.populate("b", 40)
        house.empty("a")
        house.empty("b", deadline=60.0)
        await trio.sleep(29)
        assert not {session.id for session in late} & {*house.moved}
        await trio.sleep(30)
        assert {session.id for session in late} <= {*house.moved}
        assert len(house.orders) < 640, "at the rate"
        assert not any(order.hurried for _, _, order in house.orders), "nobody was closed"
        house.drains.abort("a")
        house.drains.abort("b")


async def test_each_session_of_a_late_drain_is_counted_once(autojump_clock: MockClock) -> None:
    async with working(House("a 10.0.0.1\nb 10.0.0.2\nc 10.0.0.3")) as house:
        house.populate("a", 1000)
        house.populate("b", 200)
        house.empty("a")
        house.empty("b", deadline=40.0)
        await trio.sleep(22)
        assert house.drain("b").late
        assert house.to_move == sum(1 for _ in house.registry)
        house.drains.abort("a")
        house.drains.abort("b")


async def test_who_has_just_logged_in_to_a_late_drain_s_node_goes_first_as_well(autojump_clock: MockClock) -> None:
    async with working(House("a 10.0.0.1\nb 10.0.0.2\nc 10.0.0.3")) as house:
        house.populate("a", 1000)
        house.populate("b", 160)
        house.empty("a")
        house.empty("b", deadline=40.0)
        await trio.sleep(22)
        assert house.drain("b").late
        (new,) = house.populate("b", 1)
        house.mover.enqueue_leaving(new.id)
        await trio.sleep(16)
        assert new.id in house.moved
        house.drains.abort("a")
        house.drains.abort("b")


async def test_those_that_are_late_no_more_let_others_go_who_need_no_room(autojump_clock: MockClock) -> None:
    async with working(House(f"{NODES}\nd 10.0.0.4", migrates=True)) as house:
        sessions = populated(house, 100)
        house.empty("a", rate=1000.0, deadline=60.0)
        await trio.sleep(31)
        assert house.drain("a").late
        for session in [*sessions.values()][8:95]:
            house.registry.remove(session)
        await trio.sleep(1)
        assert not house.drain("a").late
        assert house.pace.hurried == 0
        told = house.populate("d", 3)
        house.empty("d")
        await trio.sleep(1)
        assert {session.id for session in told} <= {*house.moved}
        assert len({*house.moved}) == AT_ONCE + len(told)
        house.drains.abort("a")


async def test_those_of_a_late_drain_let_others_go_who_need_no_room(autojump_clock: MockClock) -> None:
    async with working(House(NODES, migrates=True)) as house:
        populated(house, 20)
        house.empty("a", rate=1000.0, deadline=60.0)
        await trio.sleep(32)
        assert house.drain("a").late
        told = house.populate("a", 5)
        house.mover.look_again()
        await trio.sleep(1)
        assert {session.id for session in told} <= {*house.moved}
        assert len({*house.moved}) == len(told) + AT_ONCE
        house.drains.abort("a")


async def test_those_without_room_hold_up_nobody_who_needs_none(autojump_clock: MockClock) -> None:
    """Sessions of a node that fails and of a late drain have no room; those of other nodes can't be taken anyway."""
    async with working(House(f"{NODES}\nd 10.0.0.4\ne 10.0.0.5", migrates=True)) as house:
        house.rate.ask(1000.0)
        sessions = populated(house, 20) | populated(house, 20, "b")
        node = house.cluster.get("b")
        node.health, node.session_outlook = Health.DOWN, SessionOutlook.FAILING
        house.mover.follow_health(node)
        house.empty("a", deadline=60.0)
        await trio.sleep(32)
        assert house.drain("a").late
        assert len(house.orders) == AT_ONCE
        drained, asleep = house.populate("d", 3), house.populate("e", 1)
        asleep[0].script.client(INACTIVE)
        house.empty("d")
        house.empty("e")
        await trio.sleep(1)
        assert {session.id for session in drained + asleep} <= {*house.moved}
        assert len(house.orders) == AT_ONCE + 4
        assert house.mover.moves.paced, "the others still wait for room"
        assert house.pace.hurried == 40 - AT_ONCE, "only they want tokens"
        under_way(house, sessions)[0].arrived()
        await trio.sleep(1)
        assert under_way(house, sessions)[-1].script.session.node == "b", "the most urgent one has the room"
        house.drains.abort("a")


async def test_those_for_which_there_is_room_again_go_before_others(autojump_clock: MockClock) -> None:
    """Tokens are what is scarce then."""
    async with working(House(f"{NODES}\nd 10.0.0.4", migrates=True)) as house:
        sessions = populated(house, 20)
        house.empty("a", rate=1.0, deadline=60.0)
        await trio.sleep(32)
        assert house.drain("a").late
        told = house.populate("d", 20)
        house.empty("d")
        await trio.sleep(10)
        assert house.mover.moves.paced, "although others move"
        for session in under_way(house, sessions):
            session.arrived()
        before = [number for number in house.moved if number in sessions]
        await trio.sleep(4)
        assert len([number for number in house.moved if number in sessions]) >= len(before) + 3
        assert {session.id for session in told} - {*house.moved}, "some of them still wait"
        house.drains.abort("a")


async def test_a_drain_that_is_late_no_more_waits_its_turn_again(autojump_clock: MockClock) -> None:
    async with working(House(NODES, migrates=True)) as house:
        sessions = populated(house, 100) | populated(house, 100, "b")
        house.empty("b", rate=1000.0)
        house.empty("a", deadline=60.0)
        await trio.sleep(31)
        assert house.drain("a").late
        assert len(house.orders) == AT_ONCE
        for session in [*sessions.values()][8:95]:  # they have left by themselves
            house.registry.remove(session)
        await trio.sleep(1)
        assert not house.drain("a").late
        for session in under_way(house, sessions):
            session.arrived()
        await trio.sleep(1)
        (last,) = under_way(house, sessions)
        assert last.script.session.node == "b", "whose sessions had been in the queue before"
        house.drains.abort("a")
        house.drains.abort("b")


async def test_one_that_is_over_makes_room_whatever_it_has_reported(autojump_clock: MockClock) -> None:
    async with working(House(NODES, migrates=True)) as house:
        sessions = populated(house, 2)
        house.empty("a", rate=1000.0)
        await trio.sleep(1)
        [moving] = under_way(house, sessions)
        house.registry.remove(moving)
        house.mover.forget(moving.id)
        await trio.sleep(1)
        assert len(house.orders) == 2


async def test_those_of_a_worker_that_goes_do_not_wait(autojump_clock: MockClock) -> None:
    async with working(House(NODES, migrates=True)) as house:
        populated(house, 5)
        house.empty("a", rate=1000.0)
        await trio.sleep(1)
        assert len(house.orders) == 1
        house.mover.leave(Trigger.WORKER_RESTART)
        await trio.sleep(1)
        assert set(house.moved) == {1, 2, 3, 4, 5}


async def test_nobody_is_taken_while_all_turns_for_logins_are_taken(autojump_clock: MockClock) -> None:
    """For sessions whose connection to their node broke, say."""
    async with working(House(NODES, migrates=True)) as house:
        for _ in range(AT_ONCE):
            await house.logins.take_turn(TRIO)
        sessions = populated(house, 7)
        house.empty("a", rate=1000.0)
        await trio.sleep(60)
        assert house.orders == []
        for _ in range(AT_ONCE):
            house.logins.end_turn()
        await trio.sleep(1)
        assert sum(await all_arrive(house, sessions)) == 7


async def test_those_whose_place_is_being_announced_count_as_well(autojump_clock: MockClock) -> None:
    listener = FakeListener()  # the other processes have not said yet that they know
    async with working(House(NODES, migrates=True, listener=listener)) as house:
        sessions = populated(house, 6)
        house.rate.ask(1000.0)
        wrong = [each for each in sessions.values() if house.mover._homes.is_misplaced(each.session)]
        assert len(wrong) > 2
        for session in wrong:
            house.mover.look_at(session)
        await trio.sleep(1)
        assert [type(news) for news in listener.news] == [Moved]
        assert house.orders == []
        # It has ended meanwhile: then it is the next one's turn, at once.
        house.registry.remove(wrong[0])
        house.mover.announced(wrong[0].id)
        await trio.sleep(1)
        assert sum(type(news) is Moved for news in listener.news) == 2
