"""The real command, scraped while clients log in and are moved and while a worker is killed: what it tells by HTTP is
what it tells its operator."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import urllib.request
from collections import Counter
from itertools import pairwise
from pathlib import Path
from urllib.error import HTTPError

import pytest
import trio
from e2e_proxy import COMMAND, Row, all_served, connect, log_in, until
from e2e_workers import World, world
from prometheus_client import parser

from cxfr_proxy.admin.metrics.table import METRICS
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.habits import ClientKind

ON = ("--http", "127.0.0.1:0", "--transfer-rate", "1000")
SLIXMPP = (
    "<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='http://slixmpp.com/ver/1.8' ver='v'/>"
    "</presence>"
)

Samples = dict[tuple[str, ...], float]
"""By name and labels' values, these in the order of the labels' names."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


async def get(it: World, path: str) -> tuple[int, str]:
    """By another program's client."""
    told = (await it.proxy.event("http-listening"))[0]
    url = f"http://{told['address']}:{told['port']}{path}"

    def request() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return response.status, response.read().decode()
        except HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    return await trio.to_thread.run_sync(request)


async def scrape(it: World) -> tuple[Samples, Samples]:
    """All samples, and those that may never go back."""
    status, text = await get(it, "/metrics")
    assert status == 200
    everything: Samples = {}
    growing: Samples = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *(sample.labels[label] for label in sorted(sample.labels)))
            everything[key] = sample.value
            if family.type in ("counter", "histogram"):
                growing[key] = sample.value
    return everything, growing


async def stream_of_noise(stream: trio.SocketStream) -> None:
    """Say something that begins as TLS does, and is none."""
    async with stream:
        await stream.send_all(b"\x16" * 500)
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass


def transfers(seen: Samples) -> Counter[tuple[str, ...]]:
    """By node, outcome, rung, software and trigger."""
    return Counter({key[1:]: int(value) for key, value in seen.items() if key[0] == "cxfr_transfers_total"})


def logins(seen: Samples) -> float:
    """However they came."""
    return sum(value for key, value in seen.items() if key[0] == "cxfr_logins_total")


def shown(rows: list[Row]) -> Counter[tuple[str, ...]]:
    """The same of ``show transfers --json``."""
    over = [row for row in rows if row["outcome"] is not None]
    return Counter((row["source"], row["outcome"], row["rung"], row["software"], row["trigger"]) for row in over)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_metrics_are_what_the_operator_is_shown(
    tmp_path: Path, certificate: DemoCertificate, workers: str
) -> None:
    """By software, rung and outcome; and no client is named anywhere."""
    async with world(tmp_path, certificate, *ON, "--workers", workers) as it:
        clients = await log_in(
            it.nursery, it.proxy.address, [ClientKind.CXFR, ClientKind.PLAIN, ClientKind.MUTE] * 2, it.certificate
        )
        for number, resource in enumerate(["gajim.A", "gajim.B", "r", "r"]):
            raw = await connect(it.proxy.address, certificate.client_context())
            await raw.log_in(f"raw{number}", resource=resource)
            if number == 3:
                await raw.send(SLIXMPP)
        for node, other in zip(it.nodes, reversed(it.nodes), strict=True):
            done = await it.proxy.say("drain", node.name, "--wait")
            assert done.code == 0, done.output
            await until(lambda other=other: all_served(clients, other))  # type: ignore[misc]
            await it.proxy.say("undrain", node.name)
        stranger = await trio.open_tcp_stream(*it.proxy.address)
        await stream_of_noise(stranger)
        with trio.fail_after(60):
            while not (await scrape(it))[0]["cxfr_tls_handshakes_failed_total", "not-tls"]:
                await trio.lowlevel.checkpoint()
        rows = await it.proxy.show("transfers")
        seen, _ = await scrape(it)
        assert seen["cxfr_tls_handshakes_failed_total", "not-tls"] == 1
        assert sum(value for key, value in seen.items() if key[0] == "cxfr_tls_handshakes_failed_total") == 1
        assert seen["cxfr_login_duration_seconds_count",] == logins(seen)
        assert seen["cxfr_login_duration_seconds_sum",] > 0
        assert min(seen["cxfr_received_bytes_total", side] for side in ("client", "node")) > 100 * logins(seen)
        assert transfers(seen) == shown(rows)
        by_software = Counter(row["software"] for row in rows)
        assert by_software.keys() == {"Gajim", "slixmpp", "other", "unknown"}, "the demo's clients are nobody's"
        assert {key[2] for key in seen if key[0] == "cxfr_transfer_attempts_total"} >= {"cxfr", "reset"}
        assert seen["cxfr_transfer_attempts_total", "refused", "cxfr", "other"] >= 1
        assert sum(value for key, value in seen.items() if key[0] == "cxfr_transfer_duration_seconds_count") == len(
            rows
        )
        sessions = await it.proxy.show("sessions")
        assert seen["cxfr_sessions", "bound"] == len(sessions)
        for row in await it.proxy.show("nodes"):
            name = row["name"]
            told = {metric: seen[f"cxfr_node_{metric}", name] for metric in ("sessions", "moved_total", "asked_total")}
            assert told == {
                "sessions": row["sessions"],
                "moved_total": row["moved"],
                "asked_total": row["asked"],
            }
            assert seen["cxfr_node_health", row["health"], name] == 1
            assert seen["cxfr_node_admin_state", name, row["admin_state"]] == 1
        text = (await get(it, "/metrics"))[1]
        assert not re.search(r"@|localhost|\d+\.\d+\.\d+\.\d+|user\d|raw\d", text)
        names = {family.name for family in parser.text_string_to_metric_families(text)}
        assert names == {metric.name.removesuffix("_total") for metric in METRICS}


async def test_counters_never_go_back(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Scraped all the time, while a worker is killed and, later, all are replaced."""
    async with world(tmp_path, certificate, *ON) as it:
        scrapes: list[Samples] = []

        def log_agrees() -> bool:
            """All that is counted is in the log, and the other way round."""
            if not scrapes:
                return False
            counted = (logins(scrapes[-1]), sum(transfers(scrapes[-1]).values()))
            return counted == (len(it.proxy.so_far("bound")), len(it.proxy.so_far("transfer")))

        async def watch() -> None:
            while True:
                scrapes.append((await scrape(it))[1])

        async with trio.open_nursery() as watching:
            watching.start_soon(watch)
            clients = await log_in(
                it.nursery, it.proxy.address, [ClientKind.CXFR, ClientKind.PLAIN] * 6, it.certificate
            )
            assert (await it.proxy.say("drain", "node1", "--wait")).code == 0
            await until(lambda: all_served(clients, it.nodes[1]))
            moved = shown(await it.proxy.show("transfers"))
            assert moved
            await it.proxy.event("bound", len(clients) + sum(moved.values()))
            await until(log_agrees)  # what a worker has not told when it is killed is lost
            pids = [row["pid"] for row in (await it.workers()).values()]
            os.kill(pids[0], signal.SIGKILL)
            await it.proxy.event("worker-up", 3)
            await until(lambda: all_served(clients, it.nodes[1]), "who was lost is back")
            assert (await it.proxy.say("restart-workers", "--wait")).code == 0
            await until(lambda: all_served(clients, it.nodes[1]))
            before = len(scrapes)
            await until(lambda: len(scrapes) > before + 1)
            await until(log_agrees)
            watching.cancel_scope.cancel()
        assert len(scrapes) > 5
        for earlier, later in pairwise(scrapes):
            assert {key for key, value in earlier.items() if later.get(key, -1) < value} == set()
        last = scrapes[-1]
        assert {key: count for key, count in transfers(last).items() if key in moved} == moved
        assert sum(value for key, value in last.items() if key[0] == "cxfr_worker_deaths_total") == 1
        assert sum(value for key, value in last.items() if key[0] == "cxfr_worker_replacements_total") == 2
        (died,) = await it.proxy.event("worker-died")
        assert last["cxfr_sessions_ended_total", "worker-died"] == died["sessions"]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_whether_it_lives_and_is_ready(tmp_path: Path, certificate: DemoCertificate, workers: str) -> None:
    async with world(tmp_path, certificate, *ON, "--workers", workers) as it:
        assert await get(it, "/livez") == (200, "OK\n")
        assert await get(it, "/readyz") == (200, "OK\n")
        assert (await get(it, "/"))[0] == 200
        assert (await get(it, "/nowhere"))[0] == 404
        for node in it.nodes:
            await it.proxy.say("drain", node.name, "--force")
        assert await get(it, "/readyz") == (503, "no node is ready and up\n")
        await it.proxy.say("undrain", "node1")
        assert await get(it, "/readyz") == (200, "OK\n")
        await it.log_in(1)  # who does not answer, and so keeps it from ending for a while
        it.proxy.process.send_signal(signal.SIGTERM)
        await it.proxy.event("stopping")
        assert await get(it, "/readyz") == (503, "the proxy is stopping\n")
        assert await get(it, "/livez") == (200, "OK\n")


async def test_an_address_that_is_taken(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, *ON) as it:
        taken = (await it.proxy.event("http-listening"))[0]["port"]
        serve = ("--backends", str(it.proxy.nodes), "--listen", "127.0.0.1:0", "--http", f"127.0.0.1:{taken}")
        done = await trio.run_process(
            [*COMMAND, *serve, "--control", str(tmp_path / "other.sock")], capture_stderr=True, check=False
        )
        assert done.returncode == 2
        assert f"cannot listen on 127.0.0.1:{taken}: ".encode() in done.stderr


async def test_without_it_there_is_none(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--workers", "1") as it:
        assert it.proxy.silent_about("http-listening")
