"""Two proxies that disagree about who a client belongs to: each sends it to the other one, again and again.

Each knows its own redirects only. So a client is sent to another address at most once by each within the window, and is
served after all that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from asking import ask
from e2e_proxy import Command, Row, all_bound, command, log_in, nodes_file, running, until

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import HostPort
from cxfr_proxy.xmpp.names import StreamCondition

KINDS = (ClientKind.CXFR, ClientKind.CXFR_SILENT, ClientKind.SEE_OTHER_HOST)
"""All that go where they are told to go."""
ROUNDS = 6
PATIENT = ("--cxfr-timeout", "60s", "--see-other-host-timeout", "60s", "--node-close-timeout", "60s")
"""All of them do as they are told, on a busy machine too, and who is given up was not sent to an address."""
QUICK = (*PATIENT, "--transfer-rate", "1000", "--workers", "2")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@dataclass
class Two:
    """Two proxies with two nodes each, and clients, at home at the first."""

    proxies: list[Command]
    nodes: list[list[DemoNode]]
    clients: list[DemoClient]

    async def point_at_each_other(self) -> None:
        for proxy, other, nodes in zip(self.proxies, reversed(self.proxies), self.nodes, strict=True):
            public = f"public={other.address}"
            nodes_file(proxy.nodes.parent, nodes, **{node.name: public for node in nodes})
            done = await proxy.say("reload")
            assert done.code == 0, done.output

    async def served(self) -> None:
        await until(lambda: all_bound(self.clients) and sum(map(here, self.all_nodes)) == len(self.clients))

    @property
    def all_nodes(self) -> list[DemoNode]:
        return [node for nodes in self.nodes for node in nodes]


def here(node: DemoNode) -> int:
    return sum(session.leg is not None for session in node.sessions)


@asynccontextmanager
async def two(tmp_path: Path, certificate: DemoCertificate, *options: str) -> AsyncIterator[Two]:
    cluster = DemoCluster()
    nodes = [[DemoNode(f"{proxy}{number}", cluster=cluster) for number in (1, 2)] for proxy in "ab"]
    given = ("--certificate", str(certificate.certificate), "--key", str(certificate.key), *QUICK, *options)
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
    async with running(*nodes[0], *nodes[1]) as nursery:
        files = [nodes_file(place, each) for place, each in zip(places, nodes, strict=True)]
        async with (
            command(nursery, places[0], files[0], *given) as first,
            command(nursery, places[1], files[1], *given) as second,
        ):
            it = Two([first, second], nodes, await log_in(nursery, first.address, KINDS, certificate))
            await it.point_at_each_other()
            yield it


async def empty_whatever_is_in_use(it: Two) -> None:
    """A drain of each node that serves a client, while the other one of its proxy stays."""
    for proxy, nodes in zip(it.proxies, it.nodes, strict=True):
        for node in nodes:
            if here(node):
                drained = await ask(proxy.control, "drain", node=node.name, wait=True)
                assert drained["left"] == 0, drained
                await ask(proxy.control, "undrain", node=node.name)
    await it.served()


def sent_away(transfers: list[Row]) -> Counter[str]:
    """How often each was sent to an address, and went."""
    moved = [event for event in transfers if event["outcome"] == "moved"]
    return Counter(event["jid"] for event in moved if event.get("server") is not None)


async def test_operators_that_disagree(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with two(tmp_path, certificate) as it:
        everybody = {client.full_jid for client in it.clients}
        for _ in range(ROUNDS):
            await empty_whatever_is_in_use(it)
        for proxy in it.proxies:
            await proxy.logged("transfer", lambda found: set(sent_away(found)) == everybody)
        await it.proxies[0].event("transfer", 2 * len(it.clients) + 1)  # they were told to move all the time
        for proxy in it.proxies:
            assert set(sent_away(await proxy.event("transfer")).values()) == {1}


async def test_trusted_nodes_that_disagree(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with two(tmp_path, certificate, "--trust-node-redirects", "yes") as it:
        for _ in range(ROUNDS):
            for proxy, nodes in zip(reversed(it.proxies), it.nodes, strict=True):
                for node in nodes:
                    redirect_all(node, proxy.address)
            await trio.sleep(0.5)
            await it.served()
        for proxy in it.proxies:
            ended = await proxy.logged("session-end", lambda found: redirected(found)[it.clients[2].full_jid])
            assert set(redirected(ended).values()) == {1}
        # What the nodes said to those that were sent away already is replaced: they come back to where they were.
        assert {event["trigger"] for event in await it.proxies[0].event("transfer")} == {"node-redirected"}


def redirected(ended: list[Row]) -> Counter[str | None]:
    return Counter(event["jid"] for event in ended if event["reason"] == "node-redirected")


def redirect_all(node: DemoNode, address: HostPort) -> None:
    for session in node.sessions:
        if session.leg is not None:
            node.end(session.full_jid, StreamCondition.SEE_OTHER_HOST, str(address))
