"""What can be watched, of a supervisor with its workers: topics that have rows only while something goes on."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import trio
from fake_workers import House, house
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.admin.http.live import LiveView
from cxfr_proxy.admin.http.topics import TOPICS
from cxfr_proxy.ipc.messages import Ask, WorkerCounts
from cxfr_proxy.transfers.counts import NodeCounts


async def looked_at(it: House) -> dict[str, list[dict[str, Any]]]:
    """The rows of all topics, as they are decoded."""
    async with aclosing(LiveView(it.supervisor.console, it.supervisor._feed).newer_than(0)) as news:
        topics = await anext(news)
    found = {each.topic: msgspec.json.decode(each.data)["rows"] for each in topics}
    assert found.keys() == TOPICS.keys()
    for name, rows in found.items():
        for row in rows:
            msgspec.convert(row, TOPICS[name].row)
    return found


async def test_what_goes_on_can_be_watched(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        quiet = await looked_at(it)
        assert not any(quiet[name] for name in ("drains", "roll", "rebalance", "restart", "software"))
        assert [row["name"] for row in quiet["nodes"]] == ["node1", "node2"]
        assert len(quiet["workers"]) == quiet["summary"][0]["workers"]
        console.rebalances.begin()
        assert len((await looked_at(it))["rebalance"]) == 1
        console.rebalances.stop()
        console.drains.begin("node1")
        console.workers.restart()
        await trio.sleep(0.1)
        busy = await looked_at(it)
        assert [row["node"] for row in busy["drains"]] == ["node1"]
        assert busy["rebalance"] == []
        assert busy["restart"][0]["total"] == len(quiet["workers"])
        console.drains.undrain("node1")
        assert (await looked_at(it))["drains"] == []


async def test_counts_are_those_that_workers_have_reported(tmp_path: Path, autojump_clock: MockClock) -> None:
    """None of them is asked."""
    async with house(tmp_path) as it:
        await wait_all_tasks_blocked()  # what they are told at the beginning has come, and their answers
        for link in it.supervisor.workers:
            link.counts = WorkerCounts(sessions=3, connections=4, nodes={"node1": NodeCounts(sessions=3)})
        asked = [worker.of(Ask) for worker in it.all]
        found = await looked_at(it)
        assert [worker.of(Ask) for worker in it.all] == asked
        workers = len(it.all)
        assert (found["summary"][0]["sessions"], found["summary"][0]["connections"]) == (3 * workers, 4 * workers)
        assert found["nodes"][0]["sessions"] == 3 * workers
