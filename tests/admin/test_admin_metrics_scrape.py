"""The figures of a supervisor whose workers say what the test lets them say: what is added up, and never goes back."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest
import trio
from fake_workers import FakeWorker, House, house
from needs import has_proc
from prometheus_client import parser
from trio.testing import MockClock

from cxfr_proxy.admin.http.status import ProxyStatus
from cxfr_proxy.admin.metrics.exposition import Exposition
from cxfr_proxy.admin.metrics.scrape import SHARE, SHARE_OF_NOBODY, FilesRead, MetricsScraper
from cxfr_proxy.cluster.nodes import Health
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.ipc.messages import Present, SessionsChanged, TransferEnded, WorkerCounts, WorkerReport
from cxfr_proxy.ipc.questions import ANSWER_SECONDS
from cxfr_proxy.net.tls_failures import TlsFailure
from cxfr_proxy.process_figures import ProcessCost
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.statistics import PastTransfer, Totals, TriedRung

Scrape = dict[tuple[str, ...], float]
"""By name and labels' values, these in the order of the labels' names."""


def _text(path: Path) -> str:
    return path.read_text()


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def scraper(it: House, *, share: float = SHARE) -> MetricsScraper:
    supervisor = it.supervisor
    management = supervisor._management
    return MetricsScraper(
        supervisor._cluster,
        supervisor.workers,
        supervisor._drainer,
        FilesRead(
            management._node_source.status,
            management.files.certificates,
            management._access.certificate,
            management.reloads,
        ),
        capacity=100,
        build={"version": "1", "framer": "a", "relay": "b"},
        share=share,
    )


async def scrape(subject: MetricsScraper) -> tuple[Scrape, set[tuple[str, ...]]]:
    """All samples, and which of them are counters."""
    text = (await subject.metrics("")).body.decode()
    samples: Scrape = {}
    counters = set()
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *(sample.labels[label] for label in sorted(sample.labels)))
            samples[key] = sample.value
            if family.type in ("counter", "histogram"):
                counters.add(key)
    return samples, counters


def transfer(node: str = "node1", outcome: Outcome = Outcome.MOVED) -> TransferEnded:
    return TransferEnded(
        PastTransfer(node, Trigger.DRAIN, "Gajim", (TriedRung(Rung.CXFR, outcome),), 0.2), 1, "kim@h/r"
    )


def live(worker: FakeWorker, **more: int) -> None:
    """One more of everything has happened there."""
    before = worker.counts
    totals = Totals(ended={"client-lost": 1}, refused={"host-unknown": 1}, late=1, waited=1, received=[1, 1])
    totals.count_login("tcp", 0.2, tls=True)
    totals.count_failed_handshake(TlsFailure.TIMEOUT)
    totals.include(before.totals)
    nodes = dict(before.nodes or {})
    node = nodes.get("node1", NodeCounts())
    nodes["node1"] = NodeCounts(
        5, node.asked + 1, node.moved + 1, node.refused + 1, node.silent + 1, node.failed + 1, node.connect_failures + 1
    )
    process = ProcessCost(before.process.cpu_seconds + 1, 4096, 30, 100)
    worker.counts = WorkerCounts(5, 6, nodes=nodes, totals=totals, process=process)
    worker.post(WorkerReport(worker.counts))
    worker.post(transfer())


async def test_counters_are_of_all_workers_and_never_go_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Workers work, die, hang and are replaced; every scrape has all counters of the last one, and none lower."""
    async with house(tmp_path) as it:
        subject = scraper(it)
        last: Scrape = {}

        async def look() -> Scrape:
            nonlocal last
            await trio.sleep(0.1)
            now, counters = await scrape(subject)
            lower = {key for key, value in last.items() if now.get(key, -1) < value}
            assert not lower
            last = {key: value for key, value in now.items() if key in counters}
            return now

        for turn in range(1, 9):
            for worker in it.workers.values():
                live(worker)
            seen = await look()
            for name in ("node_asked", "node_moved", "node_refused", "node_silent", "node_connect_failures"):
                assert seen[f"cxfr_{name}_total", "node1"] == 2 * turn
            assert seen["cxfr_transfers_total", "node1", "moved", "cxfr", "Gajim", "drain"] == 2 * turn
            assert seen["cxfr_transfer_duration_seconds_count", "cxfr"] == 2 * turn
            assert seen["cxfr_logins_total", "yes", "tcp"] == 2 * turn
            assert seen[("cxfr_login_duration_seconds_count",)] == 2 * turn
            assert seen["cxfr_tls_handshakes_failed_total", "timeout"] == 2 * turn
            assert seen["cxfr_received_bytes_total", "client"] == 2 * turn
            assert seen[("cxfr_late_stanzas_total",)] == 2 * turn
            assert seen[("cxfr_connections_waited_total",)] == 2 * turn
            assert seen["cxfr_sessions_ended_total", "client-lost"] == 2 * turn
            assert seen["cxfr_connections_refused_total", "host-unknown"] == 2 * turn
            match turn % 4:
                case 1:
                    it.workers[1].die()
                case 2:
                    it.supervisor.console.workers.restart()
                    await trio.sleep(1)
                case 3:
                    it.workers[2].hangs = True
                    await trio.sleep(40)
            await look()
            assert seen["cxfr_worker_cpu_seconds_total", "1"] >= turn
        final = await look()
        assert final["cxfr_sessions_ended_total", "worker-died"] == 4 * 5
        assert final["cxfr_worker_deaths_total", "1"] == 2
        assert final["cxfr_worker_deaths_total", "2"] == 2
        assert final["cxfr_worker_hangs_total", "2"] == 2
        assert final["cxfr_worker_replacements_total", "1"] == 2
        assert final["cxfr_worker_replacements_total", "2"] == 2
        assert final["cxfr_workers", "up"] == 2


async def test_clients_that_have_returned_and_those_that_have_their_session_still(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whichever worker sees them again."""
    kind = ("node1", "cxfr", "Gajim", "drain")
    async with house(tmp_path) as it:
        subject = scraper(it)
        for number, resumed in enumerate((True, False, True), 2):
            it.workers[1].post(transfer())
            it.workers[2].post(
                SessionsChanged((Present(number, "kim@h/r", "node2", "192.0.2.1", 1, 0.0, resumed=resumed),), ())
            )
            await trio.sleep(0.1)
        seen, _ = await scrape(subject)
        assert (seen["cxfr_transfers_returned_total", *kind], seen["cxfr_transfers_resumed_total", *kind]) == (3, 2)


async def test_states_and_one_worker_that_does_not_answer(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its last numbers are given, and nobody waits long for it."""
    async with house(tmp_path) as it:
        subject = scraper(it)
        it.workers[1].states = {"bound": 3, "negotiating": 1}
        it.workers[2].states = {"bound": 2}
        seen, _ = await scrape(subject)
        assert (seen["cxfr_sessions", "bound"], seen["cxfr_sessions", "negotiating"]) == (5, 1)
        await it.supervisor.console.nodes.rows()  # for which they are asked for their counts alone
        it.workers[1].hangs = True
        it.workers[2].states = {"bound": 1}
        await trio.sleep(1)  # since it was asked
        began = trio.current_time()
        seen, _ = await scrape(subject)
        assert (seen["cxfr_sessions", "bound"], seen["cxfr_sessions", "negotiating"]) == (4, 1)
        assert trio.current_time() - began == pytest.approx(ANSWER_SECONDS)


async def test_when_clients_should_come(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        it = House(tmp_path, nursery)
        it.greet = False
        supervisor = it.supervisor
        subject = ProxyStatus(supervisor._cluster, supervisor.workers, scraper(it), supervisor)
        nursery.start_soon(it.supervisor.run)
        assert subject.unready() == "no worker serves"
        await trio.sleep(1)
        assert subject.unready() == "no worker serves"
        it.all[0].greet()
        await trio.sleep(1)
        assert subject.unready() is None
        it.supervisor.console.drains.begin("node1")
        assert subject.unready() is None, "there is another"
        it.supervisor._cluster.get("node2").health = Health.DOWN
        assert subject.unready() == "no node is ready and up"
        it.supervisor._cluster.get("node2").health = Health.UP
        it.supervisor.stop()
        assert subject.unready() == "the proxy is stopping"
        nursery.cancel_scope.cancel()


async def test_drains(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        subject = scraper(it)
        it.workers[1].report(node1=NodeCounts(sessions=3))
        await trio.sleep(1)
        it.supervisor.console.drains.begin("node1", grace=10, rate=7)
        seen, _ = await scrape(subject)
        assert seen["cxfr_drain_stage", "node1", "grace"] == 1
        assert seen["cxfr_drain_waiting", "node1"] == 1
        assert seen["cxfr_drain_remaining_sessions", "node1"] == 3
        assert seen[("cxfr_transfers_per_second_max",)] == 7
        assert seen["cxfr_node_usable", "node1"] == 0
        await trio.sleep(11)
        seen, _ = await scrape(subject)
        assert (seen["cxfr_drain_stage", "node1", "grace"], seen["cxfr_drain_stage", "node1", "all"]) == (0, 1)
        assert seen["cxfr_drain_waiting", "node1"] == 0
        it.supervisor.console.drains.undrain("node1")
        seen, _ = await scrape(subject)
        assert not [key for key in seen if key[0].startswith("cxfr_drain")]


@pytest.mark.parametrize("share", [SHARE, SHARE_OF_NOBODY])
async def test_however_many_ask_it_takes_a_small_share_of_the_time(
    share: float, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(spent) * 0.01)  # 10 ms from look to look
    # A page of one part: 10 ms for what is known, for the part, and for finding that there is no more.
    monkeypatch.setattr(
        "cxfr_proxy.admin.metrics.scrape.in_parts", lambda snapshot, accept: ("text/plain", iter([b""]))
    )
    async with house(tmp_path) as it:
        subject = scraper(it, share=share)
        began = trio.current_time()
        for _ in range(11):
            await subject.metrics("")
        assert trio.current_time() - began == pytest.approx(10 * 0.03 / share, rel=0.3)


async def test_who_asks_waits_for_one_page_and_not_for_those_of_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as it:
        subject = scraper(it)
        first = await subject.metrics("")
        pages: list[Exposition] = []

        async def ask(accept: str) -> None:
            pages.append(await subject.metrics(accept))

        async with trio.open_nursery() as asking:
            for _ in range(50):
                asking.start_soon(ask, "")
                asking.start_soon(ask, "application/openmetrics-text")
        assert len(pages) == 100
        assert len({id(page) for page in pages}) == 2, "one of each format"
        assert first not in pages, "none from before somebody has asked"


async def test_figures_of_the_process(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        seen, _ = await scrape(scraper(it))
        assert abs(seen[("process_start_time_seconds",)] - time.time()) < 60
        memory = seen.get(("process_resident_memory_bytes",))
        assert memory is None if not has_proc else memory is not None and memory > 10 << 20
        assert 0 < seen[("process_cpu_seconds_total",)] <= time.process_time()
        assert seen[("cxfr_connections_max",)] == 100


async def test_files_that_are_no_good(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The result of reading each, and since when it is so."""
    async with house(tmp_path) as it:
        subject = scraper(it)
        path = tmp_path / "nodes.txt"
        good = _text(path)

        async def seen() -> tuple[float, float, float]:
            samples, _ = await scrape(subject)
            named = "cxfr_reload_successful"
            return samples[("cxfr_source_well",)], samples[(named, "nodes")], samples[(named, "certificates")]

        began, _ = await scrape(subject)
        assert abs(began["cxfr_reload_success_timestamp_seconds", "nodes"] - time.time()) < 600
        assert await seen() == (1, 1, 1)
        _write(path, "node1 nonsense:port\n")
        await trio.sleep(5)
        assert await seen() == (0, 0, 1)
        row = it.supervisor.console.peers.source_row()
        assert row.state == "faulty"
        assert row.lost_seconds == pytest.approx(3, abs=2)
        assert f"{path}:1:16" in (row.reason or "")
        _write(path, good)
        await trio.sleep(5)
        assert await seen() == (1, 1, 1)
        os.rename(path, tmp_path / "aside.txt")
        await trio.sleep(5)
        assert await seen() == (0, 1, 1)
        row = it.supervisor.console.peers.source_row()
        assert (row.state, row.reason) == ("lost", "No such file or directory")
        with pytest.raises(ConfigError):
            await it.supervisor.console.files.reload()
        assert await seen() == (0, 0, 1)
        _write(path, good)
        await trio.sleep(5)
        assert await seen() == (1, 1, 1)
