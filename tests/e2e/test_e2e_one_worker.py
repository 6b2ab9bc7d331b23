"""One worker, in the supervisor's own process: what ends with it, what is said, and what goes on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from e2e_proxy import all_bound, in_process, log_in, nodes_file, running, until

from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.table import Config, StartTls
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind, Life
from cxfr_proxy.demo.node import DemoNode

CLIENTS = 3


async def test_the_end_of_each_session_is_logged_and_another_worker_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    node = DemoNode("a")
    async with running(node) as nursery:
        config = Config(
            backends=FileBackends(str(nodes_file(tmp_path, [node]))),
            domain=("localhost",),
            starttls=StartTls.OPTIONAL,
            control=tmp_path / "c.sock",
        )
        async with in_process(config) as (here, address):
            clients = await log_in(nursery, address, [ClientKind.PLAIN] * CLIENTS, None)
            first = here.proxy._here.latest
            assert first is not None
            first.kill()
            await until(lambda: here.proxy._here.latest is not first, "another worker")
            await until(lambda: all(client.logins == 2 for client in clients) and all_bound(clients), "all are back")
            ended = [record for record in caplog.records if record.msg == "session-end"]
            assert sorted(str(record.__dict__["cxfr_proxy_fields"]["jid"]).partition("@")[0] for record in ended) == [
                f"user{number}" for number in range(CLIENTS)
            ]
            for client in clients:
                client.leave()
            await until(lambda: all(client.life is Life.GONE for client in clients), "all leave")


async def _fault() -> None:
    raise RuntimeError("a defect where nothing keeps it in")


@pytest.mark.parametrize("how", ["killed", "faulty"])
async def test_who_can_resume_is_led_back(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """To the node that has their sessions, and alone has them, although the other one has less to do: as behind one of
    several workers. The end of each session is logged once."""
    caplog.set_level(logging.INFO)
    cluster = DemoCluster()
    nodes = [DemoNode("node1", cluster=cluster), DemoNode("node2", cluster=cluster)]
    async with running(*nodes) as nursery:
        config = Config(
            backends=FileBackends(str(nodes_file(tmp_path, nodes, node2="state=drain"))),
            domain=("localhost",),
            starttls=StartTls.OPTIONAL,
            control=tmp_path / "c.sock",
        )
        async with in_process(config) as (here, address):
            clients = await log_in(nursery, address, [ClientKind.STREAM_MANAGEMENT] * 6, None)
            here.console.drains.undrain("node2")
            first = here.proxy._here.latest
            assert first is not None
            if how == "killed":
                first.kill()
            else:
                assert first.worker._nursery is not None
                first.worker._nursery.start_soon(_fault)
            await until(lambda: here.proxy._here.latest is not first, "another worker")
            await until(lambda: all(client.moves for client in clients) and all_bound(clients), "all are back")
            assert [move.resumed for client in clients for move in client.moves] == [True] * len(clients)
            assert {session.node for session in cluster.sessions.values()} == {"node1"}
            assert sum(record.msg == "session-end" for record in caplog.records) == len(clients)
            for client in clients:
                client.leave()
            await until(lambda: all(client.life is Life.GONE for client in clients), "all leave")
