"""One of the two processes fails in the midst of an upgrade: at each step exactly one proxy is left, and serves."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from fake_manager import FakeManager
from fake_workers import House
from waiting import until

from cxfr_proxy.admin.control.client import Result, call
from cxfr_proxy.admin.sentences import in_words
from cxfr_proxy.cluster.kept_state import read_state
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.shared import Directive
from cxfr_proxy.file_lock import FileLock
from cxfr_proxy.ipc.messages import Leave
from cxfr_proxy.service_manager import ServiceManager
from cxfr_proxy.supervisor.orders.state_keeper import StateFile
from cxfr_proxy.supervisor.upgrading import successor
from cxfr_proxy.supervisor.upgrading.successor import Program, UpgradeRun

PLAYS = """
import json, os, signal, socket, sys, time
end = socket.socket(fileno=int(os.environ["CXFR_PROXY_HANDOVER"]))
heard = b""

def say(kind, **fields):
    end.sendall(json.dumps({"type": kind, **fields}).encode() + b"\\n")

def hear(kind):
    global heard
    while b'"type":"' + kind.encode() not in heard:
        heard += end.recv(1 << 20)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

"""
"""A process that plays the new proxy: what it says and hears, line by line."""


@asynccontextmanager
async def old_proxy(tmp_path: Path, plays: str, manager: ServiceManager | None = None) -> AsyncIterator[House]:
    """A proxy that serves; its upgrade starts that program."""
    async with trio.open_nursery() as nursery:
        it = House(tmp_path, nursery, manager=manager, program=Program([sys.executable, "-c", PLAYS + plays], [], {}))
        it.leave = False
        await nursery.start(it.supervisor.run)
        yield it
        nursery.cancel_scope.cancel()


def begin(it: House) -> UpgradeRun:
    it.supervisor.upgrades.begin()
    assert it.supervisor.upgrades.last is not None
    return it.supervisor.upgrades.last


async def ask(it: House, command: str, **arguments: object) -> Any:  # decoded JSON
    async with aclosing(call(it.config.control, command, arguments)) as answers:
        [answer] = [each.value async for each in answers if isinstance(each, Result)]
    return answer


@dataclass(frozen=True)
class Fault:
    """``impatient`` names the time for which the old one does not wait: a new one that hangs does so for ever."""

    plays: str
    says: str
    impatient: str | None = None


FAULTS = {
    "ends at once": Fault("sys.exit(3)", "has ended with exit code 3; the log may say why"),
    "is killed while it starts": Fault("die()", "has ended with exit code -9; the log may say why"),
    "hangs while it starts": Fault("time.sleep(600)", "was not ready within 0 s", "READY_SECONDS"),
    "says what is no message": Fault(
        "end.sendall(b'dance\\n'); time.sleep(600)", "does not speak as a proxy that takes over", "_END_SECONDS"
    ),
    "closes the channel": Fault(
        "end.close(); time.sleep(600)", "does not speak as a proxy that takes over", "_END_SECONDS"
    ),
    "says why it fails": Fault("say('SuccessorFailed', reason='the list is empty'); sys.exit(2)", "the list is empty"),
    "is stopped while it starts": Fault("say('SuccessorStops'); time.sleep(600)", "it was told to stop"),
    "is killed when it is ready": Fault("say('SuccessorReady', version='1'); die()", "has ended with exit code -9"),
    "is stopped when it is ready": Fault(
        "say('SuccessorReady', version='1'); say('SuccessorStops'); time.sleep(600)", "it was told to stop"
    ),
    "is stopped as it takes over": Fault(
        "say('SuccessorReady', version='1'); hear('HandedOver'); stops = json.dumps({'type': 'SuccessorStops'}); "
        "end.sendall(f'{stops}\\n{json.dumps(dict(type=\"SuccessorServes\"))}\\n'.encode()); time.sleep(600)",
        "it was told to stop",
    ),
    "is killed as it takes over": Fault(
        "say('SuccessorReady', version='1'); hear('HandedOver'); die()", "has ended with exit code -9"
    ),
    "hangs as it takes over": Fault(
        "say('SuccessorReady', version='1'); hear('HandedOver'); time.sleep(600)",
        "was not ready within 0 s",
        "TAKING_SECONDS",
    ),
    "fails as it takes over": Fault(
        "say('SuccessorReady', version='1'); hear('HandedOver'); say('SuccessorFailed', reason='no'); sys.exit(2)", "no"
    ),
}
"""What becomes of the new one, until it has taken over."""


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_old_one_goes_on(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, takes orders and keeps them; its workers were told nothing, and the new process is gone."""
    case = FAULTS[fault]
    for name in ("READY_SECONDS", "TAKING_SECONDS", "_END_SECONDS"):
        monkeypatch.setattr(successor, name, 0.1 if name == case.impatient else 60.0)
    async with old_proxy(tmp_path, case.plays) as it:
        upgrade = begin(it)
        await until(lambda: upgrade.finished)
        seen = upgrade.progress()
        assert seen.failure is not None
        assert seen.failure.endswith(case.says) or case.says in seen.failure
        assert in_words(seen).startswith("the proxy goes on as it was: ")
        assert seen.pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(seen.pid, 0)
        assert (await ask(it, "show", what="info"))["state"] == "serving"
        await ask(it, "drain", node="node1")
        assert "node1" in read_state((tmp_path / "c.sock.state").read_bytes()).orders
        assert not [worker for worker in it.all if not worker.alive or worker.of(Leave)]
        upgrade = begin(it)  # and it can be tried again
        await until(lambda: upgrade.finished)


TAKES_OVER = "say('SuccessorReady', version='1'); hear('HandedOver'); say('SuccessorServes'); hear('PredecessorLeaves')"


async def test_one_that_dies_when_it_has_taken_over_is_no_success(tmp_path: Path) -> None:
    async with old_proxy(tmp_path, TAKES_OVER) as it:
        upgrade = begin(it)
        await until(lambda: upgrade.progress().finished)
        seen = upgrade.progress()
        assert (seen.step, seen.left) == ("move", 1)
        assert in_words(seen).startswith(f"process {seen.pid} has failed: it took over, and has ended since")
        assert all(worker.of(Leave) and worker.alive for worker in it.all)
        FileLock.take(str(tmp_path / "c.sock.state.lock")).close()  # a third one need not wait for this one's end


async def test_a_disk_that_hangs_when_the_new_one_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would accept for as long as that."""
    monkeypatch.setattr(successor, "TAKING_SECONDS", 0.1)
    goes_on, write = threading.Event(), StateFile.write

    def slow(file: StateFile, content: bytes) -> None:
        goes_on.wait()
        write(file, content)

    async with old_proxy(tmp_path, "say('SuccessorReady', version='1'); signal.pause()") as it:
        monkeypatch.setattr(StateFile, "write", slow)
        it.supervisor._kept.keep_order("node1", Directive(AdminState.DRAIN))
        upgrade = begin(it)
        try:
            with trio.move_on_after(10):
                await until(lambda: upgrade.finished)
            assert "the disk has not taken what is kept" in str(upgrade.progress().failure)
        finally:
            goes_on.set()


async def test_a_stop_while_the_new_one_starts(tmp_path: Path) -> None:
    """It would accept everybody until the last client of the old one has gone, and be killed then."""
    async with old_proxy(tmp_path, "signal.pause()") as it:
        upgrade = begin(it)
        await until(lambda: upgrade.progress().pid is not None)
        for worker in it.all:
            worker.hangs = True
        it.supervisor.stop()
        with trio.move_on_after(2):
            await until(lambda: upgrade.finished)
        assert upgrade.progress().failure == "the proxy is stopping"
        assert all(worker.alive for worker in it.all)


async def test_an_order_waits_until_it_is_clear_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that gets it may not be the proxy any more: it would be lost. What is shown is shown meanwhile."""
    monkeypatch.setattr(successor, "_END_SECONDS", 60.0)
    takes_over = "say('SuccessorReady', version='1'); hear('HandedOver'); signal.pause()"
    async with old_proxy(tmp_path, takes_over) as it:
        upgrade = begin(it)
        await until(lambda: upgrade._offered)
        async with trio.open_nursery() as ordering:
            ordering.start_soon(drain, it)
            await ask(it, "show", what="info")
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert "node1" not in it.supervisor._drainer.drains
            pid = upgrade.progress().pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        assert "node1" in it.supervisor._drainer.drains


async def drain(it: House) -> None:
    await ask(it, "drain", node="node1")


async def test_a_stop_as_the_new_one_takes_over(tmp_path: Path) -> None:
    """The proxy stops; a new one that has begun to take over does not outlive it."""
    takes_over = "say('SuccessorReady', version='1'); hear('HandedOver'); signal.pause()"
    async with old_proxy(tmp_path, takes_over) as it:
        upgrade = begin(it)
        await until(lambda: upgrade._offered)
        pid = upgrade.progress().pid
        it.supervisor.stop()
        await until(lambda: not any(worker.alive for worker in it.all))
        assert pid is not None
        await until(lambda: is_gone(pid))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_the_manager_is_told_before_the_new_one_speaks_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It believes its main process alone. While it takes nothing, the new one waits."""
    monkeypatch.setattr(successor, "_MANAGER_SECONDS", 600.0)
    told = tmp_path / "told"
    plays = f"{TAKES_OVER}; open({str(told)!r}, 'w').close(); signal.pause()"
    with FakeManager.in_directory(tmp_path) as manager:
        async with old_proxy(tmp_path, plays, manager.seen_as()) as it:
            await manager.hears("READY=1")
            manager.fill()
            upgrade = begin(it)
            await until(lambda: upgrade.handed_over)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not told.exists()
            heard = manager.heard()
            await until(told.exists)
            pid = upgrade.progress().pid
            assert pid is not None
            heard += manager.heard()
            assert heard[-1] == f"MAINPID={pid}"
            os.kill(pid, signal.SIGKILL)
            await until(lambda: upgrade.progress().finished)
