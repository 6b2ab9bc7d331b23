"""HAProxy and nginx in front of the proxy, and a real node behind it that names the client's address."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path

import e2e_proxy
import pytest
import trio
from e2e_websocket import raw_page
from waiting import until

from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import HostPort
from real.balancers import balancers, require_balancers
from real.certs import Authority
from real.ejabberd import EjabberdCluster, EjabberdNode
from real.programs import DOMAIN, HOST, Need, require
from real.proxy import open_proxy
from real.raw import open_raw

pytestmark = pytest.mark.real


def names(node: EjabberdNode, source: str) -> bool:
    """Whether the node has written that somebody has logged in from there."""
    lines = node.log.read_text("utf-8").splitlines()
    return any("Accepted" in line and line.endswith(source) for line in lines)


async def test_a_node_names_the_client(tmp_path: Path, authority: Authority) -> None:
    """TLS passes through, or ends at HAProxy, which says so. ejabberd writes the address of whoever logs in into its
    log; the checks of HAProxy, ten a second, leave no line in the proxy's."""
    require(Need.EJABBERD)
    require_balancers()
    certificate = authority.issue(DOMAIN, HOST)
    options = ("--domain", DOMAIN, "--workers", "1", "--trusted-proxies", HOST)
    node_options = ["use_proxy_protocol: true"]
    with trio.fail_after(300):
        async with EjabberdCluster(tmp_path / "cluster", users=["romeo"], size=1, listener=node_options) as cluster:
            [node] = cluster.nodes
            lines = [f"node1 {HOST}:{node.port} send-proxy=v2 inter=500ms fall=1000"]
            async with (
                open_proxy(tmp_path, lines, certificate, options=options) as proxy,
                balancers(tmp_path, proxy, certificate) as ports,
            ):
                for number, port in enumerate(ports[:4]):
                    source = f"127.0.0.{number + 11}"
                    async with open_raw(port, starttls=port == ports.version2, source=source) as client:
                        assert await client.login("romeo") == f"romeo@{DOMAIN}/r"
                        await until(partial(names, node, source), f"ejabberd names {source}")
                        bound = (await proxy.event("bound", number + 1))[number]
                        assert (bound["client"], bound["via"], bound["tls"]) == (source, HOST, "TLSv1.3")
                        has_id = bound["unique_id"] == f"cxfr-test-{bound['port']}"
                        assert has_id if port == ports.version2 else bound["unique_id"] is None
                    await proxy.event("session-end", number + 1)
                assert proxy.silent_about("proxy-header-refused", "client-refused")


async def test_a_silent_tab_behind_nginx(tmp_path: Path, authority: Authority) -> None:
    """nginx gives up what has been silent for ten seconds. With a ping after four the tab outlives that, and it has the
    address and the TLS that nginx tells of."""
    require_balancers()
    node, certificate = DemoNode("node1"), authority.issue(e2e_proxy.DOMAIN, HOST)
    trusting = ("--workers", "1", "--trusted-proxies", HOST, "--proxy-header", "optional", "--websocket-ping", "4s")
    source = "127.0.0.21"
    async with (
        e2e_proxy.running(node),
        open_proxy(tmp_path, [f"node1 {node.address}"], certificate, options=trusting) as proxy,
        balancers(tmp_path, proxy, certificate, read_timeout="10s") as ports,
        raw_page(
            HostPort(HOST, ports.nginx_web), ssl.create_default_context(cafile=str(authority.file)), source=source
        ) as tab,
    ):
        await tab.upgrade()
        await tab.log_in()
        [bound] = await proxy.event("bound")
        assert (bound["client"], bound["via"], bound["transport"], bound["tls"]) == (source, HOST, "websocket", "TLS")
        await tab.answer_pings(3)
        await tab.echo("still here")
