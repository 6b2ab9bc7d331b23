"""Whatever it is that moves sessions: where the proxy can take them to the other node itself, nobody notices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from e2e_migrate import CLIENTS, World, world
from e2e_proxy import until
from waiting import PATIENCE_SECONDS

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.node import StopStyle
from cxfr_proxy.session import exchanging
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers import young_sessions

TAKEN = ((Rung.MIGRATE, Outcome.MOVED),)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy may take longer than two seconds for a step."""
    monkeypatch.setattr(exchanging, "STEP_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in nodes need no time between two moves."""
    monkeypatch.setattr(young_sessions, "SETTLED_SECONDS", 0.0)


def triggers(it: World) -> dict[str, Counter[Trigger]]:
    """How many the proxy has taken from each node, and what for. Nobody was moved in another way."""
    records = list(it.here.registry.counts.recent)
    assert {record.tried for record in records} <= {TAKEN}
    return {node: Counter(each.trigger for each in records if each.source == node) for node in ("a", "b")}


async def is_removed(it: World) -> None:
    await it.remove("a")


async def closes_its_listener(it: World) -> None:
    """The first thing that a server does that stops."""
    await it.nodes[0].stop(StopStyle.REFUSE)


async def is_left_by_order(it: World) -> None:
    for client in it.clients:
        if client.full_jid in {session.full_jid for session in it.nodes[0].sessions}:
            await it.here.console.nodes.move(client.bare_jid, "b")


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize(
    ("happens", "trigger"),
    [
        (is_removed, Trigger.DRAIN),
        (closes_its_listener, Trigger.NODE_DOWN),
        (is_left_by_order, Trigger.MOVE),
    ],
)
async def test_nobody_notices_that_a_node(
    happens: Callable[[World], Awaitable[None]], trigger: Trigger, tmp_path: Path, certificate: DemoCertificate
) -> None:
    """Nor that it is stopped when they have gone."""
    async with world(tmp_path, certificate, line="fast-inter=100ms") as it:
        on_a = len(it.here.registry.on_node("a"))
        assert 0 < on_a < CLIENTS
        await happens(it)
        await it.goes_to("b")
        assert triggers(it) == {"a": Counter({trigger: on_a}), "b": Counter()}
        await it.nodes[0].stop(StopStyle.SYSTEM_SHUTDOWN)
        await it.chat(3)
        it.nobody_noticed()
        await it.settle()
        assert it.harmed() == []


def homes(it: World) -> Counter[str]:
    """How many belong on each node."""
    placement = Placement(Cluster(node.spec for node in it.here.cluster))
    found = [placement.home(client.bare_jid, "localhost") for client in it.clients]
    return Counter(home.name for home in found if home is not None)


@pytest.mark.usefixtures("_at_once")
async def test_clients_that_would_not_come_back_are_sent_home_too(tmp_path: Path, certificate: DemoCertificate) -> None:
    """The resource is one by which the proxy knows software that never connects again."""
    async with world(tmp_path, certificate, resource="mcabber.1") as it:
        await it.migrate("b")
        assert all(live.session.stays_down for live in it.here.live)
        right = homes(it)
        plan = await it.here.console.rebalances.plan()
        assert (plan.sessions, plan.stay_down) == (right["a"], 0)
        assert plan.sessions > 0
        it.here.console.rebalances.begin()
        await until(lambda: it.on_nodes == [right["a"], right["b"]], "those who belong there are on a")
        await until(lambda: all(live.session.rung is None for live in it.here.live), "all have arrived")
        assert triggers(it)["b"] == Counter({Trigger.REBALANCE: right["a"]})
        await it.chat(3)
        it.nobody_noticed()
        await it.settle()
        assert it.harmed() == []


async def test_those_that_have_logged_in_on_the_wrong_node_are_sent_home(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    """Not before they are two seconds old. By then they have turned stream management on, unless they are slow: such a
    client is told to move."""
    async with world(tmp_path, certificate, misplaces=True) as it:
        right = homes(it)
        await until(lambda: it.on_nodes == [right["a"], right["b"]], "all are at home")
        await until(lambda: all(live.session.rung is None for live in it.here.live), "all have arrived")
        records = list(it.here.registry.counts.recent)
        assert {record.trigger for record in records} == {Trigger.WRONG_NODE}
        taken = {record.full_jid for record in records if record.tried == TAKEN}
        assert taken, "a machine that stands still for so long runs no test"
        told = {record.full_jid for record in records} - taken
        await it.chat(3)
        it.nobody_noticed(lambda client: client.full_jid not in told)
        await it.settle()
        assert it.harmed() == []
