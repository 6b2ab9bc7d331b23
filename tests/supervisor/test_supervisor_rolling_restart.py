"""Workers replaced one by one, and what can go wrong in the middle of it; the workers are fakes, time is trio's mock
clock."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from fake_workers import FakeWorker, House, house
from trio.testing import MockClock

from cxfr_proxy.admin.rows.order_rows import RestartProgress
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.ipc.messages import Grant, Leave, Stop, Want, WorkerCounts, WorkerReport
from cxfr_proxy.proxy import Proxy
from cxfr_proxy.transfers.counts import NodeCounts


@asynccontextmanager
async def settled(tmp_path: Path) -> AsyncIterator[House]:
    """A house whose workers have lived for a while."""
    async with house(tmp_path) as it:
        await trio.sleep(60)
        yield it


async def last(it: House) -> RestartProgress:
    """How it ended."""
    with trio.fail_after(300):
        rows = [row async for row in it.supervisor.console.workers.follow()]
    return rows[-1]


async def states(it: House) -> list[tuple[int, int | None, str]]:
    return [(row.number, row.pid, row.state) for row in await it.supervisor.console.workers.rows()]


async def test_one_by_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with settled(tmp_path) as it:
        it.greet = it.leave = False
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        assert len(it.all) == 3
        old, other, new = it.all
        assert not old.of(Leave), "not before the new one serves"
        assert await states(it) == [(1, old.pid, "up"), (1, new.pid, "starting"), (2, other.pid, "up")]
        new.greet()
        await trio.sleep(1)
        assert old.of(Leave)
        assert await states(it) == [(1, old.pid, "leaving"), (1, new.pid, "up"), (2, other.pid, "up")]
        assert new.listening == old.listening, "the very same sockets"
        assert new.listening != other.listening
        assert len(it.all) == 3, "the next one not before the last has gone"
        old.end()
        await trio.sleep(1)
        assert await states(it) == [(1, new.pid, "up"), (2, other.pid, "up"), (2, it.all[3].pid, "starting")]
        it.all[3].greet()
        await trio.sleep(1)
        other.end(cut=True)
        assert await last(it) == RestartProgress(2, 2, 0, 0, 1, finished=True, failure=None)
        assert await states(it) == [(1, new.pid, "up"), (2, it.all[3].pid, "up")]
        assert [row.deaths for row in await it.supervisor.console.workers.rows()] == [0, 0]


async def test_totals_stay_and_ids_are_new(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with settled(tmp_path) as it:
        it.leave = False
        old = it.workers[1]
        old.report(node1=NodeCounts(sessions=3, asked=5, moved=4))
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        new = it.workers[1]
        new.report(node1=NodeCounts(sessions=1, asked=1, moved=1))
        # What it still accepted until the new one was up.
        old.counts = WorkerCounts(3, last_id=4711, nodes={"node1": NodeCounts(sessions=3, asked=7, moved=6)})
        old.post(WorkerReport(old.counts))
        await trio.sleep(1)
        assert it.supervisor.workers.of_node("node1") == NodeCounts(sessions=4, asked=8, moved=7)
        async with aclosing(it.supervisor.console.workers.follow()) as rows:
            progress = await anext(rows)
        assert (progress.sessions, progress.left, progress.finished) == (3, 2, False)
        old.end()
        await trio.sleep(1)
        assert it.supervisor.workers.of_node("node1") == NodeCounts(sessions=1, asked=8, moved=7)
        assert new.setup.first_id > 4711
        assert new.setup.first_id % 2 == 1


async def test_a_drain_goes_on_across_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The new one knows of it, the old one still hears, and both draw on the one bucket."""
    async with settled(tmp_path) as it:
        it.leave = False
        it.supervisor.console.drains.begin("node1")
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        old, new = it.all[0], it.workers[1]
        assert new.pieces[0].states[0].admin_state is AdminState.DRAIN
        it.supervisor.console.drains.begin("node2", force=True)
        await trio.sleep(1)
        for worker in (old, new):
            assert worker.nodes["node2"].admin_state is AdminState.DRAIN
        for worker in (old, new):
            worker.post(Want(0, 100, 0))
        await trio.sleep(4.95)
        granted = [len(worker.of(Grant)) for worker in (old, new)]
        assert sum(granted) == 5 + 49
        assert abs(granted[0] - granted[1]) <= 1


# --- what can go wrong


def greet_not(it: House) -> None:
    it.greet = False


def refuse(it: House) -> None:
    it.refuse = OSError(11, "Resource temporarily unavailable")


@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        (greet_not, "the new worker 1 ended before it served, with exit code 2; the old one stays"),
        (refuse, "the new worker 1 could not be started; the old one stays"),
    ],
)
async def test_a_new_one_that_does_not_come_up(
    spoil: object, failure: str, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with settled(tmp_path) as it:
        assert callable(spoil)
        spoil(it)
        before = await states(it)
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        for worker in it.all[2:]:
            worker.die(2)
        assert await last(it) == RestartProgress(2, 0, 2, 0, 0, finished=True, failure=failure)
        assert await states(it) == before
        assert not any(worker.of(Leave) for worker in it.all)
        assert [record.levelno for record in caplog.records if record.message == "restart-ends"] == [logging.ERROR]
        it.greet, it.refuse = True, None
        it.supervisor.console.workers.restart()
        assert (await last(it)).left == 0, "another attempt"


async def test_one_that_could_not_be_started_has_not_died(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with settled(tmp_path) as it:
        refuse(it)
        it.workers[1].die()
        await trio.sleep(5)
        it.refuse = None
        await trio.sleep(10)
        assert sorted(it.workers) == [1, 2]
        assert [row.deaths for row in it.supervisor.workers.worker_rows()] == [1, 0]
    assert caplog.messages.count("worker-died") == 1
    assert caplog.messages.count("worker-not-started") > 1


async def test_a_new_one_that_hangs_at_its_start(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with settled(tmp_path) as it:
        it.greet = False
        began = trio.current_time()
        it.supervisor.console.workers.restart()
        done = await last(it)
        assert 29 < trio.current_time() - began < 36
        assert done.left == 2
        assert it.workers[1] is it.all[0]


async def test_asked_again_while_it_goes_on(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on as it was; who asks last may wait for it as well."""
    caplog.set_level(logging.INFO)
    async with settled(tmp_path) as it:
        it.leave = False
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        it.supervisor.console.workers.restart()
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        assert len(it.all) == 3
        it.leave = True
        it.all[0].end()
        assert (await last(it)).replaced == 2
        await trio.sleep(60)
        assert len(it.all) == 4
        assert caplog.messages.count("restart-goes-on") == 2


async def test_the_old_one_dies_before_the_new_one_is_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with settled(tmp_path) as it:
        it.greet = False
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        it.all[0].die()
        await trio.sleep(1)
        assert len(it.all) == 3, "one in its place is enough"
        it.greet = True
        it.all[2].greet()
        assert (await last(it)).left == 0
        assert [row.deaths for row in await it.supervisor.console.workers.rows()] == [1, 0]


async def test_both_die(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The restart has failed, and the slot gets a worker all the same."""
    async with settled(tmp_path) as it:
        it.greet = False
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        it.all[0].die()
        it.greet = True
        it.all[2].die()
        assert (await last(it)).left == 2
        await trio.sleep(1)
        assert await states(it) == [(1, it.all[3].pid, "up"), (2, it.all[1].pid, "up")]


async def test_one_dies_while_it_leaves(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with settled(tmp_path) as it:
        it.leave = False
        old = it.all[0]
        old.report(node1=NodeCounts(sessions=3))
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        assert old.of(Leave)
        it.leave = True
        old.die()
        assert (await last(it)).left == 0
        assert [row.deaths for row in await it.supervisor.console.workers.rows()] == [1, 0]
        assert it.supervisor.workers.totals().ended["worker-died"] == 3


async def test_one_that_does_not_leave_is_killed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After hard-stop-after (three seconds here), and five."""
    async with settled(tmp_path) as it:
        it.leave = False
        began = trio.current_time()
        it.supervisor.console.workers.restart()
        with trio.move_on_after(20):
            while it.all[0].alive:  # noqa: ASYNC110 - what is waited for is the supervisor's to do
                await trio.sleep(0.1)
        assert 7.9 < trio.current_time() - began < 8.2
        assert (await last(it)).left == 0
        assert len(it.all) == 4


async def test_the_new_one_dies_as_soon_as_it_is_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with settled(tmp_path) as it:
        it.leave = False
        it.supervisor.console.workers.restart()
        await trio.sleep(0.5)
        it.all[2].die()
        await trio.sleep(0.5)
        assert await states(it) == [(1, it.all[0].pid, "leaving"), (1, it.all[3].pid, "up"), (2, it.all[1].pid, "up")]
        it.leave = True
        it.all[0].end()
        assert (await last(it)).left == 0


async def test_who_began_meanwhile_is_not_replaced_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with settled(tmp_path) as it:
        it.leave = False
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        it.workers[2].die()
        await trio.sleep(1)
        assert len(it.all) == 4
        it.all[0].end()
        assert (await last(it)).left == 0
        assert len(it.all) == 4
        assert not it.all[3].of(Leave)


async def make_it_wait(it: House) -> None:
    """Let workers of the first slot die at once until the next one comes only seconds later."""
    for _ in range(8):
        it.workers[1].die()
        before = len(it.all)
        while len(it.all) == before:  # noqa: ASYNC110 - what is waited for is the supervisor's to do
            await trio.sleep(0.05)
        await trio.sleep(0.01)
    it.workers[1].die()
    await trio.sleep(1)
    assert (await states(it))[0] == (1, None, "waiting")


async def test_a_slot_whose_workers_die_at_once_gets_one_now(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        await make_it_wait(it)
        it.supervisor.console.workers.restart()
        await trio.sleep(0.01)
        assert (await states(it))[0][2] == "up"
        assert (await last(it)).left == 0


async def test_a_slot_whose_workers_still_die_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One attempt out of turn, and then pauses as before."""
    async with house(tmp_path) as it:
        await make_it_wait(it)
        it.greet = False
        attempts = len(it.all)
        it.supervisor.console.workers.restart()
        await trio.sleep(0.01)
        it.all[-1].die(2)
        assert (await last(it)).failure == "the new worker 1 ended before it served, with exit code 2"
        await trio.sleep(5)
        assert len(it.all) == attempts + 1


async def test_not_while_the_proxy_stops(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def slowly(worker: FakeWorker, cut: bool) -> None:
        await trio.sleep(1)
        worker.die(0)

    monkeypatch.setattr(FakeWorker, "_end", slowly)
    async with settled(tmp_path) as it:
        it.supervisor.stop()
        with pytest.raises(ConfigError, match="the proxy is stopping"):
            it.supervisor.console.workers.restart()
        it.supervisor.upgrade_on_signal()
        await trio.sleep(0.5)
        assert len(it.all) == 2
        assert "upgrade-refused" in caplog.messages


@pytest.mark.parametrize("new_is_up", [True, False])
async def test_a_stop_in_the_middle(new_is_up: bool, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        it = House(tmp_path, nursery)
        done = trio.Event()

        @nursery.start_soon
        async def run() -> None:
            await it.supervisor.run()
            done.set()

        await trio.sleep(60)
        it.greet, it.leave = new_is_up, False
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        it.supervisor.stop()
        waiting = it.supervisor.console.workers.follow()
        await trio.sleep(0.1)
        if not new_is_up:
            it.all[2].greet()
        with trio.fail_after(1):
            await done.wait()
            progress = [row async for row in waiting][-1]
        assert progress.failure == "the proxy is stopping"
        assert all(worker.of(Stop) for worker in it.all)
        assert not any(worker.alive for worker in it.all)
        assert len(it.all) == 3
        nursery.cancel_scope.cancel()


async def test_one_process_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as nursery:
        proxy = Proxy(replace(House(tmp_path, nursery).config, workers=1))
    proxy.upgrade_on_signal()
    assert caplog.messages == ["upgrade-refused"], "it is a part of this program"
    with pytest.raises(ConfigError, match="one process"):
        proxy.console.workers.restart()
    with pytest.raises(ConfigError, match="not being replaced"):
        await anext(proxy.console.workers.follow())
