"""The answers to an operator about a drain and its end: that it takes the last node, how far it is, who comes back
when.

Time is trio's mock clock."""

from __future__ import annotations

import logging
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from fake_workers import house
from trio.testing import MockClock

from cxfr_proxy.admin.rows.rows import TransferRow
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.rebalance import RebalanceForecast
from cxfr_proxy.config.table import RebalanceMode
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import TextFormatter
from cxfr_proxy.ipc.messages import Present, SessionsChanged, TransferEnded
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.statistics import PastTransfer, TransferKind, TriedRung


@pytest.mark.parametrize(
    ("nodes", "domains", "unserved"),
    [
        ("a h\nb h", (), None),
        ("a h", (), ()),
        ("a h\nb h state=drain", (), ()),
        ("a h\nb h state=maint\nc h weight=0", (), ()),
        ("a h state=drain", (), None),
        ("a h weight=0", (), None),
        ("a h domain=x.test,y.test\nb h domain=y.test", (), ("x.test",)),
        ("a h domain=x.test\nb h", (), None),
        ("a h\nb h domain=y.test", ("x.test", "y.test", "z.test"), ("x.test", "z.test")),
        ("a h\nb h domain=y.test", (), None),
        ("a h priority=0\nb h priority=1", (), None),
    ],
)
def test_whose_logins_nobody_would_take(nodes: str, domains: tuple[str, ...], unserved: tuple[str, ...] | None) -> None:
    cluster = Cluster(parse_nodes(nodes, "nodes.txt"))
    assert cluster.unserved_without("a", domains) == unserved


def test_a_node_that_is_down_is_none() -> None:
    cluster = Cluster(parse_nodes("a h\nb h", "nodes.txt"))
    cluster.get("b").health = Health.DOWN
    assert cluster.unserved_without("a") == ()


async def test_it_takes_force(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console
        assert (await console.drains.plan("node2")).refuses_logins is None
        console.drains.begin("node1")
        assert (await console.drains.plan("node2")).refuses_logins == "every login"
        with pytest.raises(ConfigError, match=r"while 'node2' is drained every login is refused, .* --force"):
            console.drains.begin("node2")
        assert it.supervisor._cluster.get("node2").admin_state is AdminState.READY
        console.drains.begin("node1", deadline=60.0)  # which takes nobody as it is
        console.drains.begin("node2", force=True)
        console.drains.begin("node2", deadline=60.0)
        assert [(row.drain, row.admin_state) for row in await console.nodes.rows()] == [("awake", "drain")] * 2


async def test_how_far_a_drain_is(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        console = it.supervisor.console

        async def stage() -> tuple[str | None, str | None]:
            row = (await console.nodes.rows())[0]
            return row.drain, row.drain_reason

        assert await stage() == (None, None)
        it.workers[1].report(node1=NodeCounts(sessions=1))
        console.drains.begin("node1", grace=10.0, deadline=60.0)
        assert await stage() == ("grace", None)
        for seconds, expected in ((11, "awake"), (20, "all"), (30, "rest")):
            await trio.sleep(seconds)
            assert await stage() == (expected, None)
        console.drains.abort("node1")
        assert await stage() == ("aborted", None)
        it.workers[1].report(node1=NodeCounts())
        console.drains.begin("node1")
        await trio.sleep(1)
        assert await stage() == ("done", None)
        console.drains.undrain("node1")
        assert await stage() == (None, None)


async def test_who_was_moved_by_one_worker_is_back_by_another(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    moved = PastTransfer("node1", Trigger.DRAIN, "Gajim", (TriedRung(Rung.RESET, Outcome.MOVED),), 0.2)
    async with house(tmp_path) as it:
        console, first, second = it.supervisor.console, it.workers[1], it.workers[2]
        console.drains.begin("node1")
        for number, user in enumerate(("kim", "lee")):
            first.post(TransferEnded(moved, 2 * number + 1, f"{user}@h/r"))
        await trio.sleep(3)
        second.post(SessionsChanged((Present(2, None, "node2", "192.0.2.1", 1, 0.0),), ()))
        await trio.sleep(1)
        assert it.supervisor.workers.of_node("node1").returned == 0
        second.post(SessionsChanged((Present(2, "kim@h/r", "node2", "192.0.2.1", 1, 1.0),), (99,)))
        await trio.sleep(1)
        second.transfers = [
            TransferRow(session, "j", "node1", None, "reset", outcome, 9.0, 0.2, "drain")
            for session, outcome in ((1, "moved"), (3, "moved"), (1, "refused"))
        ]
        seconds = [row.returned_seconds for row in await console.sessions.transfer_rows()]
        assert seconds == [pytest.approx(4, abs=0.1), None, None]
        assert [row.returned for row in await console.nodes.rows()] == [1, 0]
        async with aclosing(console.drains.follow("node1")) as rows:
            assert (await anext(rows)).returned == 1
        console.drains.undrain("node1")
        console.drains.begin("node1")
        async with aclosing(console.drains.follow("node1")) as rows:
            assert (await anext(rows)).returned == 0, "of this drain"
        statistics = it.supervisor.workers.statistics
        kind = TransferKind(Trigger.DRAIN, "Gajim", Rung.RESET, Outcome.MOVED)
        assert list(statistics.transfers()) == [("node1", kind, 2)]
        assert list(statistics.returns()) == [("node1", kind, 1)]
        assert sum(statistics.absences[Rung.RESET].counts) == 1
    [record] = [record for record in caplog.records if record.msg == "returned"]
    line = TextFormatter().format(record).partition("returned ")[2]
    assert line == "session=2 jid=kim@h/r node=node2 moved_session=1 source=node1 rung=reset seconds=4"


async def test_what_follows_from_an_undrain(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path, RebalanceMode.AUTO) as it:
        console = it.supervisor.console
        for excused in (True, False):
            console.drains.begin("node1")
            await trio.sleep(10)
            it.all[0].rebalance = RebalanceForecast({"node2": {"node1": 5}}, held=2)
            console.drains.undrain("node1", rebalance=not excused)
            row = await console.rebalances.plan_return("node1")
            assert (row.to_move, row.held, row.up) == (5, 2, True)
            assert row.begins_in == pytest.approx(5.0, abs=0.1)
            await trio.sleep(10)
            last = it.supervisor.rebalances.last
            assert (last is None) == excused
