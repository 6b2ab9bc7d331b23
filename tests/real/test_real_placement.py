"""Users and their nodes, with Prosody: three hundred log in at home, and a fourth node takes its share of them.

The clients name themselves in their login and nowhere else, as slixmpp's do; who is where is read from the proxy, and
who belongs where from the nodes file.
"""

from __future__ import annotations

import random
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Security
from cxfr_proxy.demo.wire import HostPort
from real.certs import Authority
from real.programs import DOMAIN, HOST, PASSWORD, Need, require
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy

pytestmark = pytest.mark.real

_EVERYBODY: Final = 300
_RATE: Final = 25.0
_TOGETHER: Final = 20
"""So many log in at a time."""


class _Town:
    """Nodes, of which the proxy knows the first ``listed``, and everybody on them."""

    def __init__(self, nodes: Sequence[ProsodyNode], folder: Path, tls: ssl.SSLContext, line: str) -> None:
        self.lines = [f"node{number} {HOST}:{node.port} {line}" for number, node in enumerate(nodes, 1)]
        self.folder = folder
        self.tls = tls
        self.clients: dict[str, DemoClient] = {}
        self.proxy: ProxyProcess

    def homes(self, listed: int) -> dict[str, str]:
        """By user, while the first so many nodes are in the list."""
        placement = Placement(Cluster(parse_nodes("\n".join(self.lines[:listed]), "nodes.txt")))
        found = {user: placement.home(f"{user}@{DOMAIN}", DOMAIN) for user in self.clients}
        return {user: node.name for user, node in found.items() if node is not None}

    async def all_are_seen(self) -> None:
        """Wait until checks have seen what all nodes offer, and the workers have heard of it."""

        async def seen() -> bool:
            return all(str(row["check"]).startswith("ok") for row in await self.proxy.show("nodes"))

        await _until(seen, "all nodes are seen")
        await trio.sleep(1)

    async def log_in(self, nursery: trio.Nursery, users: Sequence[str]) -> None:
        address = HostPort(HOST, self.proxy.port)
        for user in users:
            self.clients[user] = DemoClient(
                f"{user}@{DOMAIN}",
                ClientKind.CXFR,
                address,
                rng=random.Random(user),
                login=ClientLogin(security=Security.DIRECT_TLS, tls=self.tls, password=PASSWORD),
                back_off_seconds=0.1,
            )
        for at in range(0, len(users), _TOGETHER):
            async with trio.open_nursery() as starting:
                for user in users[at : at + _TOGETHER]:
                    starting.start_soon(nursery.start, self.clients[user].run)

    async def where(self) -> dict[str, str]:
        rows = await self.proxy.show("sessions")
        return {row["jid"].partition("@")[0]: row["node"] for row in rows if row["jid"]}

    async def until_all_are(self, homes: dict[str, str]) -> None:
        await _until(lambda: self._are(homes), "everybody is at home")

    async def _are(self, homes: dict[str, str]) -> bool:
        return await self.where() == homes


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    with trio.move_on_after(60):
        while not await condition():  # noqa: ASYNC110 - it happens in other processes
            await trio.sleep(0.25)
        return
    raise AssertionError(f"did not happen: {what}")


@asynccontextmanager
async def _town(
    folder: Path, authority: Authority, nodes: int, listed: int, *options: str, line: str = ""
) -> AsyncIterator[tuple[_Town, list[ProsodyNode]]]:
    require(Need.PROSODY)
    users = [f"user{number}" for number in range(_EVERYBODY)]
    async with AsyncExitStack() as stack:
        prosodies = [
            await stack.enter_async_context(ProsodyNode(folder / f"node{number}", users=users))
            for number in range(1, nodes + 1)
        ]
        town = _Town(prosodies, folder, ssl.create_default_context(cafile=str(authority.file)), line)
        options = ("--domain", DOMAIN, "--workers", "2", "--transfer-rate", f"{_RATE:g}", *options)
        certificate = authority.issue(DOMAIN, HOST)
        town.proxy = await stack.enter_async_context(
            open_proxy(folder, town.lines[:listed], certificate, options=options)
        )
        yield town, prosodies


async def test_everybody_is_at_home_and_a_fourth_node_takes_its_quarter(tmp_path: Path, authority: Authority) -> None:
    with trio.fail_after(300):
        async with (
            _town(tmp_path, authority, 4, 3, "--rebalance", "auto", "--wrong-node", "transfer") as (town, _),
            trio.open_nursery() as nursery,
        ):
            await town.all_are_seen()
            await town.log_in(nursery, [f"user{number}" for number in range(_EVERYBODY)])
            before, after = town.homes(3), town.homes(4)
            assert await town.where() == before
            assert not await town.proxy.show("transfers"), "nobody had to be moved"

            file = town.proxy.nodes_file
            file.with_suffix(".new").write_text("".join(f"{line}\n" for line in town.lines), "utf-8")
            file.with_suffix(".new").replace(file)
            await town.until_all_are(after)
            movers = {user for user in before if before[user] != after[user]}
            assert {after[user] for user in movers} == {"node4"}
            assert 0.15 < len(movers) / _EVERYBODY < 0.35
            assert {user for user, client in town.clients.items() if client.logins > 1} == movers
            transfers = await town.proxy.show("transfers")
            assert Counter(row["jid"].partition("@")[0] for row in transfers) == dict.fromkeys(movers, 1)
            assert {row["trigger"] for row in transfers} == {"rebalance"}
            began = sorted(-row["seconds_ago"] for row in transfers)
            # Half a second's worth at once, then one after the other; a busy machine is late, and never early.
            assert began[-1] - began[0] >= (len(began) - 1 - _RATE / 2) / _RATE - 0.2
            nursery.cancel_scope.cancel()


async def test_who_comes_to_the_wrong_node_is_sent_home(tmp_path: Path, authority: Authority) -> None:
    """With ``--route connect`` no user's name is known before the login.

    They come one after the other: of several who are sent from one address at once, and don't say who they are, nobody
    knows who is who when they are back.
    """
    with trio.fail_after(300):
        async with (
            _town(tmp_path, authority, 3, 3, "--route", "connect", "--wrong-node", "transfer") as (town, _),
            trio.open_nursery() as nursery,
        ):
            for number in range(15):
                await town.log_in(nursery, [f"user{number}"])
                await town.until_all_are(town.homes(3))
            transfers = await town.proxy.show("transfers")
            assert {row["trigger"] for row in transfers} == {"wrong-node"}
            assert max(Counter(row["jid"] for row in transfers).values()) == 1, "nobody is moved twice"
            assert {client.logins for client in town.clients.values()} == {1, 2}
            nursery.cancel_scope.cancel()


async def test_a_node_that_stands_still_is_left_by_its_users(tmp_path: Path, authority: Authority) -> None:
    with trio.fail_after(300):
        async with (
            _town(tmp_path, authority, 3, 3, line="inter=2s") as (town, prosodies),
            trio.open_nursery() as nursery,
        ):
            await town.all_are_seen()
            await town.log_in(nursery, [f"user{number}" for number in range(60)])
            before = town.homes(3)
            assert await town.where() == before
            stopped = prosodies[0].process
            assert stopped is not None
            stopped.send_signal(signal.SIGSTOP)
            try:

                async def left() -> bool:
                    now = await town.where()
                    return "node1" not in now.values() and len(now) == len(before)

                await _until(left, "its users are on the other nodes")
                now = await town.where()
                assert {user: now[user] for user in now if before[user] != "node1"} == {
                    user: node for user, node in before.items() if node != "node1"
                }
                (row,) = [row for row in await town.proxy.show("nodes") if row["name"] == "node1"]
                assert row["health"] == "down"
            finally:
                stopped.send_signal(signal.SIGCONT)
            nursery.cancel_scope.cancel()
