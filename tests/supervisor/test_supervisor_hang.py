"""Workers that live and do nothing: found out, killed, replaced, counted; and healthy ones that are not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio
from fake_workers import house
from trio.testing import MockClock

from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.ipc.messages import AnswerPart, Ask, WorkerReport
from cxfr_proxy.ipc.questions import ANSWER_SECONDS, FindSessions, SessionRows
from cxfr_proxy.supervisor.workers.link import SILENCE_SECONDS, SILENCE_TURNS
from cxfr_proxy.transfers.counts import NodeCounts


async def test_one_that_hangs_is_killed_and_replaced(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path) as it:
        first, second = it.all
        first.report(node1=NodeCounts(sessions=3))
        await trio.sleep(100)
        first.hangs = True
        began = trio.current_time()
        with trio.move_on_after(2 * SILENCE_SECONDS):
            while len(it.all) == 2:  # noqa: ASYNC110 - what is waited for is the supervisor's to do
                await trio.sleep(0.1)
        turn = SILENCE_SECONDS / SILENCE_TURNS
        assert SILENCE_SECONDS - turn - 0.1 < trio.current_time() - began < SILENCE_SECONDS + turn
        await trio.sleep(1)
        assert (it.workers[1], it.workers[2]) == (it.all[2], second)
        assert not first.alive
        rows = await it.supervisor.console.workers.rows()
        assert [(row.deaths, row.hung, row.state) for row in rows] == [(1, 1, "up"), (0, 0, "up")]
        assert it.supervisor.workers.totals().ended["worker-died"] == 3
        assert [message for message in caplog.messages if message.startswith("worker-")] == [
            "worker-hung",
            "worker-died",
        ]


async def test_who_answers_lives(tmp_path: Path, autojump_clock: MockClock) -> None:
    """For ten minutes, silent but for answers."""
    async with house(tmp_path) as it:
        await trio.sleep(600)
        assert len(it.all) == 2


async def test_whatever_is_said_is_a_sign_of_life(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One that is behind with its answers, but says something."""
    async with house(tmp_path) as it:
        it.all[0].hangs = True
        for _ in range(20):
            await trio.sleep(SILENCE_SECONDS * 0.8)
            it.all[0].post(WorkerReport(it.all[0].counts))
        assert len(it.all) == 2


async def test_workers_are_not_to_blame_for_a_supervisor_that_stood_still(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """It was stopped, or the machine slept: much time has gone by at once, and nobody was heard."""
    mock_clock.autojump_threshold = 0
    async with house(tmp_path) as it:
        await trio.sleep(7)
        mock_clock.jump(600)
        await trio.sleep(100)
        assert len(it.all) == 2


async def test_one_that_hangs_while_it_stops(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The stop has an end of its own."""
    async with house(tmp_path) as it:
        await trio.sleep(5)
        it.all[0].hangs = True
        it.supervisor.stop()
        began = trio.current_time()
        with trio.move_on_after(20):
            while it.all[0].alive:  # noqa: ASYNC110 - what is waited for is the supervisor's to do
                await trio.sleep(0.1)
        assert trio.current_time() - began < 9
        assert len(it.all) == 2


async def test_one_that_hangs_is_named_and_holds_nobody_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Long before it is killed: who asks waits once, for a moment, and is told what is missing."""
    async with house(tmp_path) as it:
        console, (silent, other) = it.supervisor.console, it.all
        await trio.sleep(5)
        await console.clients.sessions(SessionFilter())
        assert console.sessions.omissions() == []
        silent.hangs = True

        async def seconds_to_ask() -> float:
            began = trio.current_time()
            await console.clients.sessions(SessionFilter())
            await console.nodes.rows()
            return trio.current_time() - began

        assert await seconds_to_ask() == ANSWER_SECONDS
        assert await seconds_to_ask() == 0
        await trio.sleep(1)
        (said,) = console.sessions.omissions()
        assert said.startswith(f"worker 1 (pid {silent.pid}) has not answered for 3 s")
        rows = await console.workers.rows()
        assert [row.silent_seconds for row in rows] == [3.0, None]
        silent.post(WorkerReport(silent.counts))
        await trio.sleep(0.1)
        assert console.sessions.omissions() == []
        assert len(it.all) == 2
        assert other.alive


async def test_a_long_answer_has_its_time_for_each_part(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A worker that goes on answering does not hang, however much there is."""
    async with house(tmp_path) as it:
        console, (slow, _) = it.supervisor.console, it.all
        await trio.sleep(5)
        slow.hangs = True
        found = []

        async def ask() -> None:
            found.append(await console.clients.sessions(SessionFilter()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            (asked,) = (
                each for each in slow.of(Ask) if isinstance(each, Ask) and isinstance(each.question, FindSessions)
            )
            for number in range(5):
                slow.post(AnswerPart(asked.request, SessionRows([float(number)], [msgspec.Raw(b"{}")], [1], [1])))
                await trio.sleep(ANSWER_SECONDS - 0.1)
            assert not found
            slow.post(AnswerPart(asked.request, last=True))
        assert found[0].matching == 5
        assert console.sessions.omissions() == []


async def test_nothing_is_kept_for_one_who_asks_no_more(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        it.all[0].hangs = True
        with trio.move_on_after(0.5):
            await it.supervisor.console.clients.sessions(SessionFilter())
        assert [link._requests for link in it.supervisor.workers] == [{}, {}]
