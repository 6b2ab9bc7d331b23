"""A node that accepts connections and never greets: its clients get another one, and it is taken out."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from e2e_proxy import connect, in_process, running, until

from cxfr_proxy.cluster import health
from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.cluster.nodes import Health
from cxfr_proxy.config.table import Config, Route, StartTls, Timeouts
from cxfr_proxy.demo.node import DemoNode

pytestmark = pytest.mark.usefixtures("engines")


FAILED_LOGINS = 2
"""So many have to wait before it is taken out; where it is not a test, it takes more."""
GREETING_SECONDS = 1.0
"""The other node greets in milliseconds, on a busy machine as well."""


async def test_its_clients_get_another_node_and_it_is_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FAILED_LOGINS", FAILED_LOGINS)
    node = DemoNode("good")
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    accepted: list[trio.SocketStream] = []

    async def hang(stream: trio.SocketStream) -> None:
        accepted.append(stream)
        await trio.sleep_forever()

    async with running(node), trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, hang, silent)
        nodes = tmp_path / "nodes.txt"
        (host, port), (good_host, good_port) = silent[0].socket.getsockname()[:2], node.address
        nodes.write_text(
            f"hangs {host}:{port} check=tcp inter=1h\ngood {good_host}:{good_port} priority=1 check=tcp\n", "utf-8"
        )
        config = Config(
            starttls=StartTls.OFF,
            domain=("localhost",),
            route=Route.CONNECT,
            workers=1,
            backends=FileBackends(str(nodes)),
            control=tmp_path / "c.sock",
            timeouts=Timeouts(node_greeting_timeout=GREETING_SECONDS),
        )
        async with in_process(config) as (proxy, address):
            for number in range(FAILED_LOGINS):
                raw = await connect(address)
                await raw.log_in(f"user{number}")
            assert [relayed.session.node for relayed in proxy.registry] == ["good"] * FAILED_LOGINS
            rows = {row.name: row for row in await proxy.console.nodes.rows()}
            assert (rows["hangs"].health, rows["good"].health) == (Health.DOWN, Health.UP)
            before = len(accepted)
            raw = await connect(address)
            await raw.log_in("later")
            assert len(accepted) == before, "nobody waits for it any more"
            await until(lambda: len(proxy.registry) == FAILED_LOGINS + 1)
        nursery.cancel_scope.cancel()


async def test_nobody_waits_for_ever_where_no_node_greets(tmp_path: Path) -> None:
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def hang(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, hang, silent)
        nodes = tmp_path / "nodes.txt"
        host, port = silent[0].socket.getsockname()[:2]
        nodes.write_text(f"a {host}:{port} check=none\nb {host}:{port} check=none\n", "utf-8")
        config = Config(
            starttls=StartTls.OFF,
            domain=("localhost",),
            workers=1,
            backends=FileBackends(str(nodes)),
            control=tmp_path / "c.sock",
            timeouts=Timeouts(node_greeting_timeout=0.2),
        )
        async with in_process(config) as (_, address):
            raw = await connect(address)
            await raw.send(b"<stream:stream xmlns='jabber:client' to='localhost' version='1.0'")
            await raw.send(b" xmlns:stream='http://etherx.jabber.org/streams'>")
            assert await raw.error() == "remote-connection-failed"
        nursery.cancel_scope.cancel()
