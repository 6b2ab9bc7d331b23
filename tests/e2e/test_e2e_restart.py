"""The real command with two workers that are replaced while it serves, or that hang."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import e2e_proxy
import pytest
import trio
from e2e_proxy import all_bound, all_served, connect, until
from e2e_talk import PATIENT, balance, come_and_go, talkative
from e2e_workers import World, world

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.habits import ClientKind


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


async def restart(it: World) -> None:
    assert (await it.proxy.say("restart-workers")).code == 0


async def pids(it: World) -> set[int]:
    return {row["pid"] for row in await it.proxy.show("workers")}


async def test_nobody_is_refused_and_nothing_is_lost(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--transfer-rate", "20", *PATIENT) as it:
        clients = await talkative(it, [*ClientKind] * 3)
        before = await pids(it)
        came: list[str] = []
        async with trio.open_nursery() as comers:
            comers.start_soon(come_and_go, it, came)
            comers.start_soon(come_and_go, it, came)
            await restart(it)
            ends = await it.proxy.event("restart-ends")
            at_the_end = len(came)
            await until(lambda: len(came) > at_the_end + 5)
            comers.cancel_scope.cancel()
        assert (ends[0]["replaced"], ends[0]["reason"]) == (2, None)
        assert at_the_end > 10
        assert not before & await pids(it)
        await until(lambda: all_bound(clients))
        tally = await balance(it, clients)
        assert (tally.lost, tally.twice) == (0, 0)
        assert tally.sent > 100
        everybody = {client.full_jid for client in clients}
        transfers = await it.proxy.logged("transfer", lambda found: everybody <= {each["jid"] for each in found})
        assert {each["trigger"] for each in transfers} == {"worker-restart"}
        assert {each["rung"] for each in transfers} >= {"cxfr", "reset", "cut"}
        assert it.proxy.silent_about("worker-died")
        assert [each["cut"] for each in await it.proxy.event("worker-left", 2)] == [False, False]
        assert not [fault for client in clients for fault in client.faults]


async def test_both_generations_are_shown_and_the_last_are_told_in_time(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    """Clients that never answer keep a worker for two thirds of its time; then they are told in a hurry, not cut."""
    async with world(tmp_path, certificate, "--cxfr-timeout", "60s", "--hard-stop-after", "15s") as it:
        raws = await it.log_in(10)
        before = await pids(it)
        await restart(it)
        await it.proxy.event("worker-up", 3)
        rows = await it.proxy.show("workers")
        assert [(row["number"], row["state"]) for row in rows] == [(1, "leaving"), (1, "up"), (2, "up")]
        assert {row["pid"] for row in rows} > before
        assert len(await it.proxy.show("sessions")) == 10

        async def read_to_the_end(raw: e2e_proxy.Raw) -> None:
            assert "urn:xmpp:cxfr" in await raw.xml()
            assert await raw.error() == "reset"

        async with trio.open_nursery() as reading:
            for raw in raws:
                reading.start_soon(read_to_the_end, raw)
        await it.proxy.event("restart-ends")
        assert [each["cut"] for each in await it.proxy.event("worker-left", 2)] == [False, False]


async def test_who_is_about_to_log_in_may_do_so(tmp_path: Path, certificate: DemoCertificate) -> None:
    """A connection that a worker has accepted is served by it to the end of the login, and then told to come again."""
    async with world(tmp_path, certificate, "--cxfr-timeout", "60s") as it:
        early = [await connect(it.proxy.address, it.certificate.client_context()) for _ in range(8)]
        await restart(it)
        await it.proxy.event("worker-up", 3)

        async def log_in_and_leave(raw: e2e_proxy.Raw, user: str) -> None:
            await raw.log_in(user)
            assert "urn:xmpp:cxfr" in await raw.xml()
            await raw.send("</stream:stream>")
            await raw.close()

        async with trio.open_nursery() as logging_in:
            for number, raw in enumerate(early):
                logging_in.start_soon(log_in_and_leave, raw, f"early{number}")
        assert (await it.proxy.event("restart-ends"))[0]["replaced"] == 2
        assert it.proxy.silent_about("client-refused")


async def test_a_drain_goes_on(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--transfer-rate", "5", *PATIENT) as it:
        clients = await talkative(it, [*ClientKind] * 5)
        done: list[e2e_proxy.Finished] = []
        async with trio.open_nursery() as draining:

            @draining.start_soon
            async def drain() -> None:
                done.append(await it.proxy.say("drain", "node1", "--wait"))

            await it.proxy.event("drain-begins")
            await restart(it)
            await it.proxy.event("restart-ends")
        assert done[0].code == 0, done[0].output
        await until(lambda: all_served(clients, it.nodes[1]))
        nodes = {row["name"]: row["sessions"] for row in await it.proxy.show("nodes")}
        assert nodes == {"node1": 0, "node2": len(clients)}
        assert len(await it.proxy.event("drain-ends")) == 1
        tally = await balance(it, clients)
        assert (tally.lost, tally.twice) == (0, 0)


ILL = """
import sys
from cxfr_proxy.worker import launch
launch._PROGRAM = f"import os, sys; os.path.exists({sys.argv.pop(1)!r}) and sys.exit(3); {launch._PROGRAM}"
from cxfr_proxy.cli import main
sys.exit(main())
"""
"""A proxy whose workers end before they serve, as long as there is a file of that name."""


async def test_the_command_and_its_outcome(
    tmp_path: Path, certificate: DemoCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the new worker does not come up, the old ones serve on."""
    illness = tmp_path / "illness"
    monkeypatch.setattr(e2e_proxy, "COMMAND", (sys.executable, "-c", ILL, str(illness)))
    async with world(tmp_path, certificate) as it:
        raws = await it.log_in(6)
        before = await pids(it)
        illness.touch()
        done = await it.proxy.say("restart-workers", "--wait")
        illness.unlink()
        assert done.code == 1, done.output
        assert "0 of 2 workers are replaced: the new worker 1 ended before it served, with exit code 3" in done.output
        assert await pids(it) == before
        for raw in raws:
            assert await it.pings(raw)
            await raw.close()
        done = await it.proxy.say("restart-workers", "--wait")
        assert (done.code, done.output.splitlines()[-1]) == (0, "2 of 2 workers are replaced")
        assert not before & await pids(it)
        assert (await it.proxy.say("restart-workers")).output == "the workers are being replaced\n"
        await it.proxy.event("restart-ends", 3)


async def test_a_stop_in_the_middle(tmp_path: Path, certificate: DemoCertificate) -> None:
    """TERM has the last word, and a second one as well."""
    async with world(tmp_path, certificate, "--cxfr-timeout", "60s", "--hard-stop-after", "60s") as it:
        await it.log_in(10)
        await restart(it)
        await it.proxy.event("worker-up", 3)
        everybody = await pids(it)
        assert len(everybody) == 3
        it.proxy.process.send_signal(signal.SIGTERM)
        await it.proxy.event("stopping")
        refused = await it.proxy.say("restart-workers")
        assert (refused.code, "the proxy is stopping" in refused.output) == (2, True)
        it.proxy.process.send_signal(signal.SIGTERM)
        assert await it.proxy.ended() == 0
        for pid in everybody:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_one_process_is_not_replaced(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--workers", "1") as it:
        (raw,) = await it.log_in(1)
        refused = await it.proxy.say("restart-workers")
        assert (refused.code, "--workers 1" in refused.output) == (2, True)
        done = await it.proxy.say("restart-workers", "--wait")
        assert (done.code, done.output) == (
            2,
            "cxfr-proxy: with --workers 1 everything is one process, which has no worker to replace\n",
        )
        assert await it.pings(raw)


IMPATIENT = """
import sys
from cxfr_proxy.supervisor.workers import link
link.SILENCE_SECONDS = 12.0  # a worker of a busy machine takes some seconds to start
from cxfr_proxy.cli import main
sys.exit(main())
"""


async def test_a_worker_that_hangs(
    tmp_path: Path, certificate: DemoCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(e2e_proxy, "COMMAND", (sys.executable, "-c", IMPATIENT))
    async with world(tmp_path, certificate) as it:
        await it.log_in(20)
        workers = await it.workers()
        rows = await it.proxy.show("sessions")
        kept = [it.raws[row["jid"]] for row in rows if row["id"] % 2 == 0]
        os.kill(workers[1]["pid"], signal.SIGSTOP)
        assert (await it.proxy.event("worker-hung"))[0]["worker"] == 1
        await it.proxy.event("worker-up", 3)
        after = await it.workers()
        assert (after[1]["deaths"], after[1]["hung"], after[1]["state"]) == (1, 1, "up")
        assert (after[2]["deaths"], after[2]["hung"], after[2]["pid"]) == (0, 0, workers[2]["pid"])
        assert len(kept) == workers[2]["sessions"]
        for raw in kept:
            assert await it.pings(raw)
        for raw in await it.log_in(10, "later"):
            assert await it.pings(raw)
