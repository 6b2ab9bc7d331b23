"""What a service manager is told, message by message."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
from fake_manager import FakeManager

from cxfr_proxy.events import TextFormatter
from cxfr_proxy.service_manager import ServiceManager

PID = 4711


@pytest.mark.parametrize("abstract", [False, True])
def test_the_life_of_a_service(abstract: bool, tmp_path: Path) -> None:
    address = f"@cxfr-proxy-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with FakeManager(address) as manager:
        told = ServiceManager(address, 30.0)
        with told.reloading():
            pass
        assert manager.heard() == [], "nothing is read again of which nobody was told that it was read"
        told.ready()
        told.status("2 of 2 nodes up")
        told.status("2 of 2 nodes up")
        told.alive()
        assert manager.heard() == ["READY=1", "STATUS=2 of 2 nodes up", "WATCHDOG=1"]
        before = time.monotonic_ns() // 1000
        with told.reloading():
            (begun,) = manager.heard()
        assert begun.startswith("RELOADING=1,MONOTONIC_USEC=")
        assert before <= int(begun.rpartition("=")[2]) <= time.monotonic_ns() // 1000
        assert manager.heard() == ["READY=1"]
        told.replaced_by(815)
        told.stopping(within=35.5)
        with told.reloading():
            pass
        assert manager.heard() == ["MAINPID=815", "STOPPING=1,EXTEND_TIMEOUT_USEC=35500000"]


def test_a_manager_that_takes_nothing_has_to_be_told_again(tmp_path: Path) -> None:
    """It would end the process that has taken over, with the one that it knows."""
    with FakeManager.in_directory(tmp_path) as manager:
        told = manager.seen_as()
        full = manager.fill()
        assert not told.replaced_by(815)
        assert len(manager.heard()) == full
        assert told.replaced_by(815)
        assert manager.heard() == ["MAINPID=815"]
    assert told.replaced_by(815), "one that is gone is told nothing, however often"


def test_a_status_is_one_line(tmp_path: Path) -> None:
    with FakeManager.in_directory(tmp_path) as manager:
        manager.seen_as().status("one\nREADY=1 \t two")
        assert manager.heard() == ["STATUS=one READY=1 two"]


@pytest.mark.parametrize(
    ("environ", "address", "seconds"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": "/run/n"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1500000"}, "/run/n", 1.5),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(PID)}, "@n", 2.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "0"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "-1"}, None, None),
        ({"WATCHDOG_USEC": "1.5"}, None, None),
    ],
)
def test_the_environment(environ: dict[str, str], address: str | None, seconds: float | None) -> None:
    given = environ | {"HOME": "/"}
    manager = ServiceManager.of_environment(given, PID)
    assert (manager.address, manager.watchdog_seconds) == (address, seconds)
    assert given == {"HOME": "/"}
    handed_on = ServiceManager.of_environment(manager.variables, PID + 1)
    assert (handed_on.address, handed_on.watchdog_seconds) == (address, seconds)


def test_without_a_manager_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    told = ServiceManager()
    told.ready()
    told.alive()
    with told.reloading():
        told.status("up")
    told.stopping(within=1)
    assert not caplog.records


@pytest.mark.parametrize("address", ["gone", "vsock:2:1234", "@" + "x" * 200])
def test_a_manager_that_cannot_be_told(address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and holds up nobody."""
    with caplog.at_level(logging.WARNING):
        told = ServiceManager(str(tmp_path / address) if address == "gone" else address)
        told.ready()
        told.status("up")
    (record,) = caplog.records
    assert ' service-manager-not-told message="READY=1" reason=' in TextFormatter().format(record)


def test_a_manager_that_does_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FakeManager.in_directory(tmp_path) as manager:
        told = manager.seen_as(1.0)
        for _ in range(10_000):  # net.unix.max_dgram_qlen is 512 at most, as a rule 10
            told.alive()
        (record,) = caplog.records
        assert "Resource temporarily unavailable" in TextFormatter().format(record)
        manager.heard()
        told.stopping(within=1)
        assert manager.heard() == ["STOPPING=1,EXTEND_TIMEOUT_USEC=1000000"]
