"""Sessions that are elsewhere than they belong: who is moved, when, and where to. Time is trio's mock clock."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.lowlevel
from session_fakes import FakeListener
from session_script import ENABLE, ENABLED
from test_transfers_mover import House, HouseSession, working
from trio.testing import MockClock

from cxfr_proxy.cluster.members import UnknownNode
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.placement import PlacementPolicies, PlacementPolicy
from cxfr_proxy.session.commands import Asked, BoundTo, Ended, Outcome, Reason, Resumable, Transferred
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.transfers.client_news import LandedWrong, Moved, Returned, Stayed
from cxfr_proxy.transfers.rebalances import RebalanceTerms
from cxfr_proxy.transfers.relayed import user_of
from cxfr_proxy.worker.queries import rebalance_forecast
from cxfr_proxy.xmpp.connection_transfer import Server

THREE = "a 10.0.0.1 public=a.example.org\nb 10.0.0.2 public=b.example.org\nc 10.0.0.3"
LEAST = PlacementPolicies(PlacementPolicy.LEAST_SESSIONS)


def home_of(house: House, session: HouseSession) -> str:
    home = house.placement.home(user_of(session.session) or "", "example.org")
    assert home is not None
    return home.name


def split(house: House, node: str, count: int) -> tuple[list[HouseSession], list[HouseSession]]:
    """Sessions on that node: those that belong there, and those that don't."""
    there = house.populate(node, count)
    return (
        [session for session in there if home_of(house, session) == node],
        [session for session in there if home_of(house, session) != node],
    )


def log_in(house: House, node: str, jid: str, *, resumed: bool = False) -> HouseSession:
    """A client of that name, with what a service does when it has logged in."""
    session = HouseSession(house, house.registry.new_id(), node)
    session.session._parts.negotiation.full_jid = jid
    house.registry.add(session)
    house.registry.note(session, BoundTo(jid, resumed), trio.current_time())
    house.mover.look_at(session)
    return session


def goes(house: House, session: HouseSession, order: Order) -> None:
    """Report what a session does whose client is asked, and leaves."""
    now = trio.current_time()
    if order.place is not None and order not in [given for _, number, given in house.orders if number == session.id]:
        house.registry.memory.about_to_be_asked(
            session.session.full_jid or "", session.client_address, order.place, now
        )
    house.registry.note(session, Asked(Rung.CXFR, order, True), now)
    house.registry.note(session, Transferred(order, ((Rung.CXFR, Outcome.MOVED),), 0.1, session.session.node), now)
    house.registry.note(session, Ended(Reason.CLIENT_CLOSED, None, 0, 0), now)


# --- logged in on the wrong node


async def test_nobody_is_sent_home_while_nodes_are_restarted(autojump_clock: MockClock) -> None:
    """Nor who was queued before; a move that an operator wants is another matter."""
    async with working(House(THREE)) as house:
        house.cluster.get("c").to_restart = True
        for session in house.populate("a", 30):
            house.mover.look_at(session)
        await trio.sleep(10)
        assert not house.orders
        house.cluster.get("c").to_restart = False
        for session in house.sessions:
            house.mover.look_at(session)
        house.cluster.get("c").to_restart = True
        await trio.sleep(10)
        assert not house.orders
        assert house.mover.move("user1@example.org", "c") == 1
        await trio.sleep(10)
        assert [order.trigger for _, _, order in house.orders] == [Trigger.MOVE]


async def test_who_logs_in_on_a_wrong_node_is_sent_home(autojump_clock: MockClock) -> None:
    async with working(House(THREE)) as house:
        right, wrong = split(house, "a", 30)
        for session in right + wrong:
            house.mover.look_at(session)
        await trio.sleep(60)
        assert {number: order.target for _, number, order in house.orders} == {
            session.id: home_of(house, session) for session in wrong
        }
        assert house.times == [0.0] * 5 + [round(0.1 * n, 6) for n in range(1, len(wrong) - 4)]
        assert {order.trigger for _, _, order in house.orders} == {Trigger.WRONG_NODE}
        servers = {order.target: order.server for _, _, order in house.orders}
        assert servers == {"b": Server("b.example.org", None), "c": None}


def uses_mcabber(session: HouseSession) -> None:
    session.session._parts.client.look("http://mcabber.com/caps#v=")


async def test_who_would_stay_down_is_not_sent_home(autojump_clock: MockClock) -> None:
    """Nor by a rebalance; by the operator's word, and by a drain, yes."""
    async with working(House(THREE)) as house:
        _, wrong = split(house, "a", 30)
        for session in wrong:
            uses_mcabber(session)
            house.mover.look_at(session)
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(60)
        assert not house.orders
        assert house.mover.rebalance_counts().planned == house.mover.rebalance_counts().left == 0
        for session in wrong:
            assert house.mover.move(session.session.full_jid or "", home_of(house, session)) == 1
        assert len(house.orders) == len(wrong)


ALLOWING = "resume=shared migrate=external migrate-address=10.0.0.9:5226"


@pytest.mark.parametrize(
    ("options", "certificate", "counts", "moved"),
    [
        ((ALLOWING, ALLOWING), True, True, True),
        ((ALLOWING, ALLOWING), True, False, False),
        ((ALLOWING, ALLOWING), False, True, False),
        ((ALLOWING, "resume=shared"), True, True, False),
        (("resume=shared", ALLOWING), True, True, False),
    ],
    ids=["it can be taken there", "without XEP-0198", "no certificate", "target", "source"],
)
async def test_who_would_stay_down_is_sent_home_where_nobody_notices(
    options: tuple[str, str], certificate: bool, counts: bool, moved: bool, autojump_clock: MockClock
) -> None:
    """By a rebalance, and by a login on the wrong node."""
    nodes = "".join(f"{name} 10.0.0.1 {option}\n" for name, option in zip("ab", options, strict=True))
    async with working(House(nodes, migrates=certificate)) as house:
        _, wrong = split(house, "a", 12)
        for session in wrong:
            uses_mcabber(session)
            if counts:
                session.script.client(ENABLE).node(ENABLED)
        first, *others = wrong
        house.mover.look_at(first)
        await trio.sleep(10)
        assert house.moved == ([first.id] if moved else [])
        plan = await rebalance_forecast(house.registry, house.cluster, house.placement, None, migrates=certificate)
        assert (plan.sessions, plan.stay_down) == ((len(others), 0) if moved else (0, len(wrong)))
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(60)
        assert house.mover.rebalance_counts().planned == plan.sessions
        assert sorted(house.moved) == [session.id for session in wrong if moved]
        assert all(order.migrates and order.target == "b" for _, _, order in house.orders)


@pytest.mark.parametrize("policy", [PlacementPolicy.LEAST_SESSIONS, PlacementPolicy.FIRST_AVAILABLE])
async def test_where_nobody_has_a_home_nobody_is_wrong(policy: PlacementPolicy, autojump_clock: MockClock) -> None:
    async with working(House(THREE, PlacementPolicies(policy))) as house:
        for session in house.populate("b", 30):
            house.mover.look_at(session)
        await trio.sleep(60)
        assert not house.orders


@pytest.mark.parametrize("what", ["home again", "drained", "down", "gone", "target down", "everybody"])
async def test_its_turn_shows_whether_it_is_still_wrong(what: str, autojump_clock: MockClock) -> None:
    """And what needs no order takes no token."""
    async with working(House("a h\nb h")) as house:
        _, wrong = split(house, "a", 60)
        for session in wrong[:15]:
            house.mover.look_at(session)
        await trio.sleep(0.01)
        first = len(house.orders)
        match what:
            case "home again":
                house.cluster.apply(parse_nodes("a h\nb h weight=0", ""))
            case "drained":
                house.cluster.get("a").set_admin_state(AdminState.DRAIN)
            case "down":
                house.cluster.get("a").health = Health.DOWN
            case "gone":
                house.cluster.apply(parse_nodes("b h", ""))
                house.cluster.forget("a")
            case "target down":
                house.cluster.get("b").health = Health.DOWN
            case "everybody":
                house.mover.leave(Trigger.WORKER_RESTART)
        await trio.sleep(0.45)
        triggers = Counter(order.trigger for _, _, order in house.orders[first:])
        assert not triggers[Trigger.WRONG_NODE]
        if what != "everybody":
            assert not triggers
            house.populate("b", 5)
            for session in house.sessions[-5:]:
                house.mover.enqueue_lost(session.id, Trigger.NODE_LOST)
            await trio.sleep(0.01)
            assert len(house.orders) >= first + 4  # the bucket has filled again


async def test_those_without_a_node_and_those_who_leave_go_first(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h\nc h\nd h")) as house:
        _, wrong = split(house, "a", 20)
        for session in wrong:
            house.mover.look_at(session)
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(0.05)
        assert len(house.orders) == 5
        leaving, lost = house.populate("b", 3), house.populate("c", 3)
        house.empty("b")
        for session in lost:
            house.mover.enqueue_lost(session.id, Trigger.NODE_LOST)
        await trio.sleep(60)
        order = [order.trigger for _, _, order in house.orders[5:]]
        assert order[:6] == [Trigger.NODE_LOST] * 3 + [Trigger.DRAIN] * 3
        assert len(leaving) == 3
        still_wrong = [session for session in wrong[5:] if home_of(house, session) != "a"]
        assert len(house.orders) == 5 + 6 + len(still_wrong)


# --- to and fro


async def test_a_client_that_was_moved_is_left_where_it_lands(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h")) as house:
        _, wrong = split(house, "a", 20)
        jid = wrong[0].session.full_jid
        assert jid is not None
        house.mover.look_at(wrong[0])
        await trio.sleep(1)
        ((_, _, order),) = house.orders
        goes(house, wrong[0], order)
        again = log_in(house, "a", jid + "2")
        await trio.sleep(1)
        assert len(house.orders) == 1
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(1)
        assert again.id not in house.moved
        house.registry.remove(again)
        await trio.sleep(1000)
        house.orders.clear()
        log_in(house, "a", jid)
        await trio.sleep(1)
        assert not house.orders  # it came back wrong, so somebody disagrees
        house.cluster.apply(parse_nodes("a h\nb h weight=2", ""))
        log_in(house, "a", jid)
        await trio.sleep(1)
        assert len(house.orders) == 1


async def test_a_rebalance_asks_again_when_the_window_is_over(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h")) as house:
        _, wrong = split(house, "a", 2)
        house.mover.look_at(wrong[0])
        await trio.sleep(1)
        goes(house, wrong[0], house.orders[0][2])
        again = log_in(house, "a", wrong[0].session.full_jid or "")
        for number, moved in ((1, False), (2, True)):
            house.mover.follow_rebalance(RebalanceTerms(number))
            await trio.sleep(30)
            assert (again.id in house.moved) == moved
            await trio.sleep(30)


async def test_who_was_moved_lately_is_held_and_counted_and_moved_later(autojump_clock: MockClock) -> None:
    """And nobody else then: the others were asked, or have come since."""
    async with working(House("a h\nb h")) as house:
        _, wrong = split(house, "a", 8)
        house.mover.look_at(wrong[0])
        await trio.sleep(1)
        goes(house, wrong[0], house.orders[0][2])
        again = log_in(house, "a", wrong[0].session.full_jid or "")
        await trio.sleep(20)
        forecast = await rebalance_forecast(house.registry, house.cluster, house.placement, None, migrates=False)
        assert (forecast.sessions, forecast.held) == (len(wrong), 1)
        assert forecast.held_seconds == pytest.approx(40)
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(10)
        counts = house.mover.rebalance_counts()
        assert (counts.planned, counts.asked, counts.left) == (len(wrong), 0, 0), "the fakes say nothing of being asked"
        assert counts.held == 1
        assert counts.held_seconds == pytest.approx(30)
        assert again.id not in house.moved
        house.mover.follow_rebalance(None)
        await trio.sleep(40)
        before = len(house.moved)
        _, later = split(house, "a", 8)
        house.mover.follow_rebalance(RebalanceTerms(2, again=True))
        await trio.sleep(10)
        assert house.moved[before:] == [again.id]
        counts = house.mover.rebalance_counts()
        assert (counts.planned, counts.held) == (1, 0)
        house.mover.follow_rebalance(RebalanceTerms(3))
        await trio.sleep(10)
        assert set(house.moved[before + 1 :]) == {session.id for session in later}


async def test_who_was_sent_somewhere_is_led_there(autojump_clock: MockClock) -> None:
    """By name; or by address, once."""
    async with working(House("a h\nb h")) as house:
        _, wrong = split(house, "a", 2)
        goes(house, wrong[0], Order(Trigger.WRONG_NODE, target="b"))
        now = trio.current_time()
        user = user_of(wrong[0].session)
        expected = house.registry.memory.returning_clients
        assert expected.node_for(user, "192.0.2.1", now + 89.9) == "b"
        assert [expected.node_for(None, "192.0.2.1", now) for _ in range(2)] == ["b", None]
        assert expected.node_for(user, "192.0.2.1", now + 90.0) is None
        goes(house, wrong[1], Order(Trigger.DRAIN, target="b"))
        assert expected.node_for(None, "192.0.2.1", now) is None


async def test_who_is_asked_can_be_back_before_his_old_stream_has_ended(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h")) as house:
        _, (session, *_) = split(house, "a", 2)
        session.stays = True
        assert house.mover.move(session.session.full_jid or "", "b") == 1
        assert house.registry.memory.returning_clients.node_for(None, "192.0.2.1", trio.current_time()) == "b"


@pytest.mark.parametrize("name", ["same", "other"])
async def test_who_is_back_is_not_expected_any_more(name: str, autojump_clock: MockClock) -> None:
    """The user needn't have been guessed: the client can have named them, or come to another process."""
    async with working(House("a h\nb h")) as house:
        _, (session, *_) = split(house, "a", 2)
        goes(house, session, Order(Trigger.WRONG_NODE, target="b"))
        back = (session.session.full_jid or "") + ("" if name == "same" else "2")
        if name == "same":
            log_in(house, "b", back)
        else:
            house.registry.memory.returned(back, "192.0.2.1", None, trio.current_time())
        assert house.registry.memory.returning_clients.node_for(None, "192.0.2.1", trio.current_time()) is None


async def test_who_was_asked_and_stays_is_not_expected(autojump_clock: MockClock) -> None:
    """Nor is the next login of that user taken for theirs."""
    async with working(House("a h\nb h")) as house:
        _, (session, *_) = split(house, "a", 2)
        session.stays = True
        assert house.mover.move(session.session.full_jid or "", "b") == 1
        order, now = house.orders[-1][2], trio.current_time()
        house.registry.note(session, Transferred(order, ((Rung.CXFR, Outcome.STAYED),), 0.1, session.session.node), now)
        assert house.registry.memory.returning_clients.node_for(None, "192.0.2.1", now) is None
        assert house.registry.memory.returning_clients.node_for(user_of(session.session), "192.0.2.1", now) is None
        another = log_in(house, "a", f"{user_of(session.session)}/another")
        assert not house.registry.memory.has_returned(another.id)


async def test_what_could_be_resumed_is_looked_for_where_its_client_was_sent(autojump_clock: MockClock) -> None:
    """On its old node it would be resumed, and all was in vain."""
    async with working(House("a h\nb h")) as house:
        (session,) = house.populate("a", 1)
        session.script.client(ENABLE).node(ENABLED)
        now = trio.current_time()
        house.registry.note(session, Resumable("sm1", "sm1"), now)
        assert house.registry.memory.node_of_resumable("sm1") == "a"
        order = Order(Trigger.REBALANCE, target="b")
        house.registry.memory.about_to_be_asked(session.session.full_jid or "", session.client_address, "b", now)
        house.registry.note(session, Asked(Rung.CUT, order, True), now)
        house.registry.note(session, Transferred(order, ((Rung.CUT, Outcome.MOVED),), 0.0, session.session.node), now)
        house.registry.note(session, Ended(Reason.TRANSFERRED, None, 0, 0), now)
        assert house.registry.memory.node_of_resumable("sm1") == "b"
        expected = house.registry.memory.returning_clients
        assert expected.node_for(user_of(session.session), "192.0.2.1", now) == "b"
        assert [expected.node_for(None, "192.0.2.1", now) for _ in range(2)] == ["b", None]


# --- the operator moves one


async def test_a_user_is_moved_at_once(autojump_clock: MockClock) -> None:
    async with working(House(THREE)) as house:
        house.populate("b", 30)
        house.empty("b")
        await trio.sleep(0.01)
        house.orders.clear()
        mine = [log_in(house, "a", f"Romeo@example.org/{resource}") for resource in ("x", "y")]
        log_in(house, "b", "romeo@example.org/z")
        log_in(house, "a", "romeo2@example.org/x")
        assert house.mover.move("romeo@Example.org/y", "b") == 1
        assert house.moved == [mine[1].id]
        assert house.orders[0][2] == Order(
            Trigger.MOVE, target="b", server=Server("b.example.org", None), resumes=False
        )
        assert house.mover.move("romeo@example.org", "b") == 1
        assert house.mover.move("romeo@example.org", "b") == 0
        assert house.mover.move("nobody@example.org", "b") == 0
        with pytest.raises(UnknownNode):
            house.mover.move("romeo@example.org", "x")
        assert house.times == [0.01, 0.01]


async def test_a_user_who_was_moved_is_not_sent_home(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h")) as house:
        right, _ = split(house, "a", 10)
        jid = right[0].session.full_jid
        assert jid is not None
        assert house.mover.move(jid, "b") == 1
        goes(house, right[0], house.orders[0][2])
        log_in(house, "b", jid)
        await trio.sleep(1)
        assert len(house.orders) == 1


# --- rebalances


async def test_a_rebalance_moves_those_who_are_elsewhere(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h")) as house:
        for node in "ab":
            house.populate(node, 30)
        house.mover.follow_rebalance(RebalanceTerms(1))
        house.mover.follow_rebalance(RebalanceTerms(1))
        assert house.mover.rebalance_counts().planning
        await trio.sleep(60)
        wrong = [session for session in house.sessions if home_of(house, session) != session.session.node]
        assert house.moved == [session.id for session in sorted(wrong, key=lambda each: each.id)]
        assert {order.trigger for _, _, order in house.orders} == {Trigger.REBALANCE}
        assert house.times == [0.0] * 5 + [round(0.1 * n, 6) for n in range(1, len(wrong) - 4)]
        counts = house.mover.rebalance_counts()
        assert (counts.number, counts.planned, counts.planning, counts.left) == (1, len(wrong), False, 0)


async def test_a_rebalance_evens_the_load(autojump_clock: MockClock) -> None:
    async with working(House(THREE, LEAST)) as house:
        house.populate("a", 20, stays=True)
        house.populate("b", 10, stays=True)
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(60)
        assert Counter(order.target for _, _, order in house.orders) == {"c": 10}
        assert {house.registry.get(number).session.node for number in house.moved} == {"a"}  # type: ignore[union-attr]


async def test_the_load_is_evened_no_further_than_it_has_to_be(autojump_clock: MockClock) -> None:
    """Others have come to the target meanwhile."""
    async with working(House("a h\nb h", LEAST)) as house:
        house.populate("a", 30, stays=True)
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(0.25)
        assert len(house.orders) == 7
        house.populate("b", 30)
        await trio.sleep(60)
        assert len(house.orders) == 7
        assert house.mover.rebalance_counts().left == 0


async def test_counts_of_a_rebalance(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h", LEAST)) as house:
        assert house.mover.rebalance_counts().number == 0
        there = house.populate("a", 20, stays=True)
        drained = Order(Trigger.DRAIN)
        house.registry.note(there[19], Asked(Rung.CXFR, drained, True), 0.0)
        house.mover.follow_rebalance(RebalanceTerms(7))
        await trio.sleep(0.15)
        (first, second), order = there[:2], house.orders[0][2]
        house.registry.note(first, Asked(Rung.CXFR, order, True), 0.0)
        house.registry.note(second, Asked(Rung.CUT, order, True), 0.0)
        goes(house, first, order)
        counts = house.mover.rebalance_counts()
        assert (counts.number, counts.planned, counts.asked, counts.moved) == (7, 10, 3, 1)
        assert counts.left == 4 + 2
        house.mover.follow_rebalance(None)
        await trio.sleep(60)
        assert len(house.orders) == 6
        assert house.mover.rebalance_counts().number == 0


async def test_another_rebalance_takes_its_place(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h", LEAST)) as house:
        house.populate("a", 40)
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(0.05)
        house.cluster.apply(parse_nodes("a h weight=9\nb h", ""))
        house.mover.follow_rebalance(RebalanceTerms(2, max_share=100.0))
        await trio.sleep(60)
        assert len(house.orders) == 5 + 4  # of the 35 that are left, not of 40


async def test_who_sits_for_long_goes_first_and_who_is_not_looked_at_last(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h", LEAST)) as house:
        there = house.populate("a", 10)
        for session in there[:8]:
            session.script.client("<inactive xmlns='urn:xmpp:csi:0'/>")
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(10)
        assert house.moved == [9, 10, 1, 2, 3]


# --- where clients can come back to another process


class Others(FakeListener):
    """The messages to other processes."""

    @property
    def told(self) -> list[tuple[int, str]]:
        return [(news.session, news.node) for news in self.news if isinstance(news, Moved)]

    @property
    def withdrawn(self) -> list[str]:
        return [news.full_jid for news in self.news if isinstance(news, Stayed)]


async def test_nobody_is_sent_home_before_all_others_know(autojump_clock: MockClock) -> None:
    others = Others()
    async with working(House("a h\nb h", listener=others)) as house:
        _, wrong = split(house, "a", 10)
        house.mover.look_at(wrong[0])
        house.mover.look_at(wrong[0])
        await trio.sleep(1)
        assert others.told == [(wrong[0].id, "b")]
        assert not house.orders
        house.mover.look_at(wrong[0])
        await trio.sleep(1)
        assert len(others.told) == 1, "it is on its way"
        house.mover.announced(wrong[0].id)
        house.mover.announced(wrong[0].id)
        assert house.moved == [wrong[0].id]
        assert house.mover.move(wrong[1].session.full_jid or "", "b") == 1
        assert house.mover.move(wrong[1].session.full_jid or "", "b") == 0, "it is on its way"
        assert house.moved == [wrong[0].id]
        house.mover.announced(wrong[1].id)
        assert house.moved == [wrong[0].id, wrong[1].id]
        assert not others.withdrawn


async def test_who_has_to_leave_is_told_at_once(autojump_clock: MockClock) -> None:
    """Any node that the client comes back to will do."""
    others = Others()
    async with working(House("a h\nb h", listener=others)) as house:
        house.populate("a", 3)
        house.empty("a")
        await trio.sleep(1)
        assert len(house.moved) == 3
        assert not others.told


async def test_all_know_that_a_client_has_landed_wrong(autojump_clock: MockClock) -> None:
    """So a client of the same user is left in peace wherever it logs in next."""
    here, others = House("a h\nb h"), Others()
    async with working(House("a h\nb h", listener=others)) as there:
        _, (session, *_) = split(there, "a", 10)
        jid = session.session.full_jid or ""
        there.mover.look_at(session)
        there.mover.announced(session.id)
        await trio.sleep(1)
        there.mover.announced(session.id)
        goes(there, session, there.orders[0][2])
        log_in(there, "a", jid)
        assert [type(news) for news in others.news] == [Moved, Returned, LandedWrong]
        for news in others.news:
            here.mover.take_news(news)
    async with working(here):
        log_in(here, "a", jid)
        await trio.sleep(1)
        assert not here.orders


@pytest.mark.parametrize("how", ["gone", "another client", "drained"])
async def test_who_is_not_sent_home_after_all_is_withdrawn(how: str, autojump_clock: MockClock) -> None:
    others = Others()
    async with working(House("a h\nb h", listener=others)) as house:
        _, (session, *_) = split(house, "a", 10)
        house.mover.look_at(session)
        await trio.sleep(1)
        if how == "drained":
            session.script.order(Order(Trigger.DRAIN, target="b"))
        else:
            house.registry.remove(session)
        if how == "another client":
            house.registry.add(HouseSession(house, session.id, "a"))
        house.mover.announced(session.id)
        assert others.withdrawn == [session.session.full_jid]
        assert not house.moved


async def test_a_rebalance_goes_on_while_others_are_told(autojump_clock: MockClock) -> None:
    others = Others()
    async with working(House("a h\nb h", listener=others)) as house:
        _, wrong = split(house, "a", 5)
        house.mover.follow_rebalance(RebalanceTerms(1))
        await trio.sleep(10)
        assert sorted(number for number, _ in others.told) == sorted(session.id for session in wrong)
        counts = house.mover.rebalance_counts()
        assert (counts.planned, counts.asked, counts.left) == (len(wrong), 0, len(wrong))
        house.registry.remove(wrong[0])
        for session in wrong:
            house.mover.announced(session.id)
        assert house.mover.rebalance_counts().left == 0


async def test_a_rebalance_ends_also_where_something_more_urgent_moves_the_last(autojump_clock: MockClock) -> None:
    async with working(House("a h\nb h")) as house:
        _, (session, *_) = split(house, "a", 2)
        house.mover.follow_rebalance(RebalanceTerms(1))
        now, order = trio.current_time(), Order(Trigger.REBALANCE, target="b")
        house.registry.note(session, Asked(Rung.CXFR, order, True), now)
        assert house.registry.counts.rebalanced.asked == 1
        hurried = Order(Trigger.DRAIN, target="b", hurried=True)
        tried = ((Rung.CXFR, Outcome.SILENT), (Rung.RESET, Outcome.MOVED))
        house.registry.note(session, Transferred(hurried, tried, 0.1, session.session.node), now)
        assert house.registry.counts.rebalanced.moved == 1
