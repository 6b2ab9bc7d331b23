"""A rolling restart as the supervisor carries it out: drains in order, what workers are told, and what outlives it.

The workers are fakes; time is trio's mock clock.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio
from fake_workers import House, house
from trio.testing import MockClock

from cxfr_proxy.admin.console.rolls import RollControl
from cxfr_proxy.admin.rows.order_rows import ForetoldRestart, RollPlan, RollProgress
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.plan import DrainForecast
from cxfr_proxy.cluster.roll import RETURN_SECONDS
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.transfers.counts import NodeCounts

THREE = "".join(f"node{n} 10.0.0.{n} check=none settle=2s\n" for n in (1, 2, 3))


@asynccontextmanager
async def three(tmp_path: Path, *, sessions: int = 4) -> AsyncIterator[House]:
    """Three nodes, each with sessions in either worker."""
    async with house(tmp_path) as it:
        it.nodes.write_text(THREE)
        await it.supervisor.console.files.reload()
        report(it, node1=sessions, node2=sessions, node3=sessions)
        await trio.sleep(1)
        yield it


def report(it: House, **sessions: int) -> None:
    for worker in it.workers.values():
        worker.report(awaited=None, **{name: NodeCounts(sessions=count) for name, count in sessions.items()})


def rolls(it: House) -> RollControl:
    return it.supervisor.console.rolls


def begin(it: House, *nodes: str, by_command: bool = False, deadline: float | None = None) -> None:
    rolls(it).roller.begin(nodes, deadline=deadline, by_command=by_command)


async def progress(it: House) -> RollProgress:
    async with aclosing(rolls(it).follow(runs=False)) as rows:
        return await anext(rows)


def steps(it: House) -> list[str]:
    return [row.step for row in rolls(it).rows()]


def to_restart(it: House) -> set[str]:
    """Return the nodes that all workers know as to be restarted."""
    told = [{name for name, state in worker.nodes.items() if state.to_restart} for worker in it.workers.values()]
    assert all(each == told[0] for each in told)
    return told[0]


async def kept_roll(it: House) -> dict[str, object] | None:
    """Return the roll that is on disk."""
    assert await it.supervisor.console.state.settle() is None
    kept = json.loads(it.config.state_path.read_text())
    assert isinstance(kept, dict)
    roll: dict[str, object] | None = kept.get("roll")
    return roll


async def until_restart(it: House, node: str) -> None:
    report(it, **{node: 0})
    await trio.sleep(5)
    row = await progress(it)
    assert (row.node, row.step) == (node, "restart")


async def test_each_node_is_drained_restarted_and_made_ready(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with three(tmp_path) as it:
        begin(it, "node2", "node1", deadline=60.0)
        await trio.sleep(1)
        assert steps(it) == ["drain", "waits"]
        assert to_restart(it) == {"node1", "node2"}
        assert {worker.nodes["node2"].admin_state for worker in it.workers.values()} == {AdminState.DRAIN}
        row = await progress(it)
        assert (row.node, row.step, row.total, row.left, row.sessions) == ("node2", "drain", 2, 2, 8)
        report(it, node2=0)
        await trio.sleep(1)
        row = await progress(it)
        assert row.step == "drain", "it settles"
        assert row.settling_seconds == pytest.approx(1.0, abs=0.2)
        await trio.sleep(5)
        assert steps(it) == ["restart", "waits"]
        rolls(it).roller.restarted("node2")
        await trio.sleep(1)
        assert steps(it) == ["settle", "waits"]
        await trio.sleep(2)
        assert steps(it) == ["done", "drain"]
        assert to_restart(it) == {"node1"}
        states = {name: state.admin_state for name, state in it.workers[1].nodes.items()}
        assert states == {"node1": AdminState.DRAIN, "node2": AdminState.READY, "node3": AdminState.READY}
        await until_restart(it, "node1")
        rolls(it).roller.restarted("node1")
        async with aclosing(rolls(it).follow(runs=False)) as rows:
            last = [row async for row in rows][-1]
        assert (last.node, last.left, last.finished, last.reason) == (None, 0, True, None)
        await trio.sleep(1)
        assert steps(it) == ["done", "done"]
        assert not to_restart(it)
        assert await kept_roll(it) is None


async def test_an_operator_s_restart_is_seen(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with three(tmp_path) as it:
        begin(it, "node1")
        await until_restart(it, "node1")
        node = it.supervisor._cluster.get("node1")
        node.health = Health.DOWN
        await trio.sleep(1)
        assert steps(it) == ["restart"]
        node.health = Health.UP
        await trio.sleep(1)
        assert steps(it) == ["settle"]


async def test_a_command_line_that_goes_stops_it_when_it_is_needed(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with three(tmp_path) as it:
        begin(it, "node1", by_command=True)
        async with aclosing(rolls(it).follow(runs=True)) as rows:
            await anext(rows)
            with pytest.raises(ConfigError, match="another command line restarts the nodes"):
                rolls(it).roller.proceed(by_command=True)
        await trio.sleep(1)
        assert (await progress(it)).reason is None, "its drain goes on"
        report(it, node1=0)
        await trio.sleep(5)
        row = await progress(it)
        assert (row.step, row.finished, row.reason) == (
            "restart",
            True,
            "the command line that restarts the nodes is gone",
        )
        rolls(it).roller.proceed(by_command=False)
        await trio.sleep(1)
        assert not (await progress(it)).finished


async def test_it_stops_at_a_failure_and_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with three(tmp_path) as it:
        begin(it, "node1", "node2", by_command=True, deadline=10.0)
        await trio.sleep(30)
        row = await progress(it)
        assert (row.node, row.step, row.finished) == ("node1", "drain", True)
        assert row.reason == "8 of 8 sessions are left at the deadline"
        assert it.supervisor._cluster.rolling
        with pytest.raises(ConfigError, match="no node is to be restarted now: the roll is at node1, step drain"):
            rolls(it).roller.fail("no disk")
        rolls(it).roller.proceed(by_command=False)
        await until_restart(it, "node1")
        with pytest.raises(ConfigError, match="it is not the turn of 'node2' to be restarted"):
            rolls(it).roller.restarted("node2")
        rolls(it).roller.fail("no disk")
        await trio.sleep(1)
        assert (await progress(it)).reason == "restarting it has failed: no disk"
        rolls(it).roller.restarted("node1")
        await trio.sleep(4)
        assert steps(it) == ["done", "drain"]
        it.supervisor._cluster.get("node1").health = Health.DOWN
        it.supervisor.console.drains.undrain("node2")
        await trio.sleep(1)
        assert (await progress(it)).reason == "its drain was called off"
        rolls(it).roller.proceed(by_command=False)
        await trio.sleep(1)
        row = await progress(it)
        assert (row.finished, row.reason) == (False, "it waits for node1, which was restarted before and is down")
        await trio.sleep(RETURN_SECONDS)
        row = await progress(it)
        assert (row.finished, row.reason) == (True, "node1 was restarted before, and is down")


async def test_it_is_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with three(tmp_path) as it:
        with pytest.raises(ConfigError, match="no roll goes on"):
            rolls(it).roller.abort()
        begin(it, "node1", "node2")
        await trio.sleep(1)
        seen: list[RollProgress] = []

        async def watch() -> None:
            async with aclosing(rolls(it).follow(runs=False)) as rows:
                seen.extend([row async for row in rows])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.sleep(1)
            assert rolls(it).roller.abort() == "node1"
        assert (seen[-1].finished, seen[-1].left, seen[-1].reason) == (True, 2, "it was given up")
        assert seen[-1].given_up
        await trio.sleep(1)
        assert not to_restart(it)
        assert it.supervisor._drainer.drains["node1"].stage == "aborted"
        assert await kept_roll(it) is None
        begin(it, "node2")
        with pytest.raises(ConfigError, match="a roll is at node2 already"):
            begin(it, "node3")


async def test_a_command_line_of_a_roll_that_was_given_up_is_not_missed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with three(tmp_path) as it:
        begin(it, "node1", "node2", by_command=True)
        with rolls(it).roller.running_commands():
            with rolls(it).roller.running_commands():
                await trio.sleep(1)
                assert "undrain node1" in rolls(it).abort()
                begin(it, "node2", by_command=True)
            await until_restart(it, "node2")
            await trio.sleep(5)
            assert (await progress(it)).reason == "its command runs"
        await trio.sleep(1)
        assert (await progress(it)).reason == "the command line that restarts the nodes is gone"


async def test_a_node_that_is_no_longer_listed_can_t_be_made_ready(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with three(tmp_path) as it:
        begin(it, "node1", "node2")
        await trio.sleep(1)
        it.nodes.write_text("node2 10.0.0.2 check=none\nnode3 10.0.0.3 check=none\n")
        await it.supervisor.console.files.reload()
        await trio.sleep(1)
        assert rolls(it).abort() == "the roll is given up; node1 stays as it is now"


async def test_nobody_is_moved_home_meanwhile(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A rebalance that goes on is ended, and none begins."""
    async with three(tmp_path) as it:
        it.supervisor.rebalances.begin()
        begin(it, "node1")
        assert it.supervisor.rebalances.current is None
        with pytest.raises(ConfigError, match="a roll goes on"):
            it.supervisor.console.rebalances.begin()
        rolls(it).roller.abort()
        it.supervisor.console.rebalances.begin()


async def test_a_roll_that_would_refuse_logins_does_not_begin(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with three(tmp_path) as it:
        for name in ("node2", "node3"):
            it.supervisor._cluster.get(name).health = Health.DOWN
        with pytest.raises(ConfigError, match="nothing is done: while 'node1' is drained every login is refused"):
            begin(it, "node1", "node2")
        assert steps(it) == []
        with pytest.raises(ConfigError, match="no node 'node9'"):
            begin(it, "node1", "node9")


@pytest.mark.parametrize("step", ["drain", "restart"])
async def test_it_outlives_the_supervisor(step: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next one has stopped where it was, places nobody on nodes that have to go, and goes on when it is told."""
    async with three(tmp_path) as it:
        begin(it, "node1", "node2", "node3")
        await until_restart(it, "node1")
        rolls(it).roller.restarted("node1")
        await trio.sleep(4)
        if step == "restart":
            await until_restart(it, "node2")
        await trio.sleep(1)
        assert (await kept_roll(it) or {})["done"] == 1
        assert it.config.state_path.stat().st_mode & 0o777 == 0o600
    nodes = it.nodes.read_text()
    async with house(tmp_path) as it:
        it.nodes.write_text(nodes)
        await it.supervisor.console.files.reload()
        await trio.sleep(1)
        assert steps(it) == ["done", step, "waits"]
        assert to_restart(it) == {"node2", "node3"}
        row = await progress(it)
        assert (row.finished, row.reason) == (True, "the proxy was restarted")
        rolls(it).roller.proceed(by_command=False)
        await trio.sleep(1)
        assert not (await progress(it)).finished


async def test_a_node_that_has_left_the_list_stops_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with three(tmp_path) as it:
        begin(it, "node1", "node2")
        await trio.sleep(1)
        it.nodes.write_text("\n".join(THREE.splitlines()[1:]))
        await it.supervisor.console.files.reload()
        await trio.sleep(1)
        assert (await progress(it)).reason == "it is no longer in the list"
        rolls(it).roller.abort()


async def test_a_plan_is_made_of_what_there_is(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with three(tmp_path, sessions=500) as it:
        for worker in it.workers.values():
            worker.plan = DrainForecast(500, 100, 0, {"node2": 250, "node3": 250}, migrate=7)
        plan = await rolls(it).plan(("node1", "node2", "node3"), rate=100.0)
        assert plan == RollPlan(
            [
                ForetoldRestart("node1", 1000, 14.0),
                ForetoldRestart("node2", 1500, 19.0),
                ForetoldRestart("node3", 1500, 19.0),
            ],
            sessions=3000,
            moves=4000,
            rate=100.0,
            seconds=52.0,
            migrate=42,
        )
        assert steps(it) == []
        hurried = await rolls(it).plan(("node1",), deadline=3.0)
        assert hurried.nodes == [ForetoldRestart("node1", 1000, 7.0)]
