"""The supervisor in front of workers that say what the test lets them say, over memory streams; time is trio's mock
clock. And the worker's own side of the pace."""

from __future__ import annotations

import logging
import socket
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
from fake_workers import FakeChannel, FakeWorker, House, house
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.cluster.health import FAILED_LOGINS
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState, Health, SessionOutlook
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import TextFormatter
from cxfr_proxy.ipc.messages import (
    Elsewhere,
    Grant,
    Message,
    NodeFailsLogins,
    NodeServes,
    NodeUnreachable,
    Present,
    PutBack,
    SessionsChanged,
    Stop,
    Want,
)
from cxfr_proxy.net.connection_limit import ConnectionLimit
from cxfr_proxy.proxy import only
from cxfr_proxy.supervisor.workers.grants import Grants
from cxfr_proxy.supervisor.workers.link import Link
from cxfr_proxy.transfers.client_news import AnyClientNews, Lost, SessionResumable, UserRedirected
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.pace import OwnPace
from cxfr_proxy.worker.ports import GrantedTokens, HealthReporter
from cxfr_proxy.worker.reporter import Reporter
from cxfr_proxy.xmpp.stream_management import Resumption


async def test_what_a_worker_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        first, second = it.workers[1], it.workers[2]
        assert (first.setup.first_id, second.setup.first_id, first.setup.workers) == (1, 2, 2)
        assert first.setup.taking == second.setup.taking
        assert first.setup.taking.files.development is not None
        it.supervisor.console.drains.begin("node1")
        first.post(NodeUnreachable("node2", "connection refused"))
        first.post(UserRedirected("romeo@example.org"))
        await trio.sleep(1)
        for worker in (first, second):
            assert worker.nodes["node1"].admin_state is AdminState.DRAIN
            assert worker.nodes["node2"].health is Health.DOWN
        assert second.news_of(UserRedirected) == [UserRedirected("romeo@example.org")]
        assert not first.news_of(UserRedirected)
        first.report(node1=NodeCounts(sessions=3))
        await trio.sleep(1)
        assert second.of(Elsewhere)[-1] == Elsewhere({"node1": 3}, {}, {"node1": 3})
        assert first.of(Elsewhere)[-1] == Elsewhere({"node1": 0}, {}, {"node1": 0})
        first.report(node2=NodeCounts(sessions=2))
        await trio.sleep(1)
        assert second.of(Elsewhere)[-1] == Elsewhere({"node2": 2}, {}, {"node2": 2}), "of node1 nothing is new"


async def test_sums_and_a_death(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Totals never go back; its sessions are gone, and counted; the next one is there at once and knows everything."""
    async with house(tmp_path) as it:
        it.workers[1].report(node1=NodeCounts(sessions=3, asked=5, moved=4))
        it.workers[2].report(node1=NodeCounts(sessions=2, asked=1, moved=1, forged=1))
        it.supervisor.console.drains.begin("node2")
        await trio.sleep(5)
        assert it.supervisor.workers.of_node("node1") == NodeCounts(sessions=5, asked=6, moved=5, forged=1)
        died = trio.current_time()
        it.workers[1].die()
        await trio.sleep(0.01)
        assert it.launched[-1] - died < 0.01
        assert it.supervisor.workers.of_node("node1") == NodeCounts(sessions=2, asked=6, moved=5, forged=1)
        assert it.supervisor.workers.totals().ended["worker-died"] == 3
        assert len(it.all) == 3
        new = it.workers[1]
        assert new.nodes["node2"].admin_state is AdminState.DRAIN
        assert new.setup.first_id > 10_000
        assert [row.deaths for row in await it.supervisor.console.workers.rows()] == [1, 0]


async def test_what_concerns_resumptions_goes_to_the_other_workers(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        first, second = it.workers[1], it.workers[2]
        said: list[AnyClientNews] = [
            SessionResumable("ours", Resumption("romeo@example.org/r", "node1", "theirs"), "192.0.2.1"),
            Lost("romeo@example.org", "192.0.2.1", "node1"),
        ]
        for message in said:
            first.post(message)
        await trio.sleep(1)
        assert second.news_of(SessionResumable, Lost) == said
        assert not first.news_of(SessionResumable, Lost)


async def drained(it: House, node: str) -> bool:
    async with aclosing(it.supervisor.console.drains.follow(node)) as progress:
        return (await anext(progress)).finished


async def test_each_session_that_goes_with_its_worker_is_told_of(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with house(tmp_path) as it:
        one, two, three = (
            Present(number, None, "node1", "192.0.2.1", 40000 + number, seconds=2.0) for number in (1, 3, 5)
        )
        it.workers[1].post(SessionsChanged((one, two, three), (99,)))
        it.workers[2].post(SessionsChanged((replace(one, session=2),), ()))
        await trio.sleep(1)
        it.workers[1].post(SessionsChanged((replace(two, full_jid="kim@example.org/r", seconds=3.0),), (5,)))
        await trio.sleep(4)
        it.workers[1].die()
        await trio.sleep(1)
    lines = [TextFormatter().format(record) for record in caplog.records if record.msg == "session-end"]
    assert [line.partition("session-end ")[2] for line in lines] == [
        "session=1 node=node1 reason=worker-died client=192.0.2.1 port=40001 seconds=7",
        "session=3 jid=kim@example.org/r node=node1 reason=worker-died client=192.0.2.1 port=40003 seconds=7",
    ]


@pytest.mark.parametrize("empty", [False, True])
async def test_the_drain_of_a_node_whose_line_is_gone_ends_in_the_log(
    empty: bool, tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Although the node is forgotten the moment it is empty, or was never anything else."""
    caplog.set_level(logging.INFO)
    async with house(tmp_path) as it:
        if not empty:
            it.workers[1].report(node1=NodeCounts(sessions=1))
            await trio.sleep(1)
        it.nodes.write_text("node2 10.0.0.2 check=none\n")
        await it.supervisor.console.files.reload()
        it.workers[1].report(node1=NodeCounts(moved=1))
        await trio.sleep(1)
    assert [message for message in caplog.messages if message.startswith("drain-")] == ["drain-begins", "drain-ends"]


@pytest.mark.parametrize("removed", [False, True])
async def test_a_drain_ends_when_no_worker_waits_for_anybody(
    removed: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nor is a node forgotten before, whose line is gone."""
    async with house(tmp_path) as it:
        console = it.supervisor.console
        it.workers[1].report(node1=NodeCounts(sessions=1))
        await trio.sleep(1)
        if removed:
            it.nodes.write_text("node2 10.0.0.2 check=none\n")
            await it.supervisor.console.files.reload()
        else:
            console.drains.begin("node1")
        it.workers[1].report(node1=NodeCounts(moved=1), awaited={"node1": 1})
        await trio.sleep(1)
        assert not await drained(it, "node1")
        it.workers[1].report(node1=NodeCounts(moved=1), awaited={})
        await trio.sleep(1)
        if removed:
            assert [row.name for row in await console.nodes.rows()] == ["node2"]
        else:
            assert await drained(it, "node1")


async def test_workers_that_die_at_once_come_back_slower_and_slower(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        it.launched.clear()
        for _ in range(9):
            it.workers[1].die()
            before = len(it.launched)
            while len(it.launched) == before:  # noqa: ASYNC110 - what is waited for is the supervisor's to do
                await trio.sleep(0.05)
            await trio.sleep(0.01)
        pauses = [later - earlier for earlier, later in zip(it.launched, it.launched[1:], strict=False)]
        assert pauses == sorted(pauses)
        assert 8 < pauses[-1] < 11
        await trio.sleep(5)  # it lives: the next death is no habit
        died = trio.current_time()
        it.workers[1].die()
        await trio.sleep(0.01)
        assert it.launched[-1] - died < 0.01


async def test_no_worker_begins(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        it = House(tmp_path, nursery)
        it.greet = False
        raised: list[BaseException] = []

        @nursery.start_soon
        async def run() -> None:
            try:
                await it.supervisor.run()
            except BaseExceptionGroup as group:
                raised.append(only(group))

        await trio.sleep(1)
        it.all[0].die(2)
        await trio.sleep(1)
        assert [(type(exc), "exit code 2" in str(exc)) for exc in raised] == [(ConfigError, True)]
        nursery.cancel_scope.cancel()


async def test_stopping(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        it = House(tmp_path, nursery)
        done = trio.Event()

        @nursery.start_soon
        async def run() -> None:
            await it.supervisor.run()
            done.set()

        await trio.sleep(1)
        it.supervisor.stop()
        with trio.fail_after(1):
            await done.wait()
        assert len(it.all) == 2, "nobody is replaced"
        assert all(worker.of(Stop) for worker in it.all)


async def test_a_worker_that_does_not_stop_is_killed(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stay(worker: FakeWorker, cut: bool) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(FakeWorker, "_end", stay)
    async with trio.open_nursery() as nursery:
        it = House(tmp_path, nursery)
        nursery.start_soon(it.supervisor.run)
        await trio.sleep(1)
        it.supervisor.stop()
        await trio.sleep(20)
        assert not it.workers
        nursery.cancel_scope.cancel()


async def test_a_worker_that_talks_nonsense_is_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        before = it.workers[2]
        before.post(Stop())  # not a worker's to say
        await trio.sleep(1)
        assert it.workers[2] is not before


# --- pace


async def test_one_bucket_for_all(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Two workers with a hundred sessions each: half a second's worth at once, then ten a second, fairly."""
    async with house(tmp_path) as it:
        start = trio.current_time()
        for worker in it.workers.values():
            worker.post(Want(0, 100, 0))
        await trio.sleep(9.95)
        times = sorted(at - start for worker in it.all for at, message in worker.heard if isinstance(message, Grant))
        assert len(times) == 5 + 99
        for index, at in enumerate(times):
            assert at == pytest.approx(max(0.0, (index - 4) / 10), abs=0.02)
        each = [len(worker.of(Grant)) for worker in it.all]
        assert abs(each[0] - each[1]) <= 1


async def test_who_has_no_node_goes_first(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        it.workers[1].post(Want(0, 1000, 0))
        await trio.sleep(1)
        it.workers[2].post(Want(20, 0, 0))
        await wait_all_tasks_blocked()
        before = len(it.workers[1].of(Grant))
        await trio.sleep(1.9)
        assert len(it.workers[1].of(Grant)) == before
        assert len(it.workers[2].of(Grant)) in (18, 19, 20)


async def test_who_is_in_a_hurry_goes_before_many_who_are_not(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The sessions of a late drain, of which this worker has few."""
    async with house(tmp_path) as it:
        it.workers[1].post(Want(0, 1000, 0))
        await trio.sleep(1)
        it.workers[2].post(Want(0, 20, 0, hurried=20))
        await wait_all_tasks_blocked()
        before = len(it.workers[1].of(Grant))
        await trio.sleep(1.9)
        assert len(it.workers[1].of(Grant)) == before
        assert len(it.workers[2].of(Grant)) in (18, 19, 20)


class Unheard:
    def on_message(self, link: Link, message: Message) -> None:
        pass


async def test_tokens_that_come_back_are_used(autojump_clock: MockClock) -> None:
    link = Link(1, Unheard(), 1.0)
    grants = Grants([link], OwnPace(1.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(grants.run)
        link.want = Want(0, 1, 0)
        grants.wanted()
        await wait_all_tasks_blocked()
        assert link.granted == 1
        grants.put_back(1)
        link.want = Want(0, 1, 1)
        grants.wanted()
        await wait_all_tasks_blocked()
        assert link.granted == 2, "at once: the bucket is as full as before"
        nursery.cancel_scope.cancel()


async def test_tokens_that_are_not_used_do_not_pile_up(autojump_clock: MockClock) -> None:
    """A worker whose logins take long would use them all at once; the others need them now."""
    stuck, other = Link(1, Unheard(), 1.0), Link(2, Unheard(), 1.0)
    grants = Grants([stuck, other], OwnPace(10.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(grants.run)
        stuck.want = Want(0, 1000, 0)
        grants.wanted()
        await trio.sleep(60)
        assert stuck.granted == 5
        other.want = Want(0, 1000, 0)
        grants.wanted()
        await wait_all_tasks_blocked()
        assert (stuck.granted, other.granted) == (5, 5)
        stuck.want = Want(0, 999, 1)
        grants.wanted()
        await trio.sleep(1)
        assert (stuck.granted, other.granted) == (6, 5)
        nursery.cancel_scope.cancel()


async def test_the_workers_side_of_the_pace() -> None:
    channel = FakeChannel()
    said, pace = channel.posted, GrantedTokens(Reporter(channel))
    pace.queued(lost=0, leaving=1, hurried=0, misplaced=0)
    pace.queued(lost=1, leaving=2, hurried=1, misplaced=0)
    await wait_all_tasks_blocked()
    assert said == [Want(1, 2, 0, hurried=1)], "many in one word"
    pace.grant(3)
    await pace.wait()
    pace.spend()
    pace.queued(lost=1, leaving=1, hurried=1, misplaced=0)
    await pace.wait()
    await wait_all_tasks_blocked()
    assert said[1:] == [Want(1, 1, 1, hurried=1)], "that one is used"
    pace.rest()
    assert said[2:] == [PutBack(2), Want(0, 0, 3)]
    pace.grant(1)  # it was under way
    assert said[4:] == [PutBack(1), Want(0, 0, 4)]


async def test_a_worker_tells_of_logins_what_is_news(autojump_clock: MockClock) -> None:
    channel = FakeChannel()
    said, told = channel.posted, HealthReporter(Reporter(channel))
    a, b, hasty = Cluster(parse_nodes("a 10.0.0.1 inter=10s\nb 10.0.0.2\nc 10.0.0.3 check-timeout=1s", "nodes.txt"))
    for node in (a, b, a, a):
        told.login_worked(node, "example.org")
    assert said == [NodeServes("a", "example.org"), NodeServes("b", "example.org")]
    said.clear()
    told.login_failed(a, "reset")
    told.login_worked(b, "example.org")
    told.login_worked(a, "example.org")
    told.login_worked(a, "example.org")
    assert said == [NodeFailsLogins("a", "reset"), NodeServes("a", "example.org")]
    said.clear()
    for _ in range(40):
        await trio.sleep(0.125)
        told.login_worked(a, "example.org")
    assert said == [NodeServes("a", "example.org")] * 5, "a node is known to be alive, each second"
    said.clear()
    for _ in range(40):
        await trio.sleep(0.125)
        told.login_worked(hasty, "example.org")
    assert said == [NodeServes("c", "example.org")] * 20, "four times while a check waits"
    assert len(told._told) == 1, "what was told before is forgotten"


async def test_logins_that_fail_are_counted_over_all_workers(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with house(tmp_path) as it:
        first, second = it.workers[1], it.workers[2]

        async def fail(times: int) -> None:
            for number in range(times):
                (first, second)[number % 2].post(NodeFailsLogins("node1", "internal-server-error"))
                await trio.sleep(0.01)

        await fail(FAILED_LOGINS - 1)
        second.post(NodeServes("node1", "example.org"))
        await trio.sleep(0.01)
        await fail(FAILED_LOGINS - 1)
        assert second.nodes["node1"].health is Health.UP
        await fail(1)
        assert (first.nodes["node1"].health, first.nodes["node1"].session_outlook) == (Health.DOWN, SessionOutlook.GOOD)


# --- room


async def test_room(autojump_clock: MockClock) -> None:
    room = ConnectionLimit(2)
    entered: list[float] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def accept() -> None:
            for _ in range(3):
                await room.wait()
                room.enter()
                entered.append(trio.current_time())

        await wait_all_tasks_blocked()
        assert (len(entered), room.waited) == (2, 1)
        room.leave()
        await wait_all_tasks_blocked()
        assert (len(entered), room.taken) == (3, 2)


def _listens(worker: FakeWorker) -> bool:
    return all(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in worker.listening)


async def test_nobody_connects_to_a_slot_where_no_worker_can_be_started(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its sockets would get their share of the connections, which would hang."""
    async with house(tmp_path) as it:
        first, second = it.workers[1], it.workers[2]
        assert _listens(first)
        it.refuse = OSError("no room")
        first.die()
        await trio.sleep(3)
        assert not _listens(first)
        assert _listens(second)
        it.refuse = None
        await trio.sleep(30)
        assert it.workers[1] is not first
        assert _listens(it.workers[1])
