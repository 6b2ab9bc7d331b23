"""The facts that the bench reads from the machine, and how it divides cores, descriptors and ports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from needs import needs_proc

from bench import fleet, machine
from bench.machine import Cores, Memory


@pytest.mark.parametrize(
    ("usable", "workers", "cores"),
    [
        ({3}, 1, Cores((3,), 3, 3)),
        ({0, 1}, 1, Cores((0,), 1, 1)),
        ({0, 1}, 3, Cores((0, 1), 1, 1)),
        ({0, 1, 2}, 1, Cores((0,), 1, 2)),
        ({0, 1, 2}, 2, Cores((0, 1, 2), 1, 2)),
        ({4, 5, 6, 7}, 1, Cores((4,), 5, 6)),
        ({4, 5, 6, 7}, 2, Cores((4, 5), 6, 7)),
        ({4, 5, 6, 7}, 8, Cores((4, 5, 6, 7), 6, 7)),
    ],
)
def test_cores(usable: set[int], workers: int, cores: Cores) -> None:
    assert machine.cores(workers, usable) == cores


def test_cores_in_words() -> None:
    assert str(Cores((0, 1), 2, 3)) == "relay on core 0 and 1; load on core 2; node on core 3"
    assert str(Cores((0,), 1, 1)) == "relay on core 0; load and node together on core 1"
    assert str(Cores((0,), 0, 0)).startswith("everything on core 0")


def test_the_cpu_clock_of_a_process_is_its_own() -> None:
    before = time.process_time_ns()
    read = machine.cpu_ns(os.getpid())
    assert before <= read <= time.process_time_ns()


def test_a_process_that_is_gone_has_used_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert machine.cpu_ns(child.pid) == 0


@needs_proc
def test_a_family_is_a_process_with_all_it_started() -> None:
    program = "import subprocess, sys; p = subprocess.Popen(['cat'], stdin=0); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert machine.family(parent.pid) == [parent.pid, child]
        assert child in machine.family(os.getpid())
        parent.stdin.close()


@needs_proc
def test_memory_is_summed_over_processes() -> None:
    once, twice = machine.memory([os.getpid()]), machine.memory([os.getpid()] * 2)
    assert 0 < once.pss <= once.rss
    assert twice.rss == pytest.approx(2 * once.rss, rel=0.05)


def test_memory_per_session() -> None:
    assert (Memory(110.0, 220.0) - Memory(10.0, 20.0)) / 10 == Memory(10.0, 20.0)


@needs_proc
def test_local_ports_have_both_ends() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split())
    ports = machine.local_ports()
    assert (ports[0], ports[-1]) == (low, high)


# --- as many sessions as there can be


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "descriptor_limit", lambda: 20_000)
    monkeypatch.setattr(machine, "local_ports", lambda: range(32_768, 61_000))


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(("workers", "sessions"), [(1, 9_405), (2, 18_810), (3, 27_732), (8, 27_732)])
def test_descriptors_limit_sessions_and_then_ports_do(workers: int, sessions: int) -> None:
    assert fleet.most_sessions(workers) == sessions


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(("sessions", "processes"), [(1, 1), (18_715, 1), (18_716, 2), (37_431, 3)])
def test_processes_of_a_node(sessions: int, processes: int) -> None:
    assert fleet.processes_for(sessions) == processes


@pytest.mark.parametrize(
    ("whole", "count", "parts"), [(10, 3, [4, 3, 3]), (9, 3, [3, 3, 3]), (1, 1, [1]), (1, 2, [1, 1])]
)
def test_shares(whole: int, count: int, parts: list[int]) -> None:
    assert fleet.shares(whole, count) == parts


def test_what_crowds_count_is_added() -> None:
    one = fleet.Counted(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, [1.0], [4.0], [2.0], [3.0])
    two = one + one
    assert (two.sessions, two.clients, two.missing, two.failed) == (2, 4, 22, 20)
    assert (two.asked, two.gaps, two.latencies) == ([1.0, 1.0], [2.0, 2.0], [3.0, 3.0])


def test_cpu_as_a_share_of_the_time_between() -> None:
    assert fleet.Used(14.0, 3.0, 5.0).since(fleet.Used(10.0, 1.0, 4.0)) == fleet.Used(4.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("proxy", "load", "cores", "word"),
    [(1.0, 0.9, 2, "machine"), (1.0, 0.5, 2, "nobody"), (0.3, 0.95, 2, "load"), (0.95, 0.2, 1, "machine")],
)
def test_what_stood_in_the_way_of_a_drain(proxy: float, load: float, cores: int, word: str) -> None:
    assert fleet.bottleneck(fleet.Used(10.0, proxy, load), cores) == word
