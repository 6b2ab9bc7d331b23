"""When nodes are looked at, and what is told of them, on a clock of its own. The consequences of findings:
tests/cluster/test_cluster_health.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.cluster.health import FAILED_LOGINS, HOLD_SECONDS, Finding
from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import Health, NodeSpec, SessionOutlook
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.upstream.health_checks import AT_ONCE, JITTER, MAX_FEATURES_BYTES, TURNS_A_SECOND, HealthChecks
from cxfr_proxy.upstream.probe import ProbeResult


class FakeLooks:
    """Finds of each node what the test wants, after as many seconds as it wants."""

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}
        self.seconds: dict[str, float] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.times: dict[str, list[float]] = {}
        self.running: set[str] = set()
        self.streams: list[bool] = []
        self.more_features = ""

    async def look(self, spec: NodeSpec, domain: str | None, *, seconds: float, stream: bool = True) -> ProbeResult:
        assert spec.name not in self.running, "checks of one node overlap"
        self.running.add(spec.name)
        self.times.setdefault(spec.name, []).append(trio.current_time())
        self.asked.append((spec.name, domain))
        self.streams.append(stream)
        finding = self.findings.get(spec.name) or self.findings.get(str(domain)) or Finding.OK
        await trio.sleep(min(seconds, self.seconds.get(spec.name, 0.0)))
        self.running.discard(spec.name)
        if finding is not Finding.OK:
            return ProbeResult(finding, f"{finding} by {spec.name}")
        features = f"<features>{domain}</features>{self.more_features}".encode() if domain and stream else None
        return ProbeResult(Finding.OK, features=features)


class World:
    def __init__(self, nodes: str, *domains: str) -> None:
        self.cluster = Cluster(parse_nodes(nodes, "nodes.txt"))
        self.looks = FakeLooks()
        self.changes: list[tuple[str, Health, SessionOutlook]] = []
        self.warm_ups: list[float] = []
        self.featured: list[str] = []
        self.changed_at = -1.0
        self._seen = {node.name: (node.health, node.session_outlook, node.warm_up) for node in self.cluster}
        self._features = {node.name: node.features for node in self.cluster}
        self.cluster.watch(self._changed)
        self.checks = HealthChecks(self.cluster, self.looks.look, domains=domains, rng=random.Random(1))

    def _changed(self, name: str) -> None:
        """Health and outlook may change in one instant, one after the other; that is one change."""
        if name not in self.cluster:
            return  # it was forgotten
        node = self.cluster.get(name)
        health, outlook, warm_up = self._seen.get(name, (Health.UP, SessionOutlook.GOOD, 1.0))
        self._seen[name] = node.health, node.session_outlook, node.warm_up
        if self._features.get(name, {}) != node.features:
            self._features[name] = node.features
            self.featured.append(name)
        if warm_up != node.warm_up:
            self.warm_ups.append(node.warm_up)
        if (health, outlook) != (node.health, node.session_outlook):
            if self.changes and self.changes[-1][0] == name and self.changed_at == trio.current_time():
                self.changes.pop()
            self.changes.append((name, node.health, node.session_outlook))
            self.changed_at = trio.current_time()

    def node(self, name: str) -> Node:
        return self.cluster.get(name)


Begin = Callable[..., World]


@pytest.fixture
def begin(nursery: trio.Nursery) -> Begin:
    def begin(nodes: str = "a 10.0.0.1\nb 10.0.0.2", *domains: str) -> World:
        world = World(nodes, *domains)
        nursery.start_soon(world.checks.run)
        return world

    return begin


# --- when


async def test_the_pace(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1 inter=2s fast-inter=500ms\nb 10.0.0.2")
    await trio.sleep(200)
    calm = [later - earlier for earlier, later in pairwise(world.looks.times["a"])]
    assert calm[0] < 2.0, "the first pause is any part of one: nodes are not looked at in step"
    assert all(2 * (1 - JITTER) <= pause <= 2 * (1 + JITTER) for pause in calm[1:])
    assert len({round(pause, 3) for pause in calm}) > 50
    assert abs(sum(calm[1:]) / len(calm[1:]) - 2.0) < 0.1
    world.looks.times["a"].clear()
    world.looks.findings["a"] = Finding.FAILED
    await trio.sleep(20)
    times = world.looks.times["a"]
    assert (world.node("a").checks_failed, world.node("b").checks_failed) == (len(times), 0)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert [pause < 1.0 for pause in pauses[:4]] == [True, True, False, False], "fast as long as there is doubt"
    world.looks.findings.clear()
    world.looks.times["a"].clear()
    await trio.sleep(10)
    pauses = [later - earlier for earlier, later in pairwise(world.looks.times["a"])]
    assert [pause < 1.0 for pause in pauses[:3]] == [True, False, False]
    assert all(0.5 * (1 - JITTER) <= pause <= 0.5 * (1 + JITTER) for pause in pauses[:1])


async def test_a_long_list_is_not_looked_at_in_one_moment(begin: Begin, autojump_clock: MockClock) -> None:
    """Neither at the start, nor when it is read anew; a few new nodes are looked at at once."""
    started = trio.current_time()
    world = begin("".join(f"n{number} 10.0.0.1 inter=1h\n" for number in range(AT_ONCE + 400)))

    def times() -> list[float]:
        return sorted(times[0] for times in world.looks.times.values())

    await trio.sleep(10)
    assert len(times()) == AT_ONCE + 400
    assert times()[AT_ONCE - 1] == pytest.approx(started)
    assert times()[-1] - started == pytest.approx(400 / TURNS_A_SECOND)
    world.looks.times.clear()
    for node in world.cluster:
        world.checks.reread(node)
    began = trio.current_time()
    await trio.sleep(10)
    assert len(times()) == AT_ONCE + 400
    assert times()[-1] - began == pytest.approx(400 / TURNS_A_SECOND)


async def test_one_that_is_not_checked_costs_nothing_while_it_is_well(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1 check=none slowstart=10s")
    await trio.sleep(1)
    checks = 0
    usual = world.checks._check

    async def counted(watch: object) -> None:
        nonlocal checks
        checks += 1
        await usual(watch)  # type: ignore[arg-type]

    world.checks._check = counted  # type: ignore[method-assign]
    await trio.sleep(1000)
    assert checks == 0
    world.checks.connect_failed(world.node("a"), "connection refused")
    assert world.node("a").health is Health.DOWN
    await trio.sleep(1000)
    assert world.node("a").health is Health.UP
    assert world.node("a").warm_up == 1.0
    assert checks < 10


async def test_the_task_of_a_node_that_is_forgotten_ends(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1 check=none\nb 10.0.0.2 check=none")
    await trio.sleep(1)
    world.cluster.apply([world.node("b").spec])
    world.cluster.forget("a")
    await trio.sleep(1)
    assert list(world.checks._watches) == ["b"]


async def test_features_are_kept_within_bounds(begin: Begin, autojump_clock: MockClock) -> None:
    """As many as the node is asked for, and of a sane length: a node may send any, and others every time."""
    world = begin("a 10.0.0.1 domain=x.example,y.example")
    for number in range(100):
        world.looks.more_features = f"<n>{number}</n>"
        await trio.sleep(2)
    assert sorted(world.node("a").features) == ["x.example", "y.example"]
    world.looks.more_features = "x" * MAX_FEATURES_BYTES
    await trio.sleep(10)
    assert world.node("a").features == {}
    assert world.node("a").health is Health.UP
    world.looks.more_features = ""
    await trio.sleep(10)
    world.cluster.apply(parse_nodes("a 10.0.0.1 domain=y.example", "nodes.txt"))
    world.checks.reread(world.node("a"))
    await trio.sleep(10)
    assert sorted(world.node("a").features) == ["y.example"]


async def test_a_silent_node_holds_up_no_other_and_is_not_asked_twice_at_once(
    begin: Begin, autojump_clock: MockClock
) -> None:
    world = begin("a 10.0.0.1 inter=1s\nb 10.0.0.2 inter=1s")
    await trio.sleep(10)
    world.looks.findings["a"], world.looks.seconds["a"] = Finding.SILENT, 1000.0
    world.looks.times["b"].clear()
    await trio.sleep(5)
    assert world.changes == [("a", Health.DOWN, SessionOutlook.DEAD)]
    assert len(world.looks.times["b"]) >= 4


class Logins:
    """Clients who log in again and again, until told to stop."""

    def __init__(self, world: World, *domains: str) -> None:
        self._world = world
        self._domains = domains
        self.stop = trio.CancelScope()

    async def go_on(self) -> None:
        with self.stop:
            while True:
                await trio.sleep(0.7)
                for domain in self._domains:
                    self._world.checks.login_worked(self._world.node("a"), domain)


@pytest.mark.parametrize("check", ["stream", "tcp"])
async def test_a_busy_node_on_which_clients_log_in_is_not_given_up(
    begin: Begin, nursery: trio.Nursery, autojump_clock: MockClock, check: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = begin(f"a 10.0.0.1 check={check}\nb 10.0.0.2", "example.org")
    logins = Logins(world, "example.org")
    nursery.start_soon(logins.go_on)
    await trio.sleep(10)
    world.looks.findings["a"], world.looks.seconds["a"] = Finding.SILENT, 1000.0
    await trio.sleep(100)
    assert world.changes == []
    assert world.node("a").checks_failed > 40
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["node-slow"], "once"
    logins.stop.cancel()
    await trio.sleep(4.1)
    assert world.changes == [("a", Health.DOWN, SessionOutlook.DEAD)], "the next check without a login decides"


async def seconds_to_find(after: float, *, clients: bool) -> float:
    """How long it takes to find a node that is silent from then on, and whose clients log in until then."""
    world = World("a 10.0.0.1", "example.org")  # alone, so that its pauses are the same each time
    logins = Logins(world, "example.org")
    async with trio.open_nursery() as running:
        running.start_soon(world.checks.run)
        if clients:
            running.start_soon(logins.go_on)
        await trio.sleep(after)
        world.looks.findings["a"], world.looks.seconds["a"] = Finding.SILENT, 1000.0
        logins.stop.cancel()
        gone_at = trio.current_time()
        await trio.sleep(15)
        running.cancel_scope.cancel()
    assert world.changes == [("a", Health.DOWN, SessionOutlook.DEAD)]
    return world.changed_at - gone_at


async def test_a_node_that_is_gone_is_found_as_early_where_clients_have_logged_in_till_then(
    autojump_clock: MockClock,
) -> None:
    for number in range(20):
        after = 10 + number / 7
        found = await seconds_to_find(after, clients=True)
        assert found == pytest.approx(await seconds_to_find(after, clients=False))
        assert found < 3 * 2.0 * (1 + JITTER) + 2.0


async def test_logins_for_one_domain_say_nothing_of_another(
    begin: Begin, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    world = begin("a 10.0.0.1\nb 10.0.0.2", "example.org", "example.net")
    nursery.start_soon(Logins(world, "EXAMPLE.org").go_on)
    await trio.sleep(10)
    world.looks.findings["example.net"], world.looks.seconds["a"] = Finding.SILENT, 1.9
    await trio.sleep(15)
    assert ("a", Health.DOWN, SessionOutlook.DEAD) in world.changes


async def test_a_check_may_take_longer_than_the_time_between_two(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1 inter=1s check-timeout=5s", "example.org")
    world.looks.seconds["a"] = 4.0
    await trio.sleep(30)
    assert world.changes == []
    times = world.looks.times["a"][1:]
    assert all(later - earlier == pytest.approx(4.0) for earlier, later in pairwise(times)), "and then comes the next"
    world.looks.findings["a"], world.looks.seconds["a"] = Finding.SILENT, 1000.0
    await trio.sleep(14)
    assert world.changes == []
    await trio.sleep(5.1)
    assert world.changes == [("a", Health.DOWN, SessionOutlook.DEAD)]


@pytest.mark.parametrize("cause", ["connect", "going", "logins"])
async def test_what_sessions_say_counts_at_once_and_is_looked_into(
    begin: Begin, autojump_clock: MockClock, cause: str
) -> None:
    world = begin("a 10.0.0.1 inter=1h\nb 10.0.0.2")
    await trio.sleep(3600)
    node = world.node("a")
    world.looks.times["a"].clear()
    world.looks.findings["a"] = Finding.REFUSED
    match cause:
        case "connect":
            world.checks.connect_failed(node, "refused")
        case "going":
            world.checks.said_it_was_going(node, sessions=1)
        case "logins":
            for _ in range(FAILED_LOGINS):
                world.checks.login_failed(node, "internal-server-error")
    assert world.changes == [("a", Health.DOWN, SessionOutlook.GOOD)]
    await trio.sleep(0.1)
    assert len(world.looks.times["a"]) == 1


async def test_a_login_that_works_ends_a_row_of_failures(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin()
    for _ in range(3 * FAILED_LOGINS):
        world.checks.login_failed(world.node("a"), "internal-server-error")
        world.checks.login_worked(world.node("a"), "example.org")
    assert world.changes == []


async def test_unchecked_nodes_are_believed_after_a_while(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1 check=none\nb 10.0.0.2")
    await trio.sleep(60)
    world.checks.connect_failed(world.node("a"), "refused")
    assert world.node("a").health is Health.DOWN
    await trio.sleep(HOLD_SECONDS - 1)
    assert world.node("a").health is Health.DOWN
    await trio.sleep(3)
    assert world.node("a").health is Health.UP
    assert "a" not in world.looks.times
    assert world.node("a").check is None


# --- for which domain


async def test_the_first_domain_somebody_logs_in_to_is_asked_for(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin()
    await trio.sleep(0.1)
    assert set(world.looks.asked) == {("a", None), ("b", None)}
    assert world.node("a").features == {}
    world.checks.login_worked(world.node("a"), "example.org")
    world.checks.login_worked(world.node("a"), "other.example")
    await trio.sleep(0.1)
    assert set(world.looks.asked[2:]) == {("a", "example.org"), ("b", "example.org")}
    assert world.node("b").features == {"example.org": b"<features>example.org</features>"}
    assert sorted(world.featured) == ["a", "b"], "each was told of"


async def test_all_domains_are_asked_for_and_then_in_turn(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1\nb 10.0.0.2 domain=x.example,y.example", "example.org", "example.net")
    await trio.sleep(0.1)
    assert world.node("a").features.keys() == {"example.org", "example.net"}
    assert world.node("b").features.keys() == {"x.example", "y.example"}
    asked = len(world.looks.asked)
    await trio.sleep(9)
    later = [domain for name, domain in world.looks.asked[asked:] if name == "a"]
    assert len(later) >= 4
    assert all(one != other for one, other in pairwise(later)), "in turn"


async def test_a_domain_that_fails_is_asked_for_again(begin: Begin, autojump_clock: MockClock) -> None:
    """Else a node that serves one of two would be up and down for ever."""
    world = begin("a 10.0.0.1", "example.org", "example.net")
    await trio.sleep(30)
    world.looks.findings["example.net"] = Finding.FAILED
    await trio.sleep(10)
    assert world.changes == [("a", Health.DOWN, SessionOutlook.FAILING)]


async def test_tcp_checks_open_no_stream(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1 check=tcp", "example.org")
    await trio.sleep(5)
    assert set(world.looks.asked) == {("a", "example.org")}, "the certificate has to bear that name"
    assert not any(world.looks.streams)
    assert world.node("a").features == {}


# --- nodes come and go


async def test_a_new_node_is_used_when_it_was_seen(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin()
    await trio.sleep(0.1)
    world.looks.findings["c"] = Finding.REFUSED
    world.cluster.apply(parse_nodes("b 10.0.0.2\nc 10.0.0.3 inter=1s", "nodes.txt"))
    world.cluster.forget("a")
    world.checks.expect(world.node("c"))
    assert world.node("c").health is Health.DOWN
    await trio.sleep(10)
    assert world.node("c").health is Health.DOWN
    world.looks.findings.clear()
    world.looks.times["a"].clear()
    await trio.sleep(1.2)
    assert world.node("c").health is Health.UP
    await trio.sleep(10)
    assert world.looks.times["a"] == [], "a node that was forgotten is not looked at any more"


async def test_another_address_is_another_node(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1 inter=1h\nb 10.0.0.2", "example.org")
    world.looks.findings["a"] = Finding.REFUSED
    await trio.sleep(0.1)
    assert world.node("a").health is Health.DOWN
    world.looks.findings.clear()
    world.cluster.apply(parse_nodes("a 10.0.0.9 inter=1h\nb 10.0.0.2", "nodes.txt"))
    world.checks.reread(world.node("a"))
    assert world.node("a").health is Health.UP
    await trio.sleep(0.1)
    assert world.node("a").features.keys() == {"example.org"}


async def test_what_was_seen_at_another_address_meanwhile_does_not_count(
    begin: Begin, autojump_clock: MockClock
) -> None:
    world = begin("a 10.0.0.1 inter=10s\nb 10.0.0.2", "example.org")
    world.looks.findings["a"], world.looks.seconds["a"] = Finding.FAILED, 5.0
    await trio.sleep(1)
    world.looks.seconds["a"] = 0.0
    world.cluster.apply(parse_nodes("a 10.0.0.9 inter=10s\nb 10.0.0.2", "nodes.txt"))
    world.checks.reread(world.node("a"))
    world.looks.findings.clear()
    await wait_all_tasks_blocked()
    await trio.sleep(4.1)  # the first look ends
    assert world.changes == []
    assert world.node("a").check is not None, "and at once comes another"


async def test_a_word_about_a_node_that_was_forgotten_hurts_nobody(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1\nb 10.0.0.2")
    await trio.sleep(1)
    forgotten = world.node("a")
    world.cluster.apply(parse_nodes("b 10.0.0.2", "nodes.txt"))
    world.cluster.forget("a")
    await trio.sleep(5)
    world.cluster.apply(parse_nodes("a 10.0.0.9\nb 10.0.0.2", "nodes.txt"))
    world.checks.expect(world.node("a"))
    await trio.sleep(5)
    world.checks.connect_failed(forgotten, "refused")
    assert world.node("a").health is Health.UP
    world.looks.times["a"].clear()
    await trio.sleep(5)
    assert len(world.looks.times["a"]) >= 2, "its successor is looked at as before"


# --- what is told


async def test_the_weight_grows_while_it_waits(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1 inter=1s slowstart=10s\nb 10.0.0.2")
    await trio.sleep(20)
    assert world.warm_ups == [], "not at the start of the proxy"
    world.looks.findings["a"] = Finding.REFUSED
    await trio.sleep(5)
    world.looks.findings.clear()
    await trio.sleep(20)
    assert [health for _, health, _ in world.changes] == [Health.DOWN, Health.DOWN, Health.UP]
    assert world.warm_ups == pytest.approx([step / 20 for step in range(1, 21)])
    assert world.node("a").warm_up == 1.0


async def test_what_an_operator_is_shown(begin: Begin, autojump_clock: MockClock) -> None:
    world = begin("a 10.0.0.1 inter=1s\nb 10.0.0.2")
    world.looks.seconds["a"] = 0.25
    await trio.sleep(0.5)
    check = world.node("a").check
    assert check is not None
    assert check.text == "ok"
    assert check.seconds == pytest.approx(0.25)
    assert world.node("a").health_since is None
    texts = {
        Finding.UNTRIED: "untried",
        Finding.SILENT: "timeout",
        Finding.REFUSED: "refused",
        Finding.FAILED: "failed by a",
    }
    for finding, text in texts.items():
        world.looks.findings["a"] = finding
        await trio.sleep(1.5)
        check = world.node("a").check
        assert check is not None
        assert check.text == text
        assert bool(world.node("a").checks_failed) is (finding is not Finding.UNTRIED)
    assert world.node("a").health_since is not None
