"""A drained node settles when it is empty in all workers, counted from the last session that left any of them."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from fake_workers import FakeWorker, House, house
from trio.testing import MockClock

from cxfr_proxy.admin.rows.order_rows import DrainProgress
from cxfr_proxy.cluster.nodes import SHARED_SETTLE_SECONDS
from cxfr_proxy.ipc.messages import TransferEnded
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.statistics import PastTransfer, TriedRung

SHARED = "node1 10.0.0.1 check=none resume=shared\nnode2 10.0.0.2 check=none resume=shared\n"


async def begin(it: House, lines: str = SHARED) -> tuple[FakeWorker, FakeWorker]:
    """Drain node1, which has a session in either worker."""
    it.nodes.write_text(lines)
    await it.supervisor.console.files.reload()
    first, second = it.workers[1], it.workers[2]
    for worker in (first, second):
        worker.report(node1=NodeCounts(sessions=1))
    await trio.sleep(1)
    it.supervisor.console.drains.begin("node1")
    return first, second


async def watched(it: House) -> list[DrainProgress]:
    """Return what ``drain --wait`` shows until it ends."""
    async with aclosing(it.supervisor.console.drains.follow("node1")) as rows:
        return [row async for row in rows]


async def shown(it: House) -> str | None:
    return (await it.supervisor.console.nodes.rows())[0].drain


async def test_it_is_counted_from_the_last_worker_s_last_session(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        first, second = await begin(it)
        states = []

        async def leave() -> None:
            await trio.sleep(2)
            first.report(node1=NodeCounts(sessions=0))
            await trio.sleep(4)
            states.append(await shown(it))
            second.report(node1=NodeCounts(sessions=0))
            await trio.sleep(1)
            states.append(await shown(it))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            rows = await watched(it)
        assert trio.current_time() - began == pytest.approx(6 + SHARED_SETTLE_SECONDS, abs=0.5)
        assert [*states, await shown(it)] == ["all", "settling", "done"]
        settling = [row.settling_seconds for row in rows if row.left == 0 and not row.finished]
        assert settling
        assert all(seconds is not None and 0 <= seconds <= SHARED_SETTLE_SECONDS for seconds in settling)
        assert (rows[-1].finished, rows[-1].left, rows[-1].settling_seconds) == (True, 0, None)


async def test_a_transfer_that_ends_behind_the_counts_is_the_last_to_leave(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as it:
        for worker in await begin(it):
            worker.report(node1=NodeCounts(sessions=0))
        await trio.sleep(1)
        tried = (TriedRung(Rung.CUT, Outcome.MOVED),)
        ended = PastTransfer("node1", Trigger.DRAIN, "other", tried, 0.1)
        it.workers[1].post(TransferEnded(ended, 1, "user@example.org/r"))
        began = trio.current_time()
        await watched(it)
        assert trio.current_time() - began == pytest.approx(SHARED_SETTLE_SECONDS, abs=0.5)


async def test_a_client_that_was_cut_leaves_when_it_is_resumed(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        for worker in await begin(it):
            worker.report(awaited={"node1": 1}, node1=NodeCounts(sessions=0))
        await trio.sleep(20)
        assert await shown(it) == "all"
        for worker in it.workers.values():
            worker.report(node1=NodeCounts(sessions=0))
        began = trio.current_time()
        await watched(it)
        assert trio.current_time() - began == pytest.approx(SHARED_SETTLE_SECONDS, abs=0.5)


async def test_a_node_that_is_out_of_the_list_stays_until_it_has_settled(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with house(tmp_path) as it:
        first, second = await begin(it)
        it.nodes.write_text(SHARED.splitlines()[1])
        await it.supervisor.console.files.reload()
        for worker in (first, second):
            worker.report(node1=NodeCounts(sessions=0))
        await trio.sleep(1)
        assert [row.name for row in await it.supervisor.console.nodes.rows()] == ["node2", "node1"]
        await trio.sleep(SHARED_SETTLE_SECONDS + 5)
        assert [row.name for row in await it.supervisor.console.nodes.rows()] == ["node2"]
