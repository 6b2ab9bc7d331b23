"""Where nodes share sessions, a session younger than two seconds is not moved yet, whatever it is to be moved for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from test_transfers_mover import House, HouseSession, working
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.cluster.nodes import Health, SessionOutlook
from cxfr_proxy.config.table import OnNodeDown
from cxfr_proxy.session.commands import BoundTo, NodeChanged, Outcome, Transferred
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.transfers.rebalances import RebalanceTerms
from cxfr_proxy.transfers.young_sessions import SETTLED_SECONDS

SHARED = "a 10.0.0.1 resume=shared\nb 10.0.0.2 resume=shared"
OWN = SHARED.replace("shared", "own")


def bound(house: House, node: str = "a", *, stays: bool = False) -> HouseSession:
    """One that is bound just now."""
    [session] = house.populate(node, 1, stays=stays)
    house.registry.note(session, BoundTo(session.session.full_jid), trio.current_time())
    return session


def drain(house: House) -> None:
    house.empty("a")


def drain_in_a_hurry(house: House) -> None:
    house.empty("a", deadline=0.5)


def goes_down(house: House) -> None:
    node = house.cluster.get("a")
    node.health, node.session_outlook = Health.DOWN, SessionOutlook.FAILING
    house.mover.follow_health(node)


def move(house: House) -> None:
    house.mover.move("user1@example.org", "b")


def look(house: House) -> None:
    house.mover.look_at(house.sessions[0])


def rebalance(house: House) -> None:
    house.mover.follow_rebalance(RebalanceTerms(1))


def lost(house: House) -> None:
    """Its stream to the node is over, and the node is up."""
    house.sessions[0].script.node_ends()
    house.mover.enqueue_lost(1, Trigger.NODE_LOST)


CASES: dict[str, tuple[Callable[[House], None], Trigger]] = {
    "drain": (drain, Trigger.DRAIN),
    "deadline": (drain_in_a_hurry, Trigger.DRAIN),
    "down": (goes_down, Trigger.NODE_DOWN),
    "move": (move, Trigger.MOVE),
    "wrong node": (look, Trigger.WRONG_NODE),
    "rebalance": (rebalance, Trigger.REBALANCE),
    "lost": (lost, Trigger.NODE_LOST),
}


@pytest.mark.parametrize("nodes", [SHARED, OWN])
@pytest.mark.parametrize("case", CASES)
async def test_it_waits_until_it_has_settled(case: str, nodes: str, autojump_clock: MockClock) -> None:
    begin, trigger = CASES[case]
    async with working(House(nodes)) as house:
        house.cluster.get("a").warm_up = 0.0  # everybody's place is on b
        started = trio.current_time()
        bound(house)
        begin(house)
        await trio.sleep(0.4)
        if nodes is SHARED:
            assert not house.orders
            assert house.to_move == 1
        await trio.sleep(10)
        [(at, _, order)] = house.orders
        assert order.trigger is trigger
        assert order.target == "b"
        if nodes is SHARED:
            assert house.orders[0][0] == pytest.approx(SETTLED_SECONDS, abs=0.11)
        else:
            assert at <= 0.61, "a deadline is half a second away, and looked at every tenth"
        assert trio.current_time() - started > SETTLED_SECONDS
        assert house.to_move == 0


async def test_closing_those_of_a_node_that_is_down_waits_too(autojump_clock: MockClock) -> None:
    async with working(House(SHARED, on_node_down=OnNodeDown.CLOSE)) as house:
        bound(house)
        goes_down(house)
        await trio.sleep(SETTLED_SECONDS - 0.1)
        assert not house.orders
        await trio.sleep(1)
        assert house.orders[0][2].hurried


@pytest.mark.parametrize("how", ["dead", "gone"])
async def test_nobody_waits_for_a_node_that_is_gone(how: str, autojump_clock: MockClock) -> None:
    async with working(House(SHARED)) as house:
        bound(house)
        node = house.cluster.get("a")
        node.health = Health.DOWN
        if how == "dead":
            node.session_outlook = SessionOutlook.DEAD
            house.mover.follow_health(node)
        else:
            lost(house)
        await wait_all_tasks_blocked()
        assert len(house.orders) == 1


async def test_it_stays_where_the_reason_has_gone_meanwhile(autojump_clock: MockClock) -> None:
    async with working(House(SHARED)) as house:
        bound(house)
        house.empty("a")
        await trio.sleep(1)
        house.undrain("a")
        await trio.sleep(10)
        assert not house.orders
        assert house.to_move == 0


async def test_whoever_loses_their_node_meanwhile_goes_as_one_that_has(autojump_clock: MockClock) -> None:
    async with working(House(SHARED)) as house:
        bound(house)
        house.empty("a")
        await trio.sleep(1)
        house.cluster.get("a").health = Health.DOWN
        lost(house)
        await wait_all_tasks_blocked()
        assert [order.trigger for _, _, order in house.orders] == [Trigger.NODE_LOST]


async def test_the_older_ones_go_at_once(autojump_clock: MockClock) -> None:
    async with working(House(SHARED)) as house:
        bound(house)
        await trio.sleep(1.5)
        bound(house)
        house.empty("a")
        await trio.sleep(0.1)
        assert not house.orders
        await trio.sleep(0.5)
        assert house.moved == [1]
        await trio.sleep(2)
        assert house.moved == [1, 2]


async def test_a_session_that_was_taken_to_another_node_is_young_again(autojump_clock: MockClock) -> None:
    house = House(SHARED)
    session = bound(house)
    await trio.sleep(SETTLED_SECONDS)
    house.registry.note(session, NodeChanged("a", "b"), trio.current_time())
    at = trio.current_time()
    assert house.registry.memory.bound_lately(session.id) == at
    assert house.registry.sessions_by_node()["b"] == 1


async def test_a_session_that_was_taken_home_is_not_moved_again_for_a_while(autojump_clock: MockClock) -> None:
    house = House(SHARED)
    session = bound(house)
    assert session.session.full_jid is not None
    order = Order(Trigger.REBALANCE, target="b", migrates=True)
    house.registry.memory.about_to_be_asked(session.session.full_jid, session.client_address, "b", trio.current_time())
    moved = Transferred(order, ((Rung.MIGRATE, Outcome.MOVED),), 0.1, "a")
    house.registry.note(session, moved, trio.current_time())
    memory, now = house.registry.memory, trio.current_time()
    assert memory.held_until(session.id, now) is not None
    assert not memory.was_sent(session.id), "its client is still here, and may come back for its session"
    assert memory.returning_clients.node_for("user1@example.org", session.client_address, now) is None
    assert house.registry.counts.nodes["a"].moved == 1
