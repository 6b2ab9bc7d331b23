"""Sessions are taken to another node by the proxy itself, under living streams: built-in nodes that share sessions,
real sockets, and clients that write all the time. Nobody notices, and every message comes once and in its turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e_proxy import ProxyHere, in_process, log_in, nodes_file, running, until
from waiting import PATIENCE_SECONDS

from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.table import Config, StartTls, Timeouts
from cxfr_proxy.demo.account import MessageCounts, judge
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind, Life, SeenRung, Traffic
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.relay import engine
from cxfr_proxy.session import exchanging
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Order, Rung, Trigger

CLIENTS = 8
NAMES = ("a", "b")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@pytest.fixture(params=engine.ENGINES, autouse=True)
def which(request: pytest.FixtureRequest) -> Iterator[None]:
    before = engine.ENGINE
    engine.use(request.param)
    yield
    engine.use(before)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy may take longer than two seconds for a step."""
    monkeypatch.setattr(exchanging, "STEP_SECONDS", PATIENCE_SECONDS)


@dataclass
class World:
    here: ProxyHere
    nodes: list[DemoNode]
    clients: list[DemoClient]

    @property
    def on_nodes(self) -> list[int]:
        """Sessions by node, as the proxy counts them."""
        return [len(self.here.registry.on_node(name)) for name in NAMES]

    async def migrate(self, target: str, trigger: Trigger = Trigger.DRAIN) -> None:
        """Order all sessions to go there, and wait until each has gone, or was told to stay or to leave.

        The mover would have them wait until they are two seconds old.
        """
        going = [live for live in self.here.live if live.session.node != target]
        for live in going:
            live.transfer(Order(trigger, target=target, migrates=True))
        await until(lambda: all(live.session.rung is not Rung.MIGRATE for live in going), "taken there")

    def all_on(self, target: str) -> bool:
        """By the proxy's counts and by the nodes' own."""
        expected = [CLIENTS if name == target else 0 for name in NAMES]
        placing = [self.here.registry.sessions_by_node()[name] for name in NAMES]
        return self.on_nodes == expected == placing == [len(node.sessions) for node in self.nodes]

    async def chat(self, messages: int) -> None:
        """Each client writes so many more, and gets them back, and as many come from the node by itself."""
        before = [(client.account.sent, len(client.account.pushed)) for client in self.clients]
        await until(
            lambda: all(
                len(client.account.echoes) >= sent + messages and len(client.account.pushed) >= pushed + messages
                for client, (sent, pushed) in zip(self.clients, before, strict=True)
            ),
            "they chat",
        )

    async def settle(self) -> None:
        """Everybody stops writing, and what was written arrives: what the nodes have sent by themselves, too."""
        for client in self.clients:
            client.quiet()
        cluster = self.nodes[0].cluster
        cluster.push_intervals.clear()
        await until(lambda: all(client.account.settled for client in self.clients), "all is answered")
        await until(lambda: not any(judge(client.account, cluster.records).lost for client in self.clients), "all came")

    def nobody_noticed(self) -> None:
        assert [client.moves for client in self.clients] == [[]] * CLIENTS
        assert [client.faults for client in self.clients] == [[]] * CLIENTS
        assert {client.life for client in self.clients} == {Life.BOUND}
        assert {client.logins for client in self.clients} == {1}


@asynccontextmanager
async def world(
    tmp_path: Path, certificate: DemoCertificate, *, tls: bool = False, trusting: bool = True, shared: bool = True
) -> AsyncIterator[World]:
    cluster = DemoCluster("localhost", shared=shared)
    proxys = make_certificate(tmp_path, "proxy.example.org", "proxy")
    trusted = certificate.migration_context(proxys if trusting else certificate)
    nodes = [DemoNode(name, cluster=cluster, migration_tls=trusted) for name in NAMES]
    async with running(*nodes) as nursery:
        options = {
            node.name: f"resume=shared migrate=external migrate-address={node.migration_address}"
            f" ca={certificate.certificate}"
            for node in nodes
        }
        config = Config(
            backends=FileBackends(str(nodes_file(tmp_path, nodes, **options))),
            timeouts=Timeouts(migrate_timeout=PATIENCE_SECONDS),
            node_certificate=proxys.certificate,
            node_key=proxys.key,
            domain=("localhost",),
            certificate=(certificate.certificate,),
            key=(certificate.key,),
            starttls=StartTls.OPTIONAL,
            control=tmp_path / "c.sock",
        )
        async with in_process(config) as (here, address):
            kinds = [ClientKind.STREAM_MANAGEMENT] * CLIENTS
            clients = await log_in(nursery, address, kinds, certificate if tls else None)
            for client in clients:
                client.traffic = Traffic(0.01)
                cluster.push_intervals[client.bare_jid] = 0.01
            for node in nodes:
                for client in clients:
                    node.start_pushing(client.bare_jid, 0.01)
            it = World(here, nodes, clients)
            await it.chat(2)
            yield it
            await it.settle()
            for client in clients:
                client.leave()
            await until(lambda: all(client.life is Life.GONE for client in clients), "all leave")


def harmed(it: World) -> list[MessageCounts]:
    """The counts of every client that lost a message, or saw one twice or out of turn."""
    records = it.nodes[0].cluster.records
    counts = [judge(client.account, records) for client in it.clients]
    return [each for each in counts if not each.whole]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_nobody_notices_that_sessions_go_to_another_node_and_back(
    tmp_path: Path, certificate: DemoCertificate, tls: bool
) -> None:
    async with world(tmp_path, certificate, tls=tls) as it:
        for target in ("b", "a", "b"):
            await it.migrate(target)
            assert it.all_on(target), it.on_nodes
            await it.chat(3)
        it.nobody_noticed()
        await it.settle()
        assert harmed(it) == []


async def test_a_node_can_be_stopped_once_its_sessions_have_gone(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        await it.migrate("b")
        await it.nodes[0].stop(StopStyle.KILL)
        await it.chat(3)
        it.nobody_noticed()
        await it.settle()
        assert harmed(it) == []


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
        assert harmed(it) == []


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
        assert harmed(it) == []


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
