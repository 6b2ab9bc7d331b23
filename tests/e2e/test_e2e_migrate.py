"""Sessions are taken to another node by the proxy itself, under living streams: built-in nodes that share sessions,
real sockets, and clients that write all the time. Nobody notices, and every message comes once and in its turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from e2e_migrate import CLIENTS, world
from e2e_proxy import until
from engines import using
from waiting import PATIENCE_SECONDS

from cxfr_proxy.demo.account import judge
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.habits import ClientKind, Life, SeenRung
from cxfr_proxy.demo.node import StopStyle
from cxfr_proxy.relay import engine
from cxfr_proxy.session import exchanging
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung

MIXED: Final = [ClientKind.PLAIN, ClientKind.STREAM_MANAGEMENT, ClientKind.WEBSOCKET, ClientKind.MUTE] * (CLIENTS // 4)
"""Half of them without XEP-0198, for which the proxy stands in; one in four by WebSocket."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@pytest.fixture(params=engine.ENGINE.names, autouse=True)
def which(request: pytest.FixtureRequest) -> Iterator[None]:
    with using(engine.ENGINE, request.param):
        yield


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy may take longer than two seconds for a step."""
    monkeypatch.setattr(exchanging, "STEP_SECONDS", PATIENCE_SECONDS)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("kind", [ClientKind.STREAM_MANAGEMENT, ClientKind.WEBSOCKET_RESUMING])
async def test_nobody_notices_that_sessions_go_to_another_node_and_back(
    tmp_path: Path, certificate: DemoCertificate, kind: ClientKind, tls: bool
) -> None:
    async with world(tmp_path, certificate, kinds=[kind] * CLIENTS, tls=tls) as it:
        for target in ("b", "a", "b"):
            await it.migrate(target)
            assert it.all_on(target), it.on_nodes
            await it.chat(3)
        it.nobody_noticed()
        await it.settle()
        assert it.harmed() == []


async def test_a_node_can_be_stopped_once_its_sessions_have_gone(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        await it.migrate("b")
        await it.nodes[0].stop(StopStyle.KILL)
        await it.chat(3)
        it.nobody_noticed()
        await it.settle()
        assert it.harmed() == []


async def test_a_drain_takes_sessions_to_the_other_node_and_says_so(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    async with world(tmp_path, certificate) as it:
        console, registry = it.here.console, it.here.registry
        on_a = len(registry.on_node("a"))
        plan = await console.drains.plan("a")
        assert (plan.sessions, plan.migrate) == (on_a, on_a)
        console.drains.begin("a")
        await until(lambda: it.on_nodes == [0, CLIENTS], "a is empty")
        await until(lambda: all(live.session.rung is None for live in it.here.live), "all are there")
        await it.chat(3)
        it.nobody_noticed()
        counts = registry.counts.nodes["a"]
        assert (counts.asked, counts.moved, counts.refused, counts.silent, counts.failed) == (on_a, on_a, 0, 0, 0)
        assert {(each.source, each.target, each.tried) for each in registry.counts.recent} == {
            ("a", "b", ((Rung.MIGRATE, Outcome.MOVED),))
        }
        await until(lambda: it.here.proxy.supervisor.workers.of_node("a").returned == on_a, "they count as returned")
        await it.settle()
        assert it.harmed() == []


@pytest.mark.parametrize("target", ["b", "nowhere"], ids=["it lets nobody in", "there is no such node"])
async def test_clients_are_told_to_move_where_no_session_can_be_taken_to_the_node(
    tmp_path: Path, certificate: DemoCertificate, target: str
) -> None:
    """The next rung cuts them, and they resume: by themselves, and nothing is lost."""
    async with world(tmp_path, certificate, trusting=target == "nowhere") as it:
        away = [live.session.full_jid for live in it.here.live if live.session.node != target]
        await it.migrate(target)
        await until(lambda: all(client.moves for client in it.clients if client.full_jid in away), "they are back")
        await it.chat(3)
        moves = {(move.rung, move.resumed) for client in it.clients for move in client.moves}
        assert moves == {(SeenRung.CUT, True)}
        assert {client.full_jid for client in it.clients if client.moves} == set(away), "and nobody else has noticed"
        await it.settle()
        assert it.harmed() == []


async def test_a_session_that_the_node_has_not_got_is_moved_as_one_that_has_lost_its_node(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    async with world(tmp_path, certificate, shared=False) as it:
        away = [live.session.full_jid for live in it.here.live if live.session.node == "a"]
        await it.migrate("b")
        await it.chat(3)
        await until(lambda: all(client.life is Life.BOUND for client in it.clients), "all are back")
        await it.settle()
        assert away
        assert {client.full_jid for client in it.clients if client.moves} == set(away), "and nobody else has noticed"
        lost = [judge(client.account, it.nodes[0].cluster.records).lost for client in it.clients]
        assert lost == [0] * CLIENTS


async def test_clients_without_stream_management_notice_no_move_and_no_cut(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    """The connections to the nodes are cut in the middle of the chat, before and after the move. A node that is killed
    in the end has nothing to resume: whatever the proxy did behind its clients' backs would be another session."""
    async with world(tmp_path, certificate, stands_in=True, kinds=MIXED) as it:
        await it.cut()
        await it.migrate("b")
        assert it.all_on("b"), it.on_nodes
        await it.chat(2)
        await it.cut()
        it.nobody_noticed()
        await it.settle()
        assert it.harmed() == []
        regained = it.here.registry.counts.totals.regained
        await it.nodes[1].stop(StopStyle.KILL)
        await until(lambda: all(client.moves for client in it.clients), "they are back")
        await it.goes_to("a")
        assert it.here.registry.counts.totals.regained == regained
