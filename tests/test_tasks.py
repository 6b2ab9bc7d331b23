"""A fault is kept in: that it ends one thing, is told in one line, and that what goes on is tried again."""

from __future__ import annotations

import ast
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

import cxfr_proxy
from cxfr_proxy.tasks import CALM_SECONDS, LAST_PAUSE_SECONDS, Task, isolated, keep_going, once, start, start_once

PACKAGE: Final = Path(cxfr_proxy.__file__).parent
OUTSIDE: Final = ("demo", "plugins")
"""Not parts of a proxy that runs."""
BARE: Final = {
    "tasks.py": 2,  # what all others use
    "worker/worker.py": 2,  # the worker's own two halves: without either it is no worker, and is replaced
    "supervisor/workers/link.py": 2,  # one worker's, inside Task.WORKER
    "ipc/channel.py": 1,  # of one channel: its worker ends with it
    "supervisor/workers/worker_slots.py": 1,  # at the start: the operator has to know of a worker that does not come up
    "supervisor/supervisor.py": 1,  # inside Task.USER_MAP
    "supervisor/workers/workers.py": 1,  # of one command
    "admin/control/server.py": 1,  # of one command
    "net/listen.py": 3,  # inside Task.ACCEPT, or inside the task that serves the streams
    "cluster/sources/etcd.py": 1,  # inside Task.ETCD
    "cli/connecting.py": 1,  # of one command
    "doctor/examining/together.py": 1,  # of one command
    "cli/rolling.py": 1,  # of one command
}
"""Files that call ``start_soon`` themselves, how often, and why they may."""


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    fields = [getattr(record, "cxfr_proxy_fields", {}) for record in caplog.records if record.msg == "fault"]
    return [str(each["task"]) for each in fields]


def _bare_starts(path: Path) -> int:
    calls = (node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
    return sum(isinstance(each, ast.Attribute) and each.attr == "start_soon" for each in calls)


def _sources() -> Iterator[tuple[str, Path]]:
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE)
        if name.parts[0] not in OUTSIDE:
            yield name.as_posix(), path


def test_no_task_is_begun_that_could_take_others_along() -> None:
    assert {name: count for name, path in _sources() if (count := _bare_starts(path))} == BARE


async def test_a_task_that_fails_begins_again_later_each_time(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    times: list[float] = []

    async def serve() -> None:
        times.append(trio.current_time())
        if len(times) == 12:
            await trio.sleep(CALM_SECONDS)
        if len(times) < 14:
            raise ValueError("a defect")

    with trio.fail_after(1000):
        await keep_going(Task.CHECK, serve, node="n1")
    pauses = [round(after - before, 1) for before, after in itertools.pairwise(times)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, *[LAST_PAUSE_SECONDS] * 4, CALM_SECONDS + 0.1, 0.2]
    assert faults(caplog) == ["check"] * 13
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].levelno == logging.ERROR


async def test_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def fail() -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(once, Task.CHECK, trio.lowlevel.checkpoint)
            raise ValueError("a defect")

    async def work() -> None:
        await trio.testing.wait_all_tasks_blocked()
        done.append("work")

    async with trio.open_nursery() as nursery:
        start_once(nursery, Task.CHECK, fail)
        start(nursery, Task.CHECK, work)
    assert done == ["work"]
    assert faults(caplog) == ["check"]
    exc_info = caplog.records[0].exc_info
    assert exc_info is not None
    assert exc_info[0] is ValueError, "a group of one is told as that one"


async def test_cancellation_passes(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        start(nursery, Task.CHECK, trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_cancellation_passes_beside_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    """A nursery raises both in one group."""

    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("a defect")

    async def both() -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(fail_when_cancelled)
            await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.cancel()
        await keep_going(Task.CHECK, both)
    assert scope.cancelled_caught
    assert faults(caplog) == ["check"]


def test_what_has_a_meaning_outside_passes(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError), isolated(Task.MESSAGE, (LookupError,)):
        raise KeyError
    with pytest.raises(KeyboardInterrupt), isolated(Task.MESSAGE):
        raise KeyboardInterrupt
    assert not caplog.records
    with isolated(Task.MESSAGE) as turn:
        pass
    assert turn.fault is None
