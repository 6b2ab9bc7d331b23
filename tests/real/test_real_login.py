"""Real clients in front of real nodes get their node by the user who logs in: nobody has to be moved home afterwards.

slixmpp says ``from`` in no header; both libraries log in by SCRAM. The taps tell where clients are, and the nodes file
where they belong.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.placement import Placement
from real.certs import Authority
from real.crowd import crowd_users, homes, open_crowd
from real.ejabberd import EjabberdCluster
from real.programs import DOMAIN, HOST, PASSWORD, Need, require
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy
from real.raw import open_raw
from real.tap import Tap, open_tap

pytestmark = pytest.mark.real

_EACH: Final = 10


@dataclass(frozen=True, slots=True)
class _Site:
    taps: dict[str, Tap]
    proxy: ProxyProcess
    placement: Placement

    def home(self, user: str) -> str:
        node = self.placement.home(f"{user}@{DOMAIN}", DOMAIN)
        assert node is not None
        return node.name

    def found(self) -> dict[str, str]:
        """By user, the node's name."""
        by_tap = {tap: name for name, tap in self.taps.items()}
        return {user: by_tap[tap] for user, tap in homes(list(self.taps.values())).items()}

    async def ready(self) -> None:
        """Wait until a client gets header and features without a node."""
        with trio.fail_after(300):
            while True:
                async with open_raw(self.proxy.port) as client:
                    await client.open()
                    if not await self.proxy.show("sessions"):
                        return
                await trio.sleep(0.1)


@asynccontextmanager
async def _open_site(
    folder: Path, authority: Authority, users: Sequence[str], ports: Sequence[int], *options: str
) -> AsyncIterator[_Site]:
    async with AsyncExitStack() as stack:
        taps = {
            f"node{number}": await stack.enter_async_context(open_tap(port)) for number, port in enumerate(ports, 1)
        }
        lines = [f"{name} {tap.address}" for name, tap in taps.items()]
        options = ("--domain", DOMAIN, "--workers", "2", "--log-level", "debug", *options)
        proxy = await stack.enter_async_context(
            open_proxy(folder, lines, authority.issue(DOMAIN, HOST), options=options)
        )
        placement = Placement(Cluster(parse_nodes("\n".join(lines), "nodes.txt")))
        site = _Site(taps, proxy, placement)
        await site.ready()
        yield site
        assert PASSWORD not in proxy.log_tail(100_000)


async def _everybody_at_home(site: _Site, logs: Path, everybody: int) -> None:
    users = crowd_users(everybody)
    async with open_crowd(logs, users) as crowd:
        await crowd.connect(site.proxy.port)
        assert site.found() == {user: site.home(user) for user in crowd.users}
        assert not await site.proxy.show("transfers")
        headers = [leg.up for tap in site.taps.values() for leg in tap.connections if leg.read_down().bound_jid]
        assert any(b" from=" not in up for up in headers), "one client has not named its user"
        assert any(b"SCRAM-SHA-" in up for up in headers)


@pytest.mark.parametrize("nodes", [2, 3])
async def test_everybody_is_at_home_on_prosody(nodes: int, tmp_path: Path, logs: Path, authority: Authority) -> None:
    require(Need.PROSODY, Need.SLIXMPP, Need.AIOXMPP)
    users = [user for of_library in crowd_users(_EACH).values() for user in of_library]
    with trio.fail_after(300):
        async with AsyncExitStack() as stack:
            ports = [
                (await stack.enter_async_context(ProsodyNode(tmp_path / f"node{number}", users=users))).port
                for number in range(1, nodes + 1)
            ]
            async with _open_site(tmp_path, authority, users, ports) as site:
                await _everybody_at_home(site, logs, _EACH)


async def test_everybody_is_at_home_on_ejabberd(tmp_path: Path, logs: Path, authority: Authority) -> None:
    require(Need.EJABBERD, Need.SLIXMPP, Need.AIOXMPP)
    users = [user for of_library in crowd_users(_EACH).values() for user in of_library]
    with trio.fail_after(300):
        async with EjabberdCluster(tmp_path / "cluster", users=users) as cluster:
            ports = [node.port for node in cluster.nodes]
            async with _open_site(tmp_path, authority, users, ports) as site:
                await _everybody_at_home(site, logs, _EACH)


def _plain(user: str, password: str) -> str:
    secret = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    return f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>"


async def test_a_wrong_password_and_then_somebody_else(tmp_path: Path, authority: Authority) -> None:
    require(Need.PROSODY)
    users = [f"u{number}" for number in range(12)]
    with trio.fail_after(300):
        async with AsyncExitStack() as stack:
            ports = [
                (await stack.enter_async_context(ProsodyNode(tmp_path / name, users=users))).port
                for name in ("node1", "node2")
            ]
            async with _open_site(tmp_path, authority, users, ports) as site, open_raw(site.proxy.port) as client:
                one, two = (next(u for u in users if site.home(u) == name) for name in ("node1", "node2"))
                await client.open()
                await client.send(_plain(one, "wrong"))
                await client.read_until(rb"<not-authorized")
                await client.send(_plain(two, PASSWORD))
                await client.read_until(rb"<success")
                assert await client.login_behind_success(two) == f"{two}@{DOMAIN}/r"
                assert site.found() == {two: "node2"}
                failed = [leg for leg in site.taps["node1"].connections if b"not-authorized" in leg.down]
                assert len(failed) == 1
                assert failed[0].up.endswith(b"</stream:stream>")
