"""A proxy shares an operator's command with the others, and carries out theirs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.assigned import Pins
from cxfr_proxy.cluster.kept_state import KeptState
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState, NodeSpec
from cxfr_proxy.cluster.shared import Directive, ProxyState
from cxfr_proxy.cluster.sources.source import Reading, Shared, SourceStatus
from cxfr_proxy.cluster.targets import RedirectTargets
from cxfr_proxy.supervisor.peer_proxies import PeerProxies
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drain_stages import Schedule, Stage
from cxfr_proxy.transfers.drains import Drain, Drains
from cxfr_proxy.transfers.pace import OwnPace, Rate
from cxfr_proxy.transfers.statistics import TriedRung

EPOCH = 1_000_000.0
"""The time that the others' clocks show when this one's shows 0."""


class FakeShared:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.id = "one"
        self.pins: dict[str, str] = {}
        self.proxies: dict[str, ProxyState] = {}
        self.pending = 0
        self.on_share: Callable[[float], None] = lambda share: None
        self.on_pins: Callable[[], None] = lambda: None
        self.directives: list[tuple[str, Directive]] = []
        self.states: list[ProxyState] = []

    async def run(self) -> None:
        await trio.sleep_forever()

    def set_directive(self, node: str, directive: Directive) -> None:
        self.directives.append((node, directive))

    def set_pin(self, user: str, node: str | None) -> None:
        self.pins.pop(user, None)
        if node is not None:
            self.pins[user] = node
        self.on_pins()

    def report(self, state: ProxyState) -> None:
        self.states.append(state)


class FakeSource:
    name = "etcd://etcd1:2379/cxfr"

    def __init__(self, shared: Shared | None) -> None:
        self.status = SourceStatus(self.name)
        self.shared = shared

    async def read(self) -> Reading:
        raise AssertionError

    async def next_reading(self) -> Reading:
        raise AssertionError

    def unread(self) -> None:
        raise AssertionError

    def allow(self, targets: RedirectTargets) -> None:
        raise AssertionError

    async def aclose(self) -> None:
        raise AssertionError


class FakeDrainer:
    """Drains as they are, of nodes with ``sessions`` each."""

    def __init__(self) -> None:
        self.sessions = {"a": 5, "b": 7}
        self.settling = False
        self.to_move = 4
        self.reports: list[tuple[str, str]] = []
        self._rate = Rate(OwnPace(100.0), 100.0)
        self._drains = Drains(self._rate, self)

    def of_node(self, node: str) -> NodeCounts:
        return NodeCounts(sessions=self.sessions[node])

    def tried_on(self, node: str) -> Counter[TriedRung]:
        return Counter()

    def stage_changed(self, drain: Drain) -> None:
        pass

    def report(self, event: str, drain: Drain) -> None:
        self.reports.append((event, drain.node))

    @property
    def drains(self) -> dict[str, Drain]:
        return self._drains.by_node

    @property
    def rate(self) -> float:
        return self._rate.now

    @property
    def asked_rate(self) -> float | None:
        return self._rate.asked

    @property
    def share(self) -> float:
        return self._rate.share

    def set_share(self, share: float) -> None:
        self._rate.set_share(share)

    def drain(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> None:
        self._drains.begin(node, grace=grace, deadline=deadline, rate=rate)

    def adopt(self, node: str, schedule: Schedule | None, rate: float | None) -> None:
        self._drains.adopt(node, schedule, rate)

    def abort(self, node: str) -> None:
        self._drains.abort(node)

    def undrain(self, node: str) -> None:
        self._drains.end(node)

    def left(self, node: str) -> int:
        return self.sessions[node]

    def awaited(self, node: str) -> int:
        return 0 if self.settling else 1

    def is_done(self, node: str) -> bool:
        return not self.settling

    def last_move(self, node: str) -> float:
        return -math.inf

    def is_paced(self) -> bool:
        return False

    @property
    def paced_rate(self) -> float | None:
        return None

    def settle_seconds(self, node: str) -> float:
        return 0.0


class FakeWorkers:
    sessions = 12


class FakeAutoRebalance:
    def __init__(self) -> None:
        self.excused: list[str] = []

    def excuse(self, node: str, *, excused: bool = True) -> None:
        self.excused.append(node)

    def seconds_until_due(self) -> float:
        return 0.0


class FakeKept:
    def __init__(self) -> None:
        self.state = KeptState()

    def keep_order(self, node: str, order: Directive | None) -> None:
        self.state.orders.pop(node, None)
        if order is not None:
            self.state.orders[node] = order

    def keep_pin(self, user: str, node: str | None) -> None:
        self.state.pins.pop(user, None)
        if node is not None:
            self.state.pins[user] = node


class FakePinFollower:
    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []

    def pin_changed(self, key: str, node: str | None) -> None:
        self.told.append((key, node))


class House:
    def __init__(self, *, alone: bool = False) -> None:
        self.shared = FakeShared()
        shared: Shared = self.shared
        self.source = FakeSource(None if alone else shared)
        self.cluster = Cluster([NodeSpec("a", Address("a", 1)), NodeSpec("b", Address("b", 1))])
        self.drainer = FakeDrainer()
        self.auto = FakeAutoRebalance()
        self.follower = FakePinFollower()
        self.pins = Pins(follower=self.follower)
        self.kept = FakeKept()
        self.sharing = PeerProxies(
            self.source,
            self.cluster,
            self.drainer,
            pins=self.pins,
            counter=FakeWorkers(),
            kept=self.kept,
            auto=self.auto,
            wall_clock=lambda: EPOCH + trio.current_time(),
        )

    def drain(self, node: str, **terms: float) -> None:
        """As an operator says it here."""
        self.cluster.get(node).set_admin_state(AdminState.DRAIN)
        self.drainer.drain(node, **terms)
        self.sharing.share_directive(node)


async def test_what_is_told(autojump_clock: MockClock) -> None:
    house, at = House(), EPOCH + trio.current_time()
    house.drain("a", grace=10.0, deadline=60.0, rate=5.0)
    assert house.shared.directives.pop() == ("a", Directive(AdminState.DRAIN, at + 10, at + 30, at + 60, rate=5.0))
    house.drainer.abort("a")
    house.sharing.share_directive("a")
    assert house.shared.directives.pop() == ("a", Directive(AdminState.DRAIN, aborted=True))
    house.cluster.get("a").set_admin_state(AdminState.READY)
    house.drainer.undrain("a")
    house.sharing.share_directive("a")
    assert house.shared.directives.pop() == ("a", Directive(AdminState.READY))
    house.sharing.share_directive("a", rebalance=False)
    assert house.shared.directives.pop() == ("a", Directive(AdminState.READY, rebalance=False))
    house.sharing.carry_out({"a": Directive(AdminState.READY, rebalance=False)})
    assert not house.auto.excused, "its own order, which it has carried out"


async def test_a_node_that_is_to_move_nobody_moves_nobody_here(autojump_clock: MockClock) -> None:
    house = House()
    house.sharing.carry_out({"a": Directive(AdminState.DRAIN), "b": Directive(AdminState.READY)})
    assert not house.auto.excused
    for _ in range(2):
        house.sharing.carry_out({"a": Directive(AdminState.READY, rebalance=False), "b": Directive(AdminState.READY)})
    assert house.auto.excused == ["a"], "once"


async def test_what_another_was_told_is_done_by_the_same_clock(autojump_clock: MockClock) -> None:
    house, now = House(), trio.current_time()
    house.sharing.carry_out(
        {"a": Directive(AdminState.DRAIN, EPOCH + now - 5, EPOCH + now + 20, EPOCH + now + 50, rate=5.0)}
    )
    drain = house.drainer.drains["a"]
    assert drain.schedule is not None
    times = drain.schedule.shifted(-now)
    assert (times.grace_end, times.halfway, times.deadline) == pytest.approx((-5, 20, 50))
    assert (str(drain.stage), house.drainer.rate) == (Stage.AWAKE, 5.0)
    house.sharing.carry_out({"a": Directive(AdminState.DRAIN, aborted=True)})
    assert str(drain.stage) == Stage.ABORTED
    house.sharing.carry_out({"a": Directive(AdminState.DRAIN)})  # written by hand: go on
    assert str(drain.stage) == Stage.ALL
    # The list of nodes does it.
    house.sharing.carry_out({"a": Directive(AdminState.READY), "unknown": Directive(AdminState.DRAIN)})
    assert house.drainer.reports == [("drain-begins", "a"), ("drain-aborted", "a")]


async def test_the_echo_of_an_own_order_changes_nothing(autojump_clock: MockClock) -> None:
    house = House()
    house.drain("a", grace=10.0)
    (told,) = house.shared.directives
    house.drainer.drains["a"].done = True
    await trio.sleep(3)
    echo = Directive(AdminState.DRAIN, told[1].grace_end, against=AdminState.READY)
    house.sharing.carry_out({"a": echo})
    house.sharing.carry_out({"a": echo})
    assert house.drainer.drains["a"].done
    assert house.drainer.reports == [("drain-begins", "a")]


async def test_a_node_that_has_to_be_restarted_is_so_for_all(autojump_clock: MockClock) -> None:
    house = House()
    house.cluster.get("a").to_restart = True
    house.sharing.share_directive("a")
    (_, told) = house.shared.directives[0]
    assert (told.admin_state, told.to_restart) == (AdminState.READY, True)
    other = House()
    other.sharing.carry_out({"a": told})
    assert other.cluster.get("a").to_restart
    assert not other.cluster.get("b").to_restart
    marked = []
    for directives in ({"a": Directive(AdminState.READY)}, {"b": told}, {}):
        other.sharing.carry_out(directives)
        marked.append([node.name for node in other.cluster if node.to_restart])
    assert marked == [[], ["b"], []]


async def test_what_is_said_of_oneself(autojump_clock: MockClock) -> None:
    house = House()
    house.cluster.get("b").set_admin_state(AdminState.MAINT)
    with trio.move_on_after(0.1):
        await house.sharing.run()
    assert house.shared.states == [ProxyState(12, 4, {"b": 8})]
    house.drainer.sessions["b"], house.drainer.settling = 0, True
    with trio.move_on_after(0.1):
        await house.sharing.run()
    assert house.shared.states[-1] == ProxyState(12, 4, {"b": 0}, ("b",))


async def test_a_node_is_empty_when_all_say_so(autojump_clock: MockClock) -> None:
    house = House()
    house.shared.proxies = {"one": ProxyState(), "two": ProxyState(9, 3, {"a": 3}), "three": ProxyState()}
    assert house.sharing.left_elsewhere("a") is None  # one has not heard of it
    house.shared.proxies["three"] = ProxyState(left={"a": 2})
    assert house.sharing.left_elsewhere("a") == 5
    assert House(alone=True).sharing.left_elsewhere("a") == 0


async def test_a_node_can_be_stopped_when_it_has_settled_for_all(autojump_clock: MockClock) -> None:
    house = House()
    house.shared.proxies = {"one": ProxyState(left={"a": 0}), "two": ProxyState(left={"a": 0}, settling=("a",))}
    assert house.sharing.left_elsewhere("a") == 0
    assert house.sharing.settles_elsewhere("a")
    assert not house.sharing.settles_elsewhere("b")
    house.shared.proxies["two"] = ProxyState(left={"a": 0})
    assert not house.sharing.settles_elsewhere("a")
    assert not House(alone=True).sharing.settles_elsewhere("a")


async def test_the_share_is_a_part_of_any_rate(autojump_clock: MockClock) -> None:
    house = House()
    house.shared.on_share(0.25)
    assert (house.drainer.rate, house.sharing.source_row().rate) == (100.0, 25.0)
    house.drain("a", rate=8.0)
    assert (house.shared.directives[0][1].rate, house.sharing.source_row().rate) == (8.0, 2.0)


async def test_who_is_cut_off_says_so(autojump_clock: MockClock) -> None:
    house = House()
    assert (house.sharing.caveat, house.sharing.source_row().state) == (None, "well")
    house.source.status.lost("no answer")
    await trio.sleep(5)
    row = house.sharing.source_row()
    assert (row.state, row.lost_seconds, row.reason) == ("lost", 5.0, "no answer")
    assert house.sharing.caveat == (
        "only this proxy knows: etcd has been away for 5 s, and hears of it when it is back"
    )


async def test_alone_there_is_nobody_to_tell(autojump_clock: MockClock) -> None:
    house = House(alone=True)
    house.drain("a")
    await house.sharing.run()
    assert house.shared.directives == []
    house.source.status.lost("no answer")  # DNS: nothing that an operator says concerns it
    assert house.sharing.caveat is None
    assert [(row.own, row.sessions, row.to_move) for row in house.sharing.proxy_rows()] == [(True, 12, 4)]


async def test_pins_are_everybody_s_in_all_their_spellings(autojump_clock: MockClock) -> None:
    house = House()
    house.shared.set_pin("Juliet@Example.org", "a")  # by hand
    house.shared.set_pin("nurse@example.org", "b")
    assert house.pins.nodes == {"juliet@example.org": "a", "nurse@example.org": "b"}
    house.pins.pin("JULIET@example.org", "b")
    house.sharing.share_pin("JULIET@example.org", "b")
    assert house.shared.pins == {"nurse@example.org": "b", "juliet@example.org": "b"}
    assert house.pins.unpin("nurse@example.org")
    house.sharing.share_pin("nurse@example.org", None)
    assert house.shared.pins == house.pins.nodes == {"juliet@example.org": "b"}
    house.follower.told.clear()
    house.shared.on_pins()
    assert house.follower.told == []  # workers hear of changes only


async def test_without_others_an_order_is_kept(autojump_clock: MockClock) -> None:
    house, at = House(alone=True), EPOCH + trio.current_time()
    kept = house.kept.state.orders
    house.drain("a", grace=10.0, deadline=60.0, rate=5.0)
    ready = AdminState.READY
    assert kept == {"a": Directive(AdminState.DRAIN, at + 10, at + 30, at + 60, rate=5.0, against=ready)}
    house.drainer.abort("a")
    house.sharing.share_directive("a")
    assert kept == {"a": Directive(AdminState.DRAIN, aborted=True, against=ready)}
    house.cluster.get("a").set_admin_state(ready)
    house.drainer.undrain("a")
    house.sharing.share_directive("a")
    assert kept == {}, "it is as the list has it"
    house.cluster.apply([NodeSpec("a", Address("a", 1), admin_state=AdminState.MAINT), NodeSpec("b", Address("b", 1))])
    house.cluster.get("a").set_admin_state(ready)
    house.sharing.share_directive("a")
    assert kept == {"a": Directive(ready, against=AdminState.MAINT)}, "another one than the list has it"
    house.sharing.share_pin("JULIET@example.org", "b")
    house.sharing.share_pin("nurse@example.org", "a")
    house.sharing.share_pin("nurse@example.org", None)
    assert house.kept.state.pins == {"juliet@example.org": "b"}


async def test_what_was_kept_holds_again(autojump_clock: MockClock) -> None:
    house, at = House(alone=True), EPOCH + trio.current_time()
    drained = Directive(AdminState.DRAIN, at + 10, at + 30, at + 60, rate=5.0, against=AdminState.READY)
    house.kept.state = KeptState({"a": drained}, pins={"juliet@example.org": "b", "nurse@example.org": "gone"})
    house.sharing.begin({})
    assert house.cluster.get("a").admin_state is AdminState.DRAIN
    assert house.drainer.drains["a"].schedule == Schedule(at - EPOCH + 10, at - EPOCH + 30, at - EPOCH + 60)
    assert house.drainer.rate == 5.0
    assert house.pins.nodes == {"juliet@example.org": "b", "nurse@example.org": "gone"}
    assert house.kept.state.orders == {"a": drained}
    assert set(house.kept.state.pins) == {"juliet@example.org", "nurse@example.org"}, "its node may be back some day"


async def test_an_order_about_maintenance_and_one_that_was_aborted_hold_again(autojump_clock: MockClock) -> None:
    house = House(alone=True)
    aborted = Directive(AdminState.DRAIN, aborted=True, against=AdminState.READY)
    house.kept.state = KeptState({"a": aborted, "b": Directive(AdminState.MAINT)})
    house.sharing.begin({})
    assert house.drainer.drains["a"].stage is Stage.ABORTED
    assert house.cluster.get("b").admin_state is AdminState.MAINT


@pytest.mark.parametrize("when", ["while it runs", "at the start"])
async def test_an_order_is_void_when_the_list_says_something_new(when: str, autojump_clock: MockClock) -> None:
    house, ready = House(alone=True), AdminState.READY
    order = Directive(AdminState.DRAIN, against=ready)
    house.kept.state = KeptState({"a": order, "b": order, "c": order})
    house.cluster.apply([NodeSpec("a", Address("a", 1), admin_state=AdminState.MAINT)])  # and b is gone
    if when == "while it runs":
        house.sharing.carry_out({})
    else:
        house.sharing.begin({})
    assert house.kept.state.orders == {}
    assert house.cluster.get("a").admin_state is AdminState.MAINT


async def test_the_orders_of_a_proxy_that_is_replaced_are_caught_up_with(autojump_clock: MockClock) -> None:
    """It was given some while this one began."""
    house, ready = House(alone=True), AdminState.READY
    before = KeptState({"a": Directive(AdminState.DRAIN, against=ready)}, pins={"juliet@example.org": "a"})
    house.kept.state = before
    house.sharing.begin({})
    drained = Directive(AdminState.DRAIN, aborted=True, against=ready)
    house.kept.state = KeptState({"b": drained}, pins={"nurse@example.org": "b"})
    house.sharing.take_over(before)
    assert [node.admin_state for node in house.cluster] == [ready, AdminState.DRAIN]
    assert {name: drain.stage for name, drain in house.drainer.drains.items()} == {"b": Stage.ABORTED}
    assert house.pins.nodes == {"nurse@example.org": "b"}
    told = house.follower.told.copy()
    house.sharing.take_over(house.kept.state)
    assert house.follower.told == told, "there is nothing new"


async def test_with_others_the_store_is_what_counts(autojump_clock: MockClock) -> None:
    house = House()
    house.kept.state = KeptState({"a": Directive(AdminState.DRAIN)}, pins={"juliet@example.org": "b"})
    house.sharing.begin({})
    assert house.cluster.get("a").admin_state is AdminState.READY
    assert house.pins.nodes == {}
    house.drain("b")
    house.sharing.share_pin("nurse@example.org", "a")
    assert set(house.kept.state.orders) == {"a"}
    assert house.kept.state.pins == {"juliet@example.org": "b"}
