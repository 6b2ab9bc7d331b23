"""Health: what probes and sessions say, on a clock of its own."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cxfr_proxy.cluster.health import Finding
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import Health, NodeSpec, parse_nodes
from cxfr_proxy.relay.check import FALL, GOING_SECONDS, INTERVAL_SECONDS, Checks
from cxfr_proxy.relay.probe import Look


class FakeLooks:
    """Finds of each node what the test wants: ``None`` for reached."""

    def __init__(self) -> None:
        self.faults: dict[str, str | None] = {}
        self.asked: list[tuple[str, str | None]] = []

    async def look(self, spec: NodeSpec, domain: str | None, *, seconds: float) -> Look:
        await trio.lowlevel.checkpoint()
        self.asked.append((spec.name, domain))
        fault = self.faults.get(spec.name)
        if fault is not None:
            return Look(Finding.FAILED, fault)
        return Look(Finding.OK, features=f"<features>{domain}</features>".encode() if domain is not None else None)


class World:
    def __init__(self) -> None:
        self.cluster = Cluster(parse_nodes("a 10.0.0.1\nb 10.0.0.2", "nodes.txt"))
        self.dialer = FakeLooks()
        self.up: list[str] = []
        self.checks = Checks(self.cluster, self.dialer.look, lambda node: self.up.append(node.name))

    def health(self, name: str) -> Health:
        return self.cluster.get(name).health


@pytest.fixture
def world(nursery: trio.Nursery, autojump_clock: MockClock) -> World:
    world = World()
    nursery.start_soon(world.checks.run)
    return world


async def test_a_node_is_down_after_failures_in_a_row_and_up_after_one_success(world: World) -> None:
    world.dialer.faults["a"] = "refused"
    await trio.sleep(INTERVAL_SECONDS * (FALL - 1) - 0.1)
    assert world.health("a") is Health.UP, "one failure may be a lost packet"
    await trio.sleep(INTERVAL_SECONDS)
    assert world.health("a") is Health.DOWN
    assert world.health("b") is Health.UP
    world.dialer.faults["a"] = None
    await trio.sleep(INTERVAL_SECONDS)
    assert world.health("a") is Health.UP
    assert world.up == ["a"]


async def test_a_session_s_failure_counts_at_once(world: World) -> None:
    world.dialer.faults["a"] = "refused"
    world.checks.connect_failed(world.cluster.get("a"), "refused")
    assert world.health("a") is Health.DOWN


async def test_the_first_domain_somebody_logs_in_to_is_asked_for(world: World) -> None:
    await trio.sleep(0.1)
    assert world.cluster.get("a").features == {}
    world.checks.served("example.org")
    world.checks.served("other.example")
    await trio.sleep(0.1)
    assert set(world.dialer.asked[-2:]) == {("a", "example.org"), ("b", "example.org")}
    assert world.cluster.get("a").features == {"example.org": b"<features>example.org</features>"}


async def test_a_node_that_is_going_is_left_alone_for_a_while(world: World) -> None:
    node = world.cluster.get("a")
    world.checks.said_it_was_going(node, sessions=10)
    assert world.health("a") is Health.UP, "one client may have been meant"
    world.checks.said_it_was_going(node, sessions=9)
    assert world.health("a") is Health.DOWN
    await trio.sleep(GOING_SECONDS - 0.5)
    assert world.health("a") is Health.DOWN, "although it still accepts connections"
    await trio.sleep(INTERVAL_SECONDS + 1)
    assert world.health("a") is Health.UP


async def test_the_only_session_s_word_is_enough(world: World) -> None:
    world.checks.said_it_was_going(world.cluster.get("a"), sessions=1)
    assert world.health("a") is Health.DOWN


async def test_words_far_apart_are_about_clients(world: World) -> None:
    node = world.cluster.get("a")
    for _ in range(5):
        world.checks.said_it_was_going(node, sessions=10)
        await trio.sleep(3)
    assert node.health is Health.UP


async def test_a_new_node_is_used_when_it_was_seen(world: World) -> None:
    await trio.sleep(0.1)
    node = world.cluster.get("b")
    world.checks.expect(node)
    assert world.health("b") is Health.DOWN
    await trio.sleep(0.01)
    assert world.health("b") is Health.UP, "it is asked at once"
