"""The real command with two workers, in front of demo nodes; and clients whose sessions a test asks after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from e2e_proxy import Command, Raw, Row, command, connect, nodes_file, running

from cxfr_proxy.demo.certificate import DemoCertificate
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.xmpp.connection_transfer import ID_PREFIX

PING = b"<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>"


@dataclass
class World:
    proxy: Command
    nodes: list[DemoNode]
    certificate: DemoCertificate
    nursery: trio.Nursery
    raws: dict[str, Raw] = field(default_factory=dict)
    """By full JID."""

    async def log_in(self, count: int, prefix: str = "user") -> list[Raw]:
        raws: list[Raw] = []

        async def one(number: int) -> None:
            raw = await connect(self.proxy.address, self.certificate.client_context())
            self.raws[await raw.log_in(f"{prefix}{number}")] = raw
            raws.append(raw)

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(one, number)
        return raws

    async def workers(self) -> dict[int, Row]:
        return {row["number"]: row for row in await self.proxy.show("workers")}

    async def pings(self, raw: Raw) -> bool:
        """Whether its session is alive; a request to move that came before is passed over."""
        try:
            await raw.send(PING)
            answer = await raw.element()
            while answer.get("id", "").startswith(ID_PREFIX):
                answer = await raw.element()
            return answer.get("id") == "p"
        except (trio.BrokenResourceError, AssertionError):
            return False


@asynccontextmanager
async def world(tmp_path: Path, certificate: DemoCertificate, *options: str) -> AsyncIterator[World]:
    """Two nodes that share sessions."""
    cluster = DemoCluster(shared=True)
    nodes = [DemoNode("node1", cluster=cluster), DemoNode("node2", cluster=cluster)]
    async with running(*nodes) as nursery:
        file = nodes_file(tmp_path, nodes)
        given = ("--certificate", str(certificate.certificate), "--key", str(certificate.key), "--workers", "2")
        fast = ("--cxfr-timeout", "300ms", "--node-close-timeout", "1s")
        async with command(nursery, tmp_path, file, *given, *fast, *options) as proxy:
            yield World(proxy, nodes, certificate, nursery)


def number_of(row: Row) -> int:
    """Which worker has the session: ids are dealt out in turn."""
    return (int(row["id"]) - 1) % 2 + 1
