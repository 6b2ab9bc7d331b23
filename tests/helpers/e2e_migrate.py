"""A world in which the proxy takes sessions from one node to the other: built-in nodes that share sessions, real
sockets, and clients that write all the time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from e2e_proxy import ProxyHere, in_process, log_in, nodes_file, running, until
from waiting import PATIENCE_SECONDS

from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.table import Config, NodeStreamManagement, RebalanceMode, Route, StartTls, Timeouts
from cxfr_proxy.demo.account import MessageCounts, judge
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind, Life, Traffic
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.session.ladder import Order, Rung, Trigger

CLIENTS: Final = 8
NAMES: Final = ("a", "b")
_INTERVAL_SECONDS: Final = 0.01


@dataclass
class World:
    here: ProxyHere
    file: Path
    """The nodes file."""
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

    async def cut(self) -> None:
        """Cut each session's connection to its node, and wait until the session is back."""
        totals = self.here.registry.counts.totals
        before = totals.regained
        for node in self.nodes:
            for session in node.sessions:
                await node.cut(session.full_jid)
        await until(lambda: totals.regained == before + len(self.clients), "all are back")

    async def remove(self, name: str) -> None:
        """Take that node's line out of the nodes file, and have it read."""
        lines = self.file.read_text().splitlines(keepends=True)
        self.file.write_text("".join(line for line in lines if not line.startswith(f"{name} ")))
        await self.here.console.files.reload()

    def all_on(self, target: str) -> bool:
        """By the proxy's counts and by the nodes' own."""
        expected = [len(self.clients) if name == target else 0 for name in NAMES]
        placing = [self.here.registry.sessions_by_node()[name] for name in NAMES]
        return self.on_nodes == expected == placing == [len(node.sessions) for node in self.nodes]

    async def goes_to(self, target: str) -> None:
        """Wait until all are there, and nobody is on the way any more."""
        await until(lambda: self.all_on(target), f"all are on {target}")
        await until(lambda: all(live.session.rung is None for live in self.here.live), "nobody is on the way")

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

    def nobody_noticed(self, who: Callable[[DemoClient], bool] = lambda client: True) -> None:
        """``who``: none of these."""
        clients = [client for client in self.clients if who(client)]
        assert [client.moves for client in clients] == [[]] * len(clients)
        assert [client.faults for client in clients] == [[]] * len(clients)
        assert {client.life for client in clients} == {Life.BOUND}
        assert {client.logins for client in clients} == {1}

    def harmed(self) -> list[MessageCounts]:
        """The counts of every client that lost a message, or saw one twice or out of turn."""
        records = self.nodes[0].cluster.records
        counts = [judge(client.account, records) for client in self.clients]
        return [each for each in counts if not each.whole]


@asynccontextmanager
async def world(
    tmp_path: Path,
    certificate: DemoCertificate,
    *,
    kinds: Sequence[ClientKind] = (ClientKind.STREAM_MANAGEMENT,) * CLIENTS,
    resource: str = "demo",
    tls: bool = False,
    trusting: bool = True,
    shared: bool = True,
    line: str = "",
    misplaces: bool = False,
    stands_in: bool = False,
) -> AsyncIterator[World]:
    """``line``: more for the nodes' lines. ``misplaces``: clients get their nodes before they say who they are, and are
    sent home. ``stands_in``: the proxy speaks XEP-0198 in the place of clients that don't."""
    cluster = DemoCluster("localhost", shared=shared)
    proxys = make_certificate(tmp_path, "proxy.example.org", "proxy")
    trusted = certificate.migration_context(proxys if trusting else certificate)
    nodes = [DemoNode(name, cluster=cluster, migration_tls=trusted) for name in NAMES]
    async with running(*nodes) as nursery:
        options = {
            node.name: f"resume=shared migrate=external migrate-address={node.migration_address}"
            f" ca={certificate.certificate} {line}"
            for node in nodes
        }
        file = nodes_file(tmp_path, nodes, **options)
        config = Config(
            backends=FileBackends(str(file)),
            route=Route.CONNECT if misplaces else Route.LOGIN,
            timeouts=Timeouts(migrate_timeout=PATIENCE_SECONDS),
            rebalance=RebalanceMode.MANUAL,
            node_certificate=proxys.certificate,
            node_key=proxys.key,
            node_stream_management=NodeStreamManagement.ON if stands_in else NodeStreamManagement.OFF,
            domain=("localhost",),
            certificate=(certificate.certificate,),
            key=(certificate.key,),
            starttls=StartTls.OPTIONAL,
            control=tmp_path / "c.sock",
        )
        async with in_process(config, placing=misplaces) as (here, address):
            clients = await log_in(nursery, address, kinds, certificate if tls else None, resource=resource)
            for client in clients:
                client.traffic = Traffic(_INTERVAL_SECONDS)
                cluster.push_intervals[client.bare_jid] = _INTERVAL_SECONDS
            for node in nodes:
                for client in clients:
                    node.start_pushing(client.bare_jid, _INTERVAL_SECONDS)
            it = World(here, file, nodes, clients)
            await it.chat(2)
            if stands_in:
                await until(lambda: all(live.session.can_migrate for live in here.live), "somebody counts for all")
            yield it
            await it.settle()
            for client in clients:
                client.leave()
            await until(lambda: all(client.life is Life.GONE for client in clients), "all leave")
