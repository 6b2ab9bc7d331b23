"""HAProxy and nginx in front of the proxy, and a real node behind it that names the client's address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from waiting import until

from real import programs
from real.certs import Authority
from real.ejabberd import EjabberdCluster, EjabberdNode
from real.programs import DOMAIN, HOST, Need, free_port, missing, require, which
from real.proxy import ProxyProcess, open_proxy
from real.raw import open_raw

pytestmark = pytest.mark.real

HAPROXY = """\
global
  maxconn 100
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  unique-id-format cxfr-test-%cp
listen version1
  bind {host}:{ports[0]}
  server proxy {host}:{proxy} send-proxy check inter 100ms
listen version2
  bind {host}:{ports[1]}
  server proxy {host}:{proxy} send-proxy-v2 proxy-v2-options unique-id,crc32c check inter 100ms
"""
NGINX = """\
load_module {module};
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 100; }}
stream {{
  server {{
    listen {host}:{ports[2]};
    proxy_pass {host}:{proxy};
    proxy_protocol on;
  }}
}}
"""
MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@asynccontextmanager
async def balancers(folder: Path, proxy: ProxyProcess) -> AsyncIterator[Sequence[int]]:
    """HAProxy with version 1 and with version 2, and nginx, which has version 1: their ports, in this order."""
    ports = [free_port() for _ in range(3)]
    started: list[trio.Process] = []
    try:
        for need, text, option in ((Need.HAPROXY, HAPROXY, "-f"), (Need.NGINX, NGINX, "-c")):
            file = folder / f"{need.value}.cfg"
            file.write_text(text.format(host=HOST, ports=ports, proxy=proxy.port, folder=folder, module=MODULE))
            program, output = which(need.value), folder / f"{need.value}.log"
            assert program is not None
            foreground = ["-db"] if need is Need.HAPROXY else []
            process = await programs.start([program, *foreground, option, file], output=output)
            started.append(process)
            for port in ports[:2] if need is Need.HAPROXY else ports[2:]:
                await programs.wait_accepting(HOST, port, process, output)
        yield ports
    finally:
        for process in started:
            await programs.end(process)


def names(node: EjabberdNode, source: str) -> bool:
    """Whether the node has written that somebody has logged in from there."""
    lines = node.log.read_text("utf-8").splitlines()
    return any("Accepted" in line and line.endswith(source) for line in lines)


def require_nginx() -> None:
    require(Need.NGINX)
    if not MODULE.exists():
        missing("not installed: nginx's stream module (Debian: libnginx-mod-stream)")


async def test_a_node_names_the_client(tmp_path: Path, authority: Authority) -> None:
    """TLS passes through. ejabberd writes the address of whoever logs in into its log; the checks of HAProxy, ten a
    second, leave no line in the proxy's."""
    require(Need.EJABBERD, Need.HAPROXY)
    require_nginx()
    options = ("--domain", DOMAIN, "--workers", "1", "--trusted-proxies", HOST)
    node_options = ["use_proxy_protocol: true"]
    with trio.fail_after(300):
        async with EjabberdCluster(tmp_path / "cluster", users=["romeo"], size=1, listener=node_options) as cluster:
            [node] = cluster.nodes
            lines = [f"node1 {HOST}:{node.port} send-proxy=v2 inter=500ms"]
            async with (
                open_proxy(tmp_path, lines, authority.issue(DOMAIN, HOST), options=options) as proxy,
                balancers(tmp_path, proxy) as ports,
            ):
                for number, port in enumerate(ports):
                    source = f"127.0.0.{number + 11}"
                    async with open_raw(port, starttls=number == 1, source=source) as client:
                        assert await client.login("romeo") == f"romeo@{DOMAIN}/r"
                        await until(partial(names, node, source), f"ejabberd names {source}")
                        bound = (await proxy.event("bound", number + 1))[number]
                        assert (bound["client"], bound["via"]) == (source, HOST)
                        has_id = bound["unique_id"] == f"cxfr-test-{bound['port']}"
                        assert has_id if number == 1 else bound["unique_id"] is None
                    await proxy.event("session-end", number + 1)
                assert proxy.silent_about("proxy-header-refused", "client-refused")
