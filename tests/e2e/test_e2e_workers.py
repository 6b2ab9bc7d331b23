"""The real command with two workers, in front of demo nodes: what one of them does, and what all do together."""

from __future__ import annotations

import os
import select
import signal
import ssl
import sys
from datetime import datetime
from pathlib import Path

import e2e_proxy
import pytest
import trio
from e2e_proxy import command, nodes_file, port_of, running, until
from e2e_workers import World, number_of, world

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.node import DemoNode

pytestmark = pytest.mark.usefixtures("engines")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


async def test_both_workers_serve_and_everything_is_shown(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        raws = await it.log_in(40)
        workers = await it.workers()
        assert sorted(workers) == [1, 2]
        assert all(row["sessions"] > 0 and row["state"] == "up" for row in workers.values()), workers
        assert sum(row["sessions"] for row in workers.values()) == 40
        rows = await it.proxy.show("sessions")
        assert {row["jid"] for row in rows} == {f"user{number}@localhost/r" for number in range(40)}
        assert len({row["id"] for row in rows}) == 40
        for number in workers:  # each says how old its own are, and not at the same moment
            ages = [row["age_seconds"] for row in rows if number_of(row) == number]
            assert ages == sorted(ages, reverse=True)
        nodes = await it.proxy.show("nodes")
        assert sum(row["sessions"] for row in nodes) == 40
        pids = {row["pid"] for row in workers.values()}
        assert it.proxy.process.pid not in pids
        assert len(pids) == 2
        capacity = await it.proxy.event("capacity")
        assert capacity[0]["sessions"] > 2
        for raw in raws:
            assert await it.pings(raw)


async def test_a_drain_holds_the_proxys_rate(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Twenty a second in all, half a second's worth at once: not twice that because there are two workers."""
    async with world(tmp_path, certificate, "--transfer-rate", "20") as it:
        await it.log_in(80)
        before = {row["name"]: row["sessions"] for row in await it.proxy.show("nodes")}
        node = max(before, key=lambda name: before[name])
        assert before[node] >= 40
        both = {number_of(row) for row in await it.proxy.show("sessions") if row["node"] == node}
        assert both == {1, 2}
        done = await it.proxy.say("drain", node, "--wait")
        assert done.code == 0, done.output
        after = {row["name"]: row["sessions"] for row in await it.proxy.show("nodes")}
        assert after[node] == 0
        rows = await it.proxy.event("transfer", before[node])
        assert len(rows) == before[node]
        assert {row["source"] for row in rows} == {node}
        # When each began: both workers look at the same clock then, and not when they are asked.
        logged = [line for line in it.proxy.log if line.get("event") == "transfer"]
        times = sorted(datetime.fromisoformat(line["time"]).timestamp() - line["fields"]["seconds"] for line in logged)
        for index, start in enumerate(times):
            # In every window that begins with a transfer: the bucket's burst and what flows in, one for rounding.
            for end_index in range(index, len(times)):
                window = times[end_index] - start
                assert end_index - index + 1 <= 10 + 20 * (window + 0.1) + 1
        took = times[-1] - times[0]
        assert took >= (before[node] - 10) / 20 * 0.9


async def test_a_drains_deadline_and_calling_it_off(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--transfer-rate", "0.1", "--cxfr-timeout", "30s") as it:
        await it.log_in(20)
        before = {row["name"]: row["sessions"] for row in await it.proxy.show("nodes")}
        node = max(before, key=lambda name: before[name])
        assert (await it.proxy.say("drain", node)).code == 0
        assert (await it.proxy.say("undrain", node)).code == 0
        left = {row["name"]: row["sessions"] for row in await it.proxy.show("nodes")}[node]
        assert left >= before[node] - 2
        done = await it.proxy.say("drain", node, "--wait", "--deadline", "1s")
        assert done.code == 0, done.output


async def test_a_killed_worker_is_replaced_and_the_other_goes_on(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        await it.log_in(30)
        rows = await it.proxy.show("sessions")
        workers = await it.workers()
        lost = {row["jid"] for row in rows if number_of(row) == 1}
        kept = {row["jid"] for row in rows if number_of(row) == 2}
        assert lost
        assert kept
        assert (len(lost), len(kept)) == (workers[1]["sessions"], workers[2]["sessions"])
        answers = dict.fromkeys(kept, 0)
        async with trio.open_nursery() as traffic:
            for jid in kept:
                traffic.start_soon(keep_pinging, it, jid, answers)
            await until(lambda: min(answers.values()) > 5)
            os.kill(workers[1]["pid"], signal.SIGKILL)
            died = await it.proxy.event("worker-died")
            await it.proxy.event("worker-up", 3)
            so_far = max(answers.values())
            await until(lambda: min(answers.values()) > so_far)
            traffic.cancel_scope.cancel()
        assert died[0]["sessions"] == len(lost)
        ended = {row["jid"]: row for row in await it.proxy.event("session-end", len(lost))}
        assert ended.keys() == lost
        known = {row["jid"]: row for row in rows}
        for jid, row in ended.items():
            assert (row["session"], row["node"]) == (known[jid]["id"], known[jid]["node"])
            assert (row["reason"], row["client"]) == ("worker-died", "127.0.0.1")
            assert row["port"] == port_of(it.raws[jid])
            assert row["seconds"] >= known[jid]["age_seconds"] - 0.1
        now = await it.proxy.show("sessions")
        assert {row["jid"] for row in now} == kept, "the other's sessions, and no more"
        for jid in lost:
            assert not await it.pings(it.raws[jid])
        more = await it.log_in(30, "later")
        for raw in more:
            assert await it.pings(raw)
        after = await it.workers()
        assert after[1]["pid"] != workers[1]["pid"]
        assert after[1]["deaths"] == 1
        assert after[1]["sessions"] > 0
        assert after[2]["pid"] == workers[2]["pid"]
        ids = [row["id"] for row in await it.proxy.show("sessions")]
        assert len(ids) == len(set(ids))
        assert not set(ids) & {row["id"] for row in rows if number_of(row) == 1}, "no id is used twice"


async def keep_pinging(it: World, jid: str, answers: dict[str, int]) -> None:
    while True:
        assert await it.pings(it.raws[jid]), jid
        answers[jid] += 1
        await trio.sleep(0.05)  # traffic, not a flood: the new worker needs a core to start on


async def test_a_replacement_knows_what_is_being_drained(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--transfer-rate", "1000") as it:
        assert (await it.proxy.say("drain", "node1", "--wait")).code == 0
        os.kill((await it.workers())[1]["pid"], signal.SIGKILL)
        await it.proxy.event("worker-up", 3)
        await it.log_in(20)
        nodes = {row["name"]: row["sessions"] for row in await it.proxy.show("nodes")}
        assert nodes == {"node1": 0, "node2": 20}


async def test_a_replacement_serves_what_was_read_last(tmp_path: Path, certificate: DemoCertificate) -> None:
    """The files may hold anything by then."""
    async with world(tmp_path, certificate) as it:
        good = certificate.certificate.read_bytes()
        certificate.certificate.write_bytes(b"no certificate")
        reloaded = await it.proxy.say("reload")
        assert reloaded.code != 0
        for row in (await it.workers()).values():
            os.kill(row["pid"], signal.SIGKILL)
        await it.proxy.event("worker-up", 4)
        certificate.certificate.write_bytes(good)  # the clients go by it
        assert len(await it.log_in(10)) == 10
        assert len(await it.workers()) == 2


async def test_workers_end_when_the_supervisor_is_killed(tmp_path: Path, certificate: DemoCertificate) -> None:
    """They move their clients, as at a stop, and leave nobody behind."""
    async with world(tmp_path, certificate, "--transfer-rate", "1000") as it:
        raws = await it.log_in(10)
        pids = [row["pid"] for row in (await it.workers()).values()]
        it.proxy.process.send_signal(signal.SIGKILL)
        transfers = await it.proxy.event("transfer", len(raws))
        assert {each["trigger"] for each in transfers} == {"proxy-stop"}
        await until(lambda: not any(map(exists, pids)), "workers end")


def exists(pid: int) -> bool:
    """Whether it runs. One that only waits for being reaped does not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        ended, _, _ = select.select([descriptor], [], [], 0)
        return not ended
    finally:
        os.close(descriptor)


async def test_signals_of_a_service_manager_reach_workers_too(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        raws = await it.log_in(4)
        for row in (await it.workers()).values():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(row["pid"], number)
        for raw in raws:
            assert await it.pings(raw)
        it.proxy.process.send_signal(signal.SIGTERM)
        for raw in raws:
            await raw.close()
        assert await it.proxy.ended() == 0
        assert (await it.proxy.event("stopped"))[0]["cut"] is False
        assert it.proxy.silent_about("worker-died")


async def test_one_self_signed_certificate_for_all(tmp_path: Path) -> None:
    node = DemoNode("node1")
    async with (
        running(node) as nursery,
        command(nursery, tmp_path, nodes_file(tmp_path, [node]), "--workers", "2") as proxy,
    ):
        seen = set()
        for _ in range(12):
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            stream = trio.SSLStream(await trio.open_tcp_stream(*proxy.address), context)
            await stream.do_handshake()
            seen.add(stream.getpeercert(binary_form=True))
            await trio.aclose_forcefully(stream)
        assert len(seen) == 1


FEW_DESCRIPTORS = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
os.execv(sys.executable, [sys.executable, "-m", "cxfr_proxy", *sys.argv[1:]])
"""


async def test_room_runs_out_and_comes_back(
    tmp_path: Path, certificate: DemoCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few descriptors: it says how many fit, and once that they are there; others wait, and get their turn."""
    monkeypatch.setattr(e2e_proxy, "COMMAND", (sys.executable, "-c", FEW_DESCRIPTORS))
    async with world(tmp_path, certificate, "--workers", "1") as it:
        fitting = (await it.proxy.event("capacity"))[0]["sessions"]
        assert 3 <= fitting <= 16
        raws = await it.log_in(fitting)
        waiting = [await trio.open_tcp_stream(*it.proxy.address) for _ in range(3)]
        assert (await it.proxy.event("full"))[0]["connections"] == fitting
        for raw in raws:
            assert await it.pings(raw), "who is in is served"
        assert len(await it.proxy.show("sessions")) == fitting, "and so is the operator"
        assert len(await it.proxy.event("full")) == 1, "said once, however many wait"
        for stream in waiting:
            await stream.aclose()
        for raw in raws[:2]:
            await raw.close()
        await it.proxy.event("room-again")
        late = await it.log_in(1, "late")
        assert await it.pings(late[0])


COUNTING_GARBAGE = """
import gc, signal, sys
from cxfr_proxy import gc_policy

def count(*_):
    print("garbage", gc.collect(), file=sys.stderr, flush=True)

def settle():
    gc.collect()
    gc.freeze()
    gc.disable()

signal.signal(signal.SIGWINCH, count)
gc_policy.settle = settle
from cxfr_proxy.cli import main
sys.exit(main())
"""


async def test_a_session_that_is_over_leaves_nothing_for_the_collector(
    tmp_path: Path, certificate: DemoCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory has to be freed by reference counts: nobody looks for it later."""
    monkeypatch.setattr(e2e_proxy, "COMMAND", (sys.executable, "-c", COUNTING_GARBAGE))
    async with world(tmp_path, certificate, "--workers", "1") as it:
        for _ in range(2):
            raws = await it.log_in(25)
            for number, raw in enumerate(raws):
                if number % 2:
                    await raw.send("</stream:stream>")
                await raw.close()
        await it.proxy.event("session-end", 50)
        await trio.sleep(0.1)  # the last tasks end behind their last word
        it.proxy.process.send_signal(signal.SIGWINCH)
        await until(lambda: any("raw" in line for line in it.proxy.log))
        counted = [line for line in it.proxy.log if "raw" in line]
        it.proxy.log = [line for line in it.proxy.log if "raw" not in line]
        left = int(counted[0]["raw"].split()[1])
        assert left < 50, "less than an object a session"
