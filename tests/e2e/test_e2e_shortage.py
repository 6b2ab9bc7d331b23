"""The real command without what it needs from the machine: clients stay, the log says it, and it is over by itself."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest
from e2e_proxy import HEADER, connect
from e2e_workers import number_of, world
from shortages import few_descriptors

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


async def test_a_supervisor_without_descriptors_gives_no_node_up(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Nor can it start a worker, read anything again or begin an upgrade; all of it works as soon as there are some."""
    async with world(tmp_path, certificate) as it:
        often = it.proxy.nodes.read_text().replace("fall=1000", "inter=50ms check-timeout=60s")
        it.proxy.nodes.write_text(often)
        assert (await it.proxy.say("reload")).code == 0
        await it.log_in(6)
        killed, _ = (await it.workers()).values()
        stay = [row["jid"] for row in await it.proxy.show("sessions") if number_of(row) != killed["number"]]
        with few_descriptors(pid=it.proxy.process.pid):
            await it.proxy.event("dial-failed")
            it.proxy.process.send_signal(signal.SIGHUP)
            await it.proxy.event("reload-failed")
            it.proxy.process.send_signal(signal.SIGUSR2)
            assert "Too many open files" in (await it.proxy.event("upgrade-failed"))[0]["reason"]
            os.kill(killed["pid"], signal.SIGKILL)
            await it.proxy.event("worker-not-started", 4)  # in half a second or more, some ten checks
        await it.proxy.event("worker-up", 3)
        assert it.proxy.silent_about("node-down", "node-given-up", "transfer")
        assert len(await it.proxy.event("worker-died")) == 1
        for jid in stay:
            assert await it.pings(it.raws[jid])
        (late,) = await it.log_in(1, "late")
        assert await it.pings(late)
        assert (await it.proxy.say("reload")).code == 0


async def test_a_worker_without_descriptors_blames_no_node(tmp_path: Path, certificate: DemoCertificate) -> None:
    """One is left, for a client; the connection to its node would be the next."""
    async with world(tmp_path, certificate) as it:
        raws = await it.log_in(4)
        with ExitStack() as short:
            for worker in (await it.workers()).values():
                short.enter_context(few_descriptors(1, worker["pid"]))
            refused = await connect(it.proxy.address, certificate.client_context())
            # It says who it is, and so gets its node at once.
            assert "remote-connection-failed" in await refused.open(
                HEADER.replace(b" to=", b" from='kim@localhost' to=")
            )
            await refused.close()
        assert "Too many open files" in (await it.proxy.event("dial-failed"))[0]["reason"]
        (late,) = await it.log_in(1, "late")
        for raw in (*raws, late):
            assert await it.pings(raw)
        assert [(row["health"], row["connect_failures"]) for row in await it.proxy.show("nodes")] == [("up", 0)] * 2
        assert it.proxy.silent_about("node-down")
