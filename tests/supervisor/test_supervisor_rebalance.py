"""A rebalance as the supervisor keeps it: told as a state, summed up over all workers, begun by itself. The workers are
fakes; time is trio's mock clock."""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from fake_workers import FakeWorker, House, house
from trio.testing import MockClock

from cxfr_proxy.admin.rows.order_rows import PlannedMove, RebalancePlan, RebalanceProgress
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.rebalance import RebalanceForecast
from cxfr_proxy.config.table import RebalanceMode
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import TextFormatter
from cxfr_proxy.ipc.messages import (
    Announced,
    Grant,
    Want,
    WorkerCounts,
    WorkerReport,
)
from cxfr_proxy.ipc.questions import MoveUser, PlanRebalance
from cxfr_proxy.transfers.client_news import AnyClientNews, LandedWrong, Moved, Returned, Stayed
from cxfr_proxy.transfers.rebalances import RebalanceCounts, RebalanceTerms


def said(worker: FakeWorker, number: int, *counts: int, planning: bool = False) -> None:
    """planned, asked, moved, refused, silent, failed, left"""
    worker.counts = WorkerCounts(rebalance=RebalanceCounts(number, planning, *counts))
    worker.post(WorkerReport(worker.counts))


def told(worker: FakeWorker) -> RebalanceTerms | None:
    """The rebalance it was told of last."""
    return worker.pieces[-1].rebalance


async def progress(it: House) -> RebalanceProgress:
    async with aclosing(it.supervisor.console.rebalances.follow()) as rows:
        return await anext(rows)


async def test_it_is_told_until_it_is_over(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        with pytest.raises(ConfigError, match="no rebalance goes on"):
            await progress(it)
        console.rebalances.begin(rate=3.0, max_share=20.0)
        await trio.sleep(1)
        order = RebalanceTerms(1, 20.0)
        assert [told(worker) for worker in it.all] == [order, order]
        assert it.supervisor._drainer.rate == 3.0
        said(it.all[0], 1, 10, 2, 1, 1, 0, 0, 8)
        await trio.sleep(1)
        assert await progress(it) == RebalanceProgress(
            0, 0, 0, 0, 0, 0, 0, finished=False, waiting_reason="it is being planned"
        )
        said(it.all[1], 1, 0, 0, 0, 0, 0, 0, 0, planning=True)
        await trio.sleep(1)
        assert (await progress(it)).waiting_reason == "it is being planned"
        said(it.all[1], 1, 5, 0, 0, 0, 0, 0, 5)
        await trio.sleep(1)
        assert await progress(it) == RebalanceProgress(15, 2, 1, 1, 0, 0, 13, finished=False, waiting_reason=None)
        said(it.all[0], 1, 10, 8, 7, 2, 1, 1, 0)
        said(it.all[1], 1, 5, 5, 5, 0, 1, 0, 0)
        await trio.sleep(1)
        assert [told(worker) for worker in it.all] == [None, None]
        for worker in it.all:
            said(worker, 0)
        await trio.sleep(1)
        assert await progress(it) == RebalanceProgress(15, 13, 12, 2, 2, 1, 0, finished=True, waiting_reason=None)
        assert it.supervisor._drainer.rate == 10.0


async def test_it_goes_on_with_new_workers(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Clients that the old one has moved count; those it had left come to the others."""
    async with house(tmp_path) as it:
        it.supervisor.console.rebalances.begin()
        await trio.sleep(1)
        for worker in it.all:
            said(worker, 1, 10, 4, 4, 0, 0, 0, 6)
        await trio.sleep(1)
        it.all[0].die()
        await trio.sleep(1)
        new = it.workers[1]
        assert new.pieces[0].rebalance == RebalanceTerms(1)
        said(new, 1, 0, 0, 0, 0, 0, 0, 0)
        await trio.sleep(1)
        row = await progress(it)
        assert (row.total, row.asked, row.moved, row.left, row.finished) == (20, 8, 8, 6, False)
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        for worker in it.workers.values():
            said(worker, 1, 0, 0, 0, 0, 0, 0, 0)
        await trio.sleep(1)
        row = await progress(it)
        assert (row.total, row.moved, row.left, row.finished) == (20, 8, 0, True)


async def test_it_is_stopped_or_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        with pytest.raises(ConfigError, match="no rebalance goes on"):
            console.rebalances.stop()
        console.rebalances.begin(rate=3.0)
        await trio.sleep(1)
        for worker in it.all:
            said(worker, 1, 10, 4, 4, 0, 0, 0, 6)
        await trio.sleep(1)
        ends: list[RebalanceProgress] = []
        async with trio.open_nursery() as waiting:

            @waiting.start_soon
            async def wait() -> None:
                async for row in console.rebalances.follow():
                    ends.append(row)

            await trio.sleep(1)
            console.rebalances.begin()
        assert (ends[-1].left, ends[-1].finished, ends[-1].waiting_reason) == (12, True, "another one has begun")
        assert it.supervisor._drainer.rate == 10.0
        await trio.sleep(1)
        assert {told(worker) for worker in it.all} == {RebalanceTerms(2)}
        console.rebalances.stop()
        await trio.sleep(1)
        assert {told(worker) for worker in it.all} == {None}
        assert (await progress(it)).waiting_reason == "it was stopped"
        with pytest.raises(ConfigError, match="no rebalance goes on"):
            console.rebalances.stop()


async def test_a_rate_holds_as_long_as_somebody_is_moved(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        console.rebalances.begin(rate=3.0)
        console.drains.begin("node1", grace=1000.0)
        console.rebalances.stop()
        assert it.supervisor._drainer.rate == 3.0
        console.drains.undrain("node1")
        assert it.supervisor._drainer.rate == 10.0


async def test_a_plan_is_the_sum_of_the_workers_and_changes_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        it.nodes.write_text("node1 10.0.0.1 check=none\nnode2 10.0.0.2 check=none\nnode3 10.0.0.3 check=none\n")
        await console.files.reload()
        it.all[0].rebalance = RebalanceForecast({"node2": {"node3": 5}, "node1": {"node3": 10}}, 2)
        it.all[1].rebalance = RebalanceForecast({"node1": {"node2": 1, "node3": 4}}, 1)
        plan = await console.rebalances.plan(max_share=30.0)
        moves = [PlannedMove("node1", "node2", 1), PlannedMove("node1", "node3", 14), PlannedMove("node2", "node3", 5)]
        assert plan == RebalancePlan(20, 3, moves, rate=10.0, seconds=2.0)
        assert (await console.rebalances.plan(rate=4.0)).seconds == 5.0
        it.supervisor._drainer.set_share(0.5)
        assert (await console.rebalances.plan(rate=4.0)).seconds == 10.0, "another proxy has the other half"
        asked = [question.max_share for question in it.all[0].asked(PlanRebalance)]
        assert asked == [30.0, None, None]
        assert told(it.all[0]) is None


def held(worker: FakeWorker, number: int, sessions: int, seconds: float) -> None:
    counts = RebalanceCounts(number, planned=5, held=sessions, held_seconds=seconds)
    worker.counts = WorkerCounts(rebalance=counts)
    worker.post(WorkerReport(worker.counts))


async def test_who_was_moved_lately_is_said_and_moved_when_the_window_is_over(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with house(tmp_path) as it:
        console = it.supervisor.console
        console.rebalances.begin(max_share=20.0)
        await trio.sleep(1)
        held(it.all[0], 1, 2, 20.0)
        held(it.all[1], 1, 3, 42.0)
        await trio.sleep(1)
        row = await progress(it)
        assert (row.left, row.held, row.finished) == (5, 5, True)
        assert row.held_seconds == pytest.approx(42, abs=2)
        assert (row.waiting_reason or "").startswith(
            "5 were moved less than redirect-window ago, and are looked at again"
        )
        for worker in it.all:
            said(worker, 0)
        await trio.sleep(40)
        assert [told(worker) for worker in it.all] == [None, None]
        await trio.sleep(3)
        assert [told(worker) for worker in it.all] == [RebalanceTerms(2, again=True)] * 2
        assert it.supervisor.rebalances.last is not None
        assert it.supervisor.rebalances.last.reason == "5 sessions had been moved too lately"
        for worker in it.all:
            said(worker, 2, 5, 5, 5, 0, 0, 0, 0)
        await trio.sleep(100)
        row = await progress(it)
        assert (row.left, row.held_seconds, row.finished, row.waiting_reason) == (0, None, True, None)
    [first, _] = [record for record in caplog.records if record.msg == "rebalance-ends"]
    assert "moved=0 left=5 held=5 reason=" in TextFormatter().format(first)


@pytest.mark.parametrize("by", ["another", "stop"])
async def test_an_operator_s_word_goes_before_those_that_are_held(
    by: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        console.rebalances.begin()
        await trio.sleep(1)
        for worker in it.all:
            held(worker, 1, 2, 20.0)
        await trio.sleep(1)
        if by == "stop":
            console.rebalances.stop()
            assert (await progress(it)).held_seconds is None
            with pytest.raises(ConfigError, match="no rebalance goes on"):
                console.rebalances.stop()
        else:
            console.rebalances.begin()
            await trio.sleep(1)
            for worker in it.all:
                said(worker, 2, 5, 5, 5, 0, 0, 0, 0)
        await trio.sleep(100)
        assert it.supervisor.rebalances.last is not None
        assert it.supervisor.rebalances.last.number == (1 if by == "stop" else 2)
        assert it.supervisor.rebalances.current is None


async def test_a_user_is_moved_by_all_workers(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        it.all[0].moves, it.all[1].moves = 2, 1
        assert await console.nodes.move("romeo@example.org", "node2") == 3
        for worker in it.all:
            (message,) = worker.asked(MoveUser)
            assert (message.jid, message.node) == ("romeo@example.org", "node2")
            worker.moves = 0
        with pytest.raises(ConfigError, match=r"romeo@example\.org has no client that could be moved to 'node2'"):
            await console.nodes.move("romeo@example.org", "node2")
        with pytest.raises(ConfigError, match="no node 'node9'"):
            await console.nodes.move("romeo@example.org", "node9")
        node = it.supervisor._cluster.get("node2")
        node.health = Health.DOWN
        with pytest.raises(ConfigError, match="it is down"):
            await console.nodes.move("romeo@example.org", "node2")
        node.health = Health.UP
        node.set_admin_state(AdminState.DRAIN)
        with pytest.raises(ConfigError, match="in state drain"):
            await console.nodes.move("romeo@example.org", "node2")
        it.nodes.write_text("node1 10.0.0.1 check=none domain=example.com\nnode2 10.0.0.2 check=none\n")
        await console.files.reload()
        with pytest.raises(ConfigError, match=r"does not serve example\.org"):
            await console.nodes.move("romeo@example.org", "node1")


async def test_tokens_go_to_the_misplaced_last(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        first, second = it.all
        first.post(Want(0, 0, 0, 50))
        await trio.sleep(1.05)
        before = len(first.of(Grant))
        second.post(Want(0, 3, 0))
        await trio.sleep(0.3)
        assert [len(worker.of(Grant)) for worker in it.all] == [before, 3]
        await trio.sleep(10)
        assert [len(worker.of(Grant)) for worker in it.all] == [50, 3]


async def test_who_was_moved_is_known_everywhere(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        first, second = it.all
        moved = [Moved(number, f"{user}@h/1", "192.0.2.1", "node1") for number, user in enumerate("abc")]
        said: list[AnyClientNews] = [
            *moved,
            Returned("b@h/1", "192.0.2.1"),
            LandedWrong("b@h/1"),
            Stayed("c@h/1", "192.0.2.1", "node1"),
        ]
        for message in said:
            first.post(message)
        await trio.sleep(20)
        assert first.of(Announced) == [Announced(number) for number in range(3)]
        assert second.news_of(Moved, Returned, LandedWrong, Stayed) == said
        first.die()
        await trio.sleep(1)
        assert it.workers[1].remembered == [(pytest.approx(20, abs=0.1), moved[0])]


# --- by itself


async def test_a_list_that_has_changed_begins_one_once_it_is_quiet(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path, RebalanceMode.AUTO) as it:
        await trio.sleep(20)
        assert told(it.all[0]) is None
        cluster = it.supervisor._cluster
        cluster.apply([*(node.spec for node in cluster), replace(cluster.get("node1").spec, name="node3")])
        await trio.sleep(4)
        assert told(it.all[0]) is None
        await trio.sleep(2)
        assert told(it.all[0]) == RebalanceTerms(1)
        for worker in it.all:
            said(worker, 1, 0, 0, 0, 0, 0, 0, 0)
        await trio.sleep(1)
        assert told(it.all[0]) is None
        await trio.sleep(60)
        assert it.supervisor.rebalances.last is not None
        assert it.supervisor.rebalances.last.number == 1
