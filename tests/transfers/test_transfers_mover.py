"""The mover: its pace, its order, and what makes it wait, hurry or stop. Time is trio's mock clock: exact and free."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from session_fakes import FakeListener, FakeRelayed
from session_script import ENABLE, ENABLED
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.placement import Placement, PlacementPolicies
from cxfr_proxy.config.table import OnNodeDown
from cxfr_proxy.session.commands import Outcome, Redirected, Resumable, Transferred
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.transfers.client_news import AnyClientNews, Moved
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drains import Drain, Drains
from cxfr_proxy.transfers.memory import AWAITED_SECONDS
from cxfr_proxy.transfers.mover import Mover
from cxfr_proxy.transfers.own_logins import OwnLogins
from cxfr_proxy.transfers.pace import OwnPace, Rate
from cxfr_proxy.transfers.queues import Urgency
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.statistics import TriedRung
from cxfr_proxy.xmpp.connection_transfer import Server


class Tokens(OwnPace):
    """The one bucket, for a mover that has it to itself. ``hurried`` is how many can't wait, as it was told last."""

    hurried = 0

    def rest(self) -> None:
        pass

    def queued(self, *, lost: int, leaving: int, hurried: int, misplaced: int) -> None:
        self.hurried = hurried


class Alone(FakeListener):
    """A house with no other process: whatever has to be known before a client is asked is known at once."""

    def __init__(self, house: House) -> None:
        super().__init__()
        self._house = house

    def client_news(self, news: AnyClientNews) -> None:
        super().client_news(news)
        if isinstance(news, Moved):
            self._house.mover.announced(news.session)


class House:
    """A cluster, its sessions, a mover, and the drains that it is told of, as by a supervisor.

    ``orders`` are all that were given, each with its time.
    """

    def __init__(
        self,
        nodes: str = "a 10.0.0.1 public=a.example.org\nb 10.0.0.2 public=b.example.org:5223",
        policies: PlacementPolicies | None = None,
        on_node_down: OnNodeDown = OnNodeDown.TRANSFER,
        listener: FakeListener | None = None,
        migrates: bool = False,
    ) -> None:
        self.cluster = Cluster(parse_nodes(nodes, "nodes.txt"))
        self.registry = Registry(listener if listener is not None else Alone(self), redirect_window=60.0)
        self.placement = Placement(self.cluster, policies)
        self.pace = Tokens(10.0)
        self.logins = OwnLogins()
        self.mover = Mover(
            self.cluster,
            self.registry,
            self.placement,
            self.pace,
            self.logins,
            on_node_down=on_node_down,
            migrates=migrates,
        )
        self.rate = Rate(self.pace, 10.0)
        self.drains = Drains(self.rate, self)
        self.orders: list[tuple[float, int, Order]] = []
        self.sessions: list[HouseSession] = []
        self.reports: list[tuple[str, str]] = []
        self.last_moves: dict[str, float] = {}

    def populate(self, node: str, count: int, **options: bool) -> list[HouseSession]:
        added = [HouseSession(self, self.registry.new_id(), node, **options) for _ in range(count)]
        for session in added:
            self.registry.add(session)
        self.sessions += added
        return added

    def empty(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> None:
        """As the operator's command does it."""
        self.cluster.get(node).set_admin_state(AdminState.DRAIN)
        self.mover.follow(node, self.drains.begin(node, grace=grace, deadline=deadline, rate=rate).stage)

    def undrain(self, node: str) -> None:
        self.cluster.get(node).set_admin_state(AdminState.READY)
        self.drains.end(node)
        self.mover.undrain(node)

    def drain(self, node: str) -> Drain:
        """It knows why nobody is moved as soon as the mover does."""
        drain = self.drains.by_node[node]
        self.drains.waits(drain, self.waiting_reason(node))
        return drain

    def waiting_reason(self, node: str) -> str | None:
        return self.mover.drains[node].waiting_reason

    @property
    def to_move(self) -> int:
        return sum(self.mover._queues.length(urgency) for urgency in Urgency)

    # --- for the drains

    def of_node(self, node: str) -> NodeCounts:
        return self.registry.counts.of_node(node)

    def awaited(self, node: str) -> int:
        return self.registry.memory.awaited(trio.current_time())[node]

    def tried_on(self, node: str) -> Counter[TriedRung]:
        return Counter()

    def last_move(self, node: str) -> float:
        return self.last_moves.get(node, -math.inf)

    def settle_seconds(self, node: str) -> float:
        return self.cluster.get(node).spec.settle_seconds

    def is_paced(self) -> bool:
        return self.mover.moves.paced

    def stage_changed(self, drain: Drain) -> None:
        self.mover.follow(drain.node, drain.stage, late=drain.late)

    def report(self, event: str, drain: Drain) -> None:
        self.reports.append((event, drain.node))

    @property
    def times(self) -> list[float]:
        return [round(at, 6) for at, _, _ in self.orders]

    @property
    def moved(self) -> list[int]:
        return [number for _, number, _ in self.orders]


class HouseSession(FakeRelayed):
    """One that leaves at once when told, unless ``stays``."""

    def __init__(self, house: House, number: int, node: str, *, stays: bool = False, named: bool = True) -> None:
        jid = f"user{number}@example.org/home" if named else None
        super().__init__(number, node, jid=jid, idle=float(1000 - number))
        self.house = house
        self.stays = stays

    def transfer(self, order: Order) -> None:
        self.house.orders.append((trio.current_time() - self.house_start, self.id, order))
        super().transfer(order)
        if not self.stays:
            self.house.registry.remove(self)

    house_start = 0.0


@asynccontextmanager
async def working(house: House) -> AsyncIterator[House]:
    HouseSession.house_start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.mover.run)
        nursery.start_soon(house.drains.watch)
        yield house
        nursery.cancel_scope.cancel()


# --- pace


async def test_moves_take_the_time_they_should(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 25)
        house.empty("a")
        await trio.sleep(60)
    # Half a second's worth at once, then one each tenth of a second.
    assert house.times == [0.0] * 5 + [round(0.1 * n, 6) for n in range(1, 21)]
    assert sorted(house.moved) == list(range(1, 26))


async def test_the_longest_idle_goes_first(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 10)
        house.empty("a")
        await trio.sleep(10)
    assert house.moved == list(range(1, 11))


@pytest.mark.parametrize("called_off", [True, False])
async def test_a_rate_of_a_drain_s_own_ends_with_it(called_off: bool, autojump_clock: MockClock) -> None:
    async with working(House("a 10.0.0.1\nb 10.0.0.2\nc 10.0.0.3")) as house:
        house.populate("a", 7)
        house.empty("a", rate=2.0)
        await trio.sleep(0.7 if called_off else 20)
        assert house.times == [0.5 * number for number in range(2 if called_off else 7)]
        if called_off:
            house.undrain("a")
        else:
            assert house.drain("a").done
        await trio.sleep(20)
        house.orders.clear()
        house.populate("b", 7)
        house.empty("b")
        await trio.sleep(20)
    assert house.times[-1] - house.times[0] == pytest.approx(0.2)


async def test_a_rate_holds_until_the_last_drain_is_over(autojump_clock: MockClock) -> None:
    async with working(House("a 10.0.0.1\nb 10.0.0.2\nc 10.0.0.3")) as house:
        house.populate("a", 1)
        house.populate("b", 8)
        house.empty("a")
        house.empty("b", rate=2.0)
        await trio.sleep(20)
    assert house.times == [0.5 * number for number in range(9)]


async def test_a_rate_counts_at_once_for_who_is_waiting(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 7)
        house.empty("a", rate=0.001)
        await trio.sleep(1)
        assert len(house.orders) == 1
        house.empty("a", rate=100.0)
        await trio.sleep(1)
    assert len(house.orders) == 7


# --- order


async def test_those_without_a_node_go_before_those_that_can_wait(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        leaving = house.populate("a", 10)
        lost = house.populate("b", 3, named=False)
        house.empty("a")
        await trio.sleep(0.05)
        assert len(house.orders) == 5
        for session in lost:
            house.mover.enqueue_lost(session.id, Trigger.NODE_LOST)
        await trio.sleep(10)
    assert house.moved[5:8] == [session.id for session in lost]
    assert {order.trigger for _, _, order in house.orders[5:8]} == {Trigger.NODE_LOST}
    assert len(house.orders) == len(leaving) + len(lost)


async def test_nobody_is_moved_twice(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 5, stays=True)
        house.empty("a")
        house.mover.look_again()
        await trio.sleep(5)
        house.mover.look_again()
        await trio.sleep(5)
    assert sorted(house.moved) == [1, 2, 3, 4, 5]


async def test_one_that_has_left_costs_no_token(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        sessions = house.populate("a", 20)
        house.empty("a")
        for session in sessions[5:15]:
            house.registry.remove(session)
        await trio.sleep(10)
    assert house.times == [0.0] * 5 + [0.1, 0.2, 0.3, 0.4, 0.5]


async def test_a_lost_one_that_left_while_it_waited_costs_nothing(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        sessions = house.populate("a", 8)
        for session in sessions:
            house.mover.enqueue_lost(session.id, Trigger.NODE_LOST)
        await trio.sleep(0.05)
        house.registry.remove(sessions[5])
        await trio.sleep(10)
    assert house.times == [0.0] * 5 + [0.1, 0.2]
    assert sessions[5].id not in house.moved


# --- where to


async def test_what_a_client_is_told(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        [session] = house.populate("a", 1)
        house.empty("a")
        await trio.sleep(1)
    assert house.orders[0][2] == Order(Trigger.DRAIN, "b", Server("b.example.org", 5223), resumes=False)
    assert session.session.rung is Rung.CXFR


async def test_a_node_without_a_public_address_is_not_told(autojump_clock: MockClock) -> None:
    async with working(House("a 10.0.0.1\nb 10.0.0.2")) as house:
        house.populate("a", 1)
        house.empty("a")
        await trio.sleep(1)
    assert house.orders[0][2] == Order(Trigger.DRAIN, "b", None, resumes=False)


@pytest.mark.parametrize("known", [True, False])
async def test_who_was_redirected_lately_or_would_not_be_known_again_is_told_no_address(
    known: bool, autojump_clock: MockClock
) -> None:
    async with working(House()) as house:
        [session, _] = house.populate("a", 2, named=known)
        if known:
            house.registry.note(session, Redirected(), trio.current_time())
        house.empty("a")
        await trio.sleep(61)
        house.empty("b")
        house.populate("b", 1)
        house.cluster.get("a").set_admin_state(AdminState.READY)
        house.mover.look_again()
        await trio.sleep(1)
    told = [order.server is not None for _, _, order in house.orders]
    assert [order.target for _, _, order in house.orders] == ["b", "b", "a"]
    assert told == [False, known, True]


async def test_nobody_is_moved_onto_a_node_that_is_down(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.cluster.get("b").health = Health.DOWN
        house.populate("a", 20)
        house.empty("a")
        await trio.sleep(10)
        assert not house.orders
        assert house.waiting_reason("a") is not None
        house.cluster.get("b").health = Health.UP
        house.mover.look_again()
        await wait_all_tasks_blocked()
        assert house.waiting_reason("a") is None
        await trio.sleep(10)
    assert len(house.orders) == 20


async def test_those_that_stay_use_up_nobody_s_turn(autojump_clock: MockClock) -> None:
    # A node with a hundred sessions that can go nowhere must not keep those waiting that have lost theirs.
    async with working(House()) as house:
        house.cluster.get("b").health = Health.DOWN
        house.populate("a", 100)
        lost = house.populate("b", 5)
        house.empty("a")
        await trio.sleep(0.01)
        for session in lost:
            house.mover.enqueue_lost(session.id, Trigger.NODE_LOST)
        await trio.sleep(60)
    assert len(house.orders) == 5
    assert max(house.times) < 0.1


async def test_one_whose_node_is_gone_is_told_to_reconnect_where_there_is_no_other(autojump_clock: MockClock) -> None:
    async with working(House("a 10.0.0.1")) as house:
        [session] = house.populate("a", 1)
        house.mover.enqueue_lost(session.id, Trigger.NODE_SHUTDOWN)
        await trio.sleep(1)
    assert house.orders[0][2] == Order(Trigger.NODE_SHUTDOWN)


# --- drains


async def test_a_drain_says_how_it_goes(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 10)
        house.empty("a")
        drain = house.drain("a")
        assert (drain.total, drain.done, drain.deadline) == (10, False, None)
        await trio.sleep(0.15)
        assert house.registry.sessions_on("a") == 10 - 6
        await trio.sleep(5)
        assert house.registry.sessions_on("a") == 0
        assert drain.done


async def test_a_deadline_hurries_the_rest(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 3, stays=True)
        house.populate("a", 40)
        house.populate("b", 2)
        house.empty("a", deadline=2.0)
        await trio.sleep(60)
    hurried = [(at, number) for at, number, order in house.orders if order.hurried]
    assert {round(at, 1) for at, _ in hurried} <= {2.0, 2.1}
    # The three that were asked and stayed, and all whose turn had not come.
    assert sorted(number for _, number in hurried)[:3] == [1, 2, 3]
    assert house.registry.counts.of_node("a").sessions == 3
    assert house.registry.counts.of_node("b").sessions == 2
    assert [session.session.rung for session in house.sessions[:3]] == [Rung.SEE_OTHER_HOST] * 3


async def test_those_that_have_nowhere_to_go_stay_beyond_the_deadline(autojump_clock: MockClock) -> None:
    async with working(House("a 10.0.0.1")) as house:
        house.populate("a", 3)
        house.empty("a", deadline=2.0)
        await trio.sleep(60)
    assert house.orders == []


async def test_a_session_bound_behind_the_deadline_is_hurried_too(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 1)
        house.empty("a", deadline=2.0)
        await trio.sleep(10)
        [late] = house.populate("a", 1)
        house.mover.enqueue_leaving(late.id)
        await trio.sleep(1)
    assert house.orders[-1][2].hurried


async def test_undraining_leaves_the_rest_where_they_are(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.populate("a", 20)
        house.empty("a")
        await trio.sleep(0.35)
        before = list(house.moved)
        assert len(before) == 8
        house.undrain("a")
        house.mover.look_again()
        await trio.sleep(60)
        assert house.moved == before
        house.empty("a")
        await trio.sleep(60)
    assert len(house.orders) == 20


async def test_a_session_bound_late_on_a_leaving_node_moves_on(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.empty("a")
        await trio.sleep(5)
        [late] = house.populate("a", 1)
        house.mover.enqueue_leaving(late.id)
        house.mover.enqueue_leaving(late.id)
        await trio.sleep(5)
    assert house.moved == [late.id]


async def test_a_session_on_a_node_that_stays_is_not_moved(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        [session] = house.populate("a", 1)
        house.mover.enqueue_leaving(session.id)
        await trio.sleep(5)
    assert not house.orders


async def test_a_session_of_a_node_nobody_knows_any_more_moves_on(autojump_clock: MockClock) -> None:
    # Dialled before its line was removed, bound behind it.
    async with working(House()) as house:
        [session] = house.populate("gone", 1)
        house.mover.enqueue_leaving(session.id)
        await trio.sleep(5)
    assert house.moved == [session.id]


async def test_two_drains_share_one_pace(autojump_clock: MockClock) -> None:
    nodes = "a 10.0.0.1\nb 10.0.0.2\nc 10.0.0.3"
    async with working(House(nodes)) as house:
        house.populate("a", 10)
        house.populate("b", 10)
        house.empty("a")
        house.empty("b")
        await trio.sleep(60)
    assert len(house.orders) == 20
    assert house.times[-1] == 1.5
    assert {order.target for _, _, order in house.orders} <= {"a", "b", "c"}
    assert {order.target for _, _, order in house.orders[10:]} == {"c"}


async def test_a_drain_of_nothing(autojump_clock: MockClock) -> None:
    async with working(House()) as house:
        house.empty("a")
        await trio.sleep(1)
        assert house.drain("a").done


# --- everybody


async def test_everybody_leaves(autojump_clock: MockClock) -> None:
    """On any node, at the usual pace, longest idle first; with no word of where to go."""
    async with working(House()) as house:
        for node in ("a", "b", "a"):
            house.populate(node, 5)
        house.mover.leave(Trigger.WORKER_RESTART)
        await trio.sleep(5)
        assert house.times == [0.0] * 5 + [round(0.1 * n, 6) for n in range(1, 11)]
        assert house.moved == list(range(1, 16))
        assert {order for _, _, order in house.orders} == {Order(Trigger.WORKER_RESTART)}
        (late,) = house.populate("b", 1)
        house.mover.enqueue_leaving(late.id)
        await trio.sleep(5)
        assert house.moved[-1] == late.id


async def test_everybody_leaves_also_where_a_drain_has_to_wait(autojump_clock: MockClock) -> None:
    async with working(House("a 10.0.0.1")) as house:
        house.populate("a", 3)
        house.empty("a")
        await trio.sleep(5)
        assert not house.orders
        house.mover.leave(Trigger.WORKER_RESTART)
        await trio.sleep(5)
        assert house.moved == [1, 2, 3]


# --- sessions that go along


SHARED = "a h resume=shared settle=0\nb h\nc h resume=shared weight=1"


@pytest.mark.parametrize(("nodes", "resumes"), [(SHARED, True), (SHARED.replace("c h resume=shared", "c h"), False)])
async def test_who_can_resume_is_sent_where_it_can(nodes: str, resumes: bool, autojump_clock: MockClock) -> None:
    async with working(House(nodes)) as house:
        house.populate("a", 12)
        house.empty("a")
        await trio.sleep(10)
    assert {order.resumes for _, _, order in house.orders} == {resumes}
    assert {order.target for _, _, order in house.orders} == ({"c"} if resumes else {"b", "c"})


@pytest.mark.parametrize("comes", [True, False])
async def test_a_drain_ends_when_those_who_were_cut_have_their_sessions(comes: bool, autojump_clock: MockClock) -> None:
    async with working(House(SHARED)) as house:
        (session,) = house.populate("a", 1, stays=True)
        session.script.client(ENABLE).node(ENABLED)
        house.empty("a")
        await trio.sleep(1)
        (order,) = [order for _, _, order in house.orders]
        tried = ((Rung.CUT, Outcome.MOVED),)
        house.registry.note(session, Transferred(order, tried, 0.0, session.session.node), trio.current_time())
        house.registry.remove(session)
        await trio.sleep(5)
        assert not house.drain("a").done
        assert (house.registry.sessions_on("a"), house.awaited("a"), house.awaited("b")) == (0, 1, 0)
        if comes:
            house.registry.note(HouseSession(house, 9, "c"), Resumable("sm1", "sm1"), trio.current_time())
            assert house.awaited("a") == 0
            await trio.sleep(0.2)
        else:
            await trio.sleep(AWAITED_SECONDS - 4.8)
        assert house.drain("a").done
