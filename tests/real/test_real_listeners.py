"""Real nodes as operators set them up for a proxy: behind PROXY headers, and with TLS that they want first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from proxy_log import Row

from real.certs import Authority, Certificate
from real.ejabberd import EjabberdCluster
from real.programs import DOMAIN, HOST, Need, free_port, missing, require
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy
from real.raw import RawClient, open_raw

pytestmark = pytest.mark.real

OPTIONS = ("--domain", DOMAIN, "--workers", "1")
HEADER = (
    f"<?xml version='1.0'?><stream:stream xmlns='jabber:client' to='{DOMAIN}' version='1.0' "
    "xmlns:stream='http://etherx.jabber.org/streams'>"
)
BOTH = pytest.mark.parametrize("version", ["v1", "v2"])


async def checked(proxy: ProxyProcess, check: str, health: str) -> Row:
    """The node's row, once checks have seen that, and so often that it is up or down for it."""
    with trio.fail_after(300):
        while True:
            [row] = await proxy.show("nodes")
            if row["check"] and row["check"].startswith(check) and row["health"] == health:
                return row
            await trio.sleep(0.2)


async def has_net_proxy(node: ProsodyNode, port: int) -> bool:
    """It loads modules one by one, after it has begun to listen to clients: so wait until it has, or could not."""
    with trio.fail_after(300):
        while not node.lacks("net_proxy"):
            try:
                await (await trio.open_tcp_stream(HOST, port)).aclose()
                return True
            except OSError:
                await trio.sleep(0.1)
    return False


async def serves_behind_proxy_headers(proxy: ProxyProcess) -> None:
    await checked(proxy, "ok", "up")
    async with open_raw(proxy.port) as client:
        assert await client.login("romeo") == f"romeo@{DOMAIN}/r"
    assert proxy.silent_about("node-warning"), "checks are sessions like any other"
    # A busy machine may have let one of them wait too long; the node has refused none.
    assert {row["reason"] for row in proxy.so_far("node-down")} <= {"the node did not answer in time"}


@BOTH
async def test_ejabberd_behind_proxy_headers(version: str, tmp_path: Path, authority: Authority) -> None:
    require(Need.EJABBERD)
    with trio.fail_after(300):
        async with EjabberdCluster(
            tmp_path / "cluster", users=["romeo"], size=1, listener=["use_proxy_protocol: true"]
        ) as cluster:
            [node] = cluster.nodes
            lines = [f"node1 {HOST}:{node.port} send-proxy={version}"]
            async with open_proxy(tmp_path, lines, authority.issue(DOMAIN, HOST), options=OPTIONS) as proxy:
                await serves_behind_proxy_headers(proxy)


@BOTH
async def test_prosody_behind_proxy_headers(version: str, tmp_path: Path, authority: Authority) -> None:
    """By mod_net_proxy, which Debian packages from Prosody 13 on."""
    require(Need.PROSODY)
    port = free_port()
    settings = [
        f"proxy_ports = {{ {port} }}",
        f'proxy_port_mappings = {{ [{port}] = "c2s" }}',
        f'proxy_interfaces = {{ "{HOST}" }}',
        f'proxy_trusted_proxies = {{ "{HOST}" }}',
    ]
    with trio.fail_after(300):
        async with ProsodyNode(tmp_path / "node", users=["romeo"], modules=["net_proxy"], settings=settings) as node:
            if not await has_net_proxy(node, port):
                if node.version < (13,):
                    pytest.skip("Debian packages mod_net_proxy from Prosody 13 on")
                missing("not installed: Prosody's module net_proxy (Debian: prosody-modules)")
            lines = [f"node1 {HOST}:{port} send-proxy={version}"]
            async with open_proxy(tmp_path, lines, authority.issue(DOMAIN, HOST), options=OPTIONS) as proxy:
                await serves_behind_proxy_headers(proxy)


@asynccontextmanager
async def open_demanding_prosody(folder: Path, certificate: Certificate) -> AsyncIterator[ProsodyNode]:
    """Start a Prosody that offers STARTTLS and nothing else. Version 13.0.1 sometimes comes up without it, and says for
    good that it has "no stream features to proceed with": then another one is started."""
    for attempt in range(5):
        async with ProsodyNode(folder / f"node{attempt}", users=["romeo"], certificate=certificate) as node:
            async with await trio.open_tcp_stream(HOST, node.port) as stream:
                client = RawClient(stream)
                await client.send(HEADER)
                found = await client.read_until(b"<starttls|undefined-condition")
            if found[0] == b"<starttls":
                yield node
                return
    raise AssertionError("no Prosody has offered STARTTLS")


async def test_a_prosody_that_wants_tls_first(tmp_path: Path, authority: Authority) -> None:
    """Prosody 13 shows limits beside its STARTTLS. Clients are told at once, and the operator what to do."""
    require(Need.PROSODY)
    with trio.fail_after(300):
        async with open_demanding_prosody(tmp_path, authority.issue(DOMAIN, HOST, "localhost")) as node:
            lines = [f"node1 {HOST}:{node.port} inter=500ms"]
            async with open_proxy(tmp_path, lines, authority.issue(DOMAIN, HOST), options=OPTIONS) as proxy:
                row = await checked(proxy, "it wants TLS before anything else", "down")
                assert "tls=starttls" in row["check"]
                assert "c2s_require_encryption = false" in row["check"]
                async with open_raw(proxy.port) as client:
                    await client.send(HEADER)
                    await client.read_until(b"<remote-connection-failed")
                proxy.nodes_file.write_text(f"node1 {HOST}:{node.port} inter=500ms tls=starttls ca={authority.file}\n")
                assert (await proxy.command("reload")).code == 0
                await checked(proxy, "ok", "up")
