"""A worker that is killed says nothing more; its clients are led back to where their sessions wait all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from e2e_proxy import all_bound, command, log_in, nodes_file, running, until
from e2e_workers import number_of

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind
from cxfr_proxy.demo.node import DemoNode


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


async def test_clients_of_a_killed_worker_resume(tmp_path: Path, certificate: DemoCertificate) -> None:
    """On the node that has their sessions, and alone has them, although the other one has less to do."""
    cluster = DemoCluster()
    nodes = [DemoNode("node1", cluster=cluster), DemoNode("node2", cluster=cluster)]
    options = ("--certificate", str(certificate.certificate), "--key", str(certificate.key), "--workers", "2")
    async with running(*nodes) as nursery:
        file = nodes_file(tmp_path, nodes, node2="state=drain")
        async with command(nursery, tmp_path, file, *options) as proxy:
            clients = await log_in(nursery, proxy.address, [ClientKind.STREAM_MANAGEMENT] * 12, certificate)
            assert (await proxy.say("undrain", "node2")).code == 0
            there = {row["jid"]: number_of(row) for row in await proxy.show("sessions")}
            killed = [client for client in clients if there[client.full_jid] == 1]
            assert killed
            [pid] = [row["pid"] for row in await proxy.show("workers") if row["number"] == 1]
            os.kill(pid, signal.SIGKILL)
            await until(lambda: all(client.moves for client in killed) and all_bound(clients))
            assert [move.resumed for client in killed for move in client.moves] == [True] * len(killed)
            assert {session.node for session in cluster.sessions.values()} == {"node1"}
            assert not any(client.moves for client in clients if client not in killed)
