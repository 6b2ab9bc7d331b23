"""What the supervisor tells the service manager, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from fake_manager import FakeManager
from fake_workers import House, house
from trio.testing import MockClock

from cxfr_proxy.admin.console.reloads import ReloadRefused
from cxfr_proxy.transfers.counts import NodeCounts

UP = "STATUS=2 of 2 nodes up, "


async def heard_for(seconds: int, manager: FakeManager) -> list[str]:
    """Return what it hears in that time. Its queue has room for ten messages, so it is read each second."""
    messages = []
    for _ in range(seconds):
        await trio.sleep(1)
        messages += manager.heard()
    return messages


async def test_ready_status_and_stop(tmp_path: Path, autojump_clock: MockClock) -> None:
    with FakeManager.in_directory(tmp_path) as manager:
        async with house(tmp_path, manager=manager.seen_as()) as it:
            assert [each for each in manager.heard() if not each.startswith("STATUS")] == ["READY=1"]
            it.workers[1].report(node1=NodeCounts(sessions=3))
            it.workers[2].report(node2=NodeCounts(sessions=4))
            await trio.sleep(10)
            assert manager.heard() == [f"{UP}7 sessions"]
            await trio.sleep(10)
            assert manager.heard() == []
            it.supervisor.stop()
            it.supervisor.stop()
            assert manager.heard() == ["STOPPING=1,EXTEND_TIMEOUT_USEC=8000000"], "3 s and the patience of 5 s"


async def test_it_is_ready_once_all_workers_serve(tmp_path: Path, autojump_clock: MockClock) -> None:
    with FakeManager.in_directory(tmp_path) as manager:
        async with trio.open_nursery() as nursery:
            it = House(tmp_path, nursery, manager=manager.seen_as(3.0))
            it.greet = False
            nursery.start_soon(it.supervisor.run)
            await trio.sleep(2)
            assert set(manager.heard()) == {f"{UP}0 sessions"}, "no sign of life either, and it is not ready"
            it.all[0].greet()
            await trio.sleep(2)
            assert "READY=1" not in manager.heard()
            it.all[1].greet()
            await trio.sleep(2)
            assert {"READY=1", "WATCHDOG=1"} <= set(manager.heard())
            nursery.cancel_scope.cancel()


async def test_the_watchdog(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is fed three times in its time, while a worker serves; one that hangs is the supervisor's to replace."""
    with FakeManager.in_directory(tmp_path) as manager:
        async with house(tmp_path, manager=manager.seen_as(3.0)) as it:
            manager.heard()
            assert 29 <= (await heard_for(30, manager)).count("WATCHDOG=1") <= 32
            it.workers[1].hangs = True
            assert 58 <= (await heard_for(60, manager)).count("WATCHDOG=1") <= 62
            it.refuse = OSError("no more processes")
            for worker in it.workers.values():
                worker.die()
            await heard_for(5, manager)
            assert await heard_for(60, manager) == []
            it.refuse = None
            assert "WATCHDOG=1" in await heard_for(30, manager)


async def test_reloads(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Those that fail are over too; nothing in the protocol says that one has failed."""
    settings = tmp_path / "settings.toml"
    settings.write_text("")
    with FakeManager.in_directory(tmp_path) as manager:
        async with house(tmp_path, settings=settings, manager=manager.seen_as()) as it:
            manager.heard()
            for text in ("transfer-rate = 5", "transfer-rate = 'x'"):
                settings.write_text(text)
                try:
                    await it.supervisor.console.files.reload()
                except ReloadRefused:
                    assert "x" in text
                begun, ended = (each for each in manager.heard() if not each.startswith("STATUS"))
                assert begun.startswith("RELOADING=1,MONOTONIC_USEC=")
                assert ended == "READY=1"


@pytest.mark.parametrize("watchdog", [None, 600.0])
async def test_the_status_is_told_as_often_with_a_slow_watchdog(
    tmp_path: Path, autojump_clock: MockClock, watchdog: float | None
) -> None:
    with FakeManager.in_directory(tmp_path) as manager:
        async with house(tmp_path, manager=manager.seen_as(watchdog)) as it:
            it.workers[1].report(node1=NodeCounts(sessions=3))
            await trio.sleep(5.1)
            assert f"{UP}3 sessions" in manager.heard()
