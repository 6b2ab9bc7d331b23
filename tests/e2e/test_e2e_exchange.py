"""Sessions are taken to another node by the proxy itself, under living streams: built-in nodes that share sessions,
real sockets, and clients that write all the time. Nobody notices, and every message comes once and in its turn."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e_proxy import ProxyHere, in_process, log_in, nodes_file, running, until

from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.table import Config, StartTls
from cxfr_proxy.demo.account import MessageCounts, judge
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind, Life, Traffic
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.relay import engine

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


@dataclass
class World:
    here: ProxyHere
    nodes: list[DemoNode]
    clients: list[DemoClient]

    @property
    def on_nodes(self) -> list[int]:
        """Sessions by node, as the proxy counts them."""
        return [len(self.here.registry.on_node(name)) for name in NAMES]

    async def exchange(self, target: str) -> None:
        """Ask all sessions to go there, and wait until that has come to its end."""
        for live in self.here.live:
            live.exchange(target)
        await until(lambda: all(live.session._parts.exchange is None for live in self.here.live), "exchanged")

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
    cluster = DemoCluster("localhost", shared=shared, trusts_proxy=trusting)
    nodes = [DemoNode(name, cluster=cluster) for name in NAMES]
    async with running(*nodes) as nursery:
        config = Config(
            backends=FileBackends(str(nodes_file(tmp_path, nodes))),
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
            await it.exchange(target)
            assert it.all_on(target), it.on_nodes
            await it.chat(3)
        it.nobody_noticed()
        await it.settle()
        assert harmed(it) == []


async def test_a_node_can_be_stopped_once_its_sessions_have_gone(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        await it.exchange("b")
        await it.nodes[0].stop(StopStyle.KILL)
        await it.chat(3)
        it.nobody_noticed()
        await it.settle()
        assert harmed(it) == []


async def test_a_client_stays_where_it_is_if_the_node_lets_nobody_in(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    async with world(tmp_path, certificate, trusting=False) as it:
        before = it.on_nodes
        await it.exchange("b")
        await it.chat(3)
        assert it.on_nodes == before
        it.nobody_noticed()
        await it.settle()
        assert harmed(it) == []


async def test_a_session_that_the_node_has_not_got_is_moved_as_one_that_has_lost_its_node(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    async with world(tmp_path, certificate, shared=False) as it:
        away = [live.session.full_jid for live in it.here.live if live.session.node == "a"]
        await it.exchange("b")
        await it.chat(3)
        await until(lambda: all(client.life is Life.BOUND for client in it.clients), "all are back")
        await it.settle()
        assert away
        assert {client.full_jid for client in it.clients if client.moves} == set(away), "and nobody else has noticed"
        lost = [judge(client.account, it.nodes[0].cluster.records).lost for client in it.clients]
        assert lost == [0] * CLIENTS


async def test_a_node_that_is_not_there_changes_nothing(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        before = it.on_nodes
        await it.nodes[1].stop(StopStyle.REFUSE)
        await it.exchange("b")
        await it.exchange("nowhere")
        await it.chat(2)
        assert it.on_nodes == before
        it.nobody_noticed()
