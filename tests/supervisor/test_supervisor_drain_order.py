"""The messages to workers about a drain: its stages by the supervisor's clock, an abort, and what a plan asks of them.
The workers are fakes; time is trio's mock clock."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from fake_workers import FakeWorker, House, house
from trio.testing import MockClock

from cxfr_proxy.admin.rows.order_rows import DrainPlan, DrainProgress, PlannedTarget, RungCounts
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.plan import DrainForecast
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.ipc.messages import Ask, Nodes, TransferEnded, WorkerCounts, WorkerReport
from cxfr_proxy.ipc.questions import PlanDrain
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.statistics import PastTransfer, TriedRung


def told(worker: FakeWorker) -> list[tuple[float, str]]:
    """The stages of node1, and when each was told first; times in tenths of a second."""
    stages: list[tuple[float, str]] = []
    for at, message in worker.heard:
        states = message.states if isinstance(message, Nodes) else ()
        for state in states:
            if state.spec.name != "node1":
                continue
            if state.admin_state is AdminState.DRAIN and (not stages or stages[-1][1] != state.stage):
                stages.append((round(at, 1), str(state.stage)))
    return stages


def populate(it: House, sessions: int = 5) -> None:
    for worker in it.workers.values():
        worker.report(node1=NodeCounts(sessions=sessions))


async def progress(it: House) -> DrainProgress:
    """Of node1, now."""
    async with aclosing(it.supervisor.console.drains.follow("node1")) as rows:
        return await anext(rows)


async def test_stages_in_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        populate(it)
        await trio.sleep(1)
        start = trio.current_time()
        it.supervisor.console.drains.begin("node1", grace=4.0, deadline=20.0)
        await trio.sleep(1)
        assert (await progress(it)).waiting_reason == "nobody is moved before the grace is over"
        await trio.sleep(60)
        for worker in it.all:
            stages = told(worker)
            assert [stage for _, stage in stages] == ["grace", "awake", "all", "rest"]
            assert [at - start for at, _ in stages] == pytest.approx([0, 4, 10, 20], abs=0.21)


async def test_who_watches_sees_what_workers_report_and_asks_them_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as it:
        populate(it)
        await trio.sleep(1)
        it.supervisor.console.drains.begin("node1")
        before = [len(worker.of(Ask)) for worker in it.all]
        seen: list[int] = []

        async def watch() -> None:
            async with aclosing(it.supervisor.console.drains.follow("node1")) as rows:
                async for row in rows:
                    seen.append(row.left)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for left in (4, 3, 2, 1, 0):
                await trio.sleep(0.9)
                populate(it, left)
        assert seen == [10, 8, 6, 4, 2, 0]
        # A question whether it lives is put to each worker every five seconds, whoever watches.
        assert [len(worker.of(Ask)) - asked for worker, asked in zip(it.all, before, strict=True)] == [1, 1]


async def test_a_new_worker_and_a_reload_go_on_where_it_was(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The same end of the grace, the same deadline, the same rate."""
    async with house(tmp_path) as it:
        populate(it)
        await trio.sleep(1)
        start = trio.current_time()
        it.supervisor.console.drains.begin("node1", grace=4.0, deadline=20.0, rate=3.0)
        for at, action in ((2.0, "die"), (6.0, "reload"), (8.0, "die"), (12.0, "restart"), (22.0, "die")):
            await trio.sleep_until(start + at)
            if action == "die":
                it.workers[1].die()
            elif action == "restart":
                it.supervisor.console.workers.restart()
            else:
                it.nodes.write_text(
                    f"node1 10.0.0.1 check=none\nnode2 10.0.0.2 check=none\nnode3 10.0.0.3 check=none weight={at:.0f}\n"
                )
                await it.supervisor.console.files.reload()
            await trio.sleep(0.5)
            if at < 12.0:  # then all workers are new, and for a moment nobody is there
                assert it.supervisor._drainer.rate == 3.0
            populate(it)
        await trio.sleep(10)
        firsts = [[stage for _, stage in told(worker)] for worker in it.all]
        full = ["grace", "awake", "all", "rest"]
        assert all(stages == full[full.index(stages[0]) : full.index(stages[-1]) + 1] for stages in firsts), firsts
        for worker in it.all:
            for at, stage in told(worker)[1:]:
                due = {"awake": 4, "all": 10, "rest": 20}[stage]
                assert at - start == pytest.approx(due, abs=0.21)
        assert [worker.pieces[0].states[0].stage for worker in it.all[2:]] == [
            Stage.GRACE,
            Stage.AWAKE,
            Stage.ALL,
            Stage.ALL,
            Stage.REST,
        ]


async def test_progress_tells_the_rungs_that_were_tried_since_the_drain_began(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as it:
        populate(it)
        await trio.sleep(1)

        async def transfer(node: str, *tried: tuple[Rung, Outcome]) -> None:
            rungs = tuple(TriedRung(rung, outcome) for rung, outcome in tried)
            it.workers[1].post(TransferEnded(PastTransfer(node, Trigger.DRAIN, "other", rungs, 0.1), 1, None))
            await trio.sleep(1)

        await transfer("node1", (Rung.RESET, Outcome.MOVED))
        it.supervisor.console.drains.begin("node1")
        assert (await progress(it)).rungs == []
        await transfer("node1", (Rung.CXFR, Outcome.STAYED), (Rung.RESET, Outcome.MOVED))
        await transfer("node1", (Rung.CXFR, Outcome.REFUSED), (Rung.RESET, Outcome.CUT_OFF))
        await transfer("node2", (Rung.CXFR, Outcome.MOVED))
        assert (await progress(it)).rungs == [RungCounts("cxfr", 0, 1, 1, 0), RungCounts("reset", 1, 0, 0, 1)]


async def test_an_abort_holds(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Through a reload, a node that comes and goes, a dead worker and new ones; until a drain goes on."""
    async with house(tmp_path) as it:
        console = it.supervisor.console
        populate(it)
        await trio.sleep(1)
        console.drains.begin("node1", deadline=20.0, rate=3.0)
        await trio.sleep(1)
        console.drains.abort("node1")
        last = await progress(it)
        assert (last.finished, last.left, last.waiting_reason) == (True, 10, "the drain was aborted")
        await trio.sleep(0.1)
        assert [told(worker)[-1][1] for worker in it.all] == ["aborted", "aborted"]
        it.nodes.write_text("node1 10.0.0.1 check=none\nnode2 10.0.0.2 check=none\nnode3 10.0.0.3 check=none\n")
        await it.supervisor.console.files.reload()
        it.workers[1].die()
        await trio.sleep(1)
        populate(it)
        it.supervisor.console.workers.restart()
        await trio.sleep(1)
        populate(it)
        await trio.sleep(60)
        assert {stage for worker in it.all[2:] for _, stage in told(worker)} == {"aborted"}
        for worker in it.workers.values():
            assert (worker.nodes["node1"].admin_state, worker.nodes["node1"].stage) == (AdminState.DRAIN, Stage.ABORTED)
        assert it.supervisor._drainer.rate == 10.0
        console.drains.begin("node1")
        await trio.sleep(30)
        assert {worker.nodes["node1"].stage for worker in it.workers.values()} == {Stage.ALL}
        console.drains.abort("node1")
        console.drains.undrain("node1")
        await trio.sleep(1)
        assert {worker.nodes["node1"].admin_state for worker in it.workers.values()} == {AdminState.READY}
        assert not it.supervisor._drainer.drains


async def test_what_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        with pytest.raises(ConfigError, match="no node 'node9'"):
            console.drains.abort("node9")
        with pytest.raises(ConfigError, match="is not being drained"):
            console.drains.abort("node1")
        with pytest.raises(ConfigError, match="over before the deadline"):
            console.drains.begin("node1", grace=5.0, deadline=5.0)
        with pytest.raises(ConfigError, match="over before the deadline"):
            await console.drains.plan("node1", grace=5.0, deadline=5.0)
        with pytest.raises(ConfigError, match="no node 'node9'"):
            await console.drains.plan("node9")
        assert [row.admin_state for row in await console.nodes.rows()] == ["ready", "ready"]


async def test_a_plan_is_the_sum_of_the_workers_and_changes_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        it.workers[1].plan = DrainForecast(30, 10, 0, {"node2": 30})
        it.workers[2].plan = DrainForecast(70, 30, 0, {"node2": 60, "node3": 10})
        it.nodes.write_text("node1 10.0.0.1 check=none\nnode3 10.0.0.3 check=none\nnode2 10.0.0.2 check=none\n")
        await it.supervisor.console.files.reload()
        before = [len(worker.of(Nodes)) for worker in it.all]
        plan = await console.drains.plan("node1", deadline=20.0)
        targets = [PlannedTarget("node3", 10), PlannedTarget("node2", 90)]
        assert plan == DrainPlan("node1", 100, 40, targets, rate=10.0, seconds=14.0)
        assert (await console.drains.plan("node1", rate=100.0, grace=3.0)).seconds == 4.0
        for worker in it.all:
            asked = worker.asked(PlanDrain)
            assert [message.node for message in asked] == ["node1"] * 2
            worker.plan = DrainForecast(5, 1, 5)
        assert (await console.drains.plan("node1")).targets == [PlannedTarget(None, 10)]
        it.workers[1].hangs = True
        assert (await console.drains.plan("node1")).sessions == 5
        assert [len(worker.of(Nodes)) for worker in it.all] == before
        assert not it.supervisor._drainer.drains


async def test_a_drain_waits_when_it_waits_in_every_worker(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One worker has only inactive clients left, and the other still moves some."""
    async with house(tmp_path) as it:
        first, second = it.workers[1], it.workers[2]
        populate(it)
        it.supervisor.console.drains.begin("node1", deadline=60.0)

        async def reason_when_waiting(*workers: FakeWorker, sessions: int = 5) -> str | None:
            for worker in (first, second):
                counts = {"node1": NodeCounts(sessions=sessions if worker is second else 5)}
                worker.counts = WorkerCounts(5, nodes=counts, waiting={"node1": "asleep"} if worker in workers else {})
                worker.post(WorkerReport(worker.counts))
            await trio.sleep(0.1)
            return (await progress(it)).waiting_reason

        assert await reason_when_waiting(first) is None
        assert await reason_when_waiting(first, second) == "asleep"
        assert await reason_when_waiting(second) is None
        assert await reason_when_waiting(first, sessions=0) == "asleep"
