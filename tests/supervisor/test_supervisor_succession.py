"""A supervisor that takes the place of another one, which a test plays; and one whose place is taken."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from fake_manager import FakeManager
from fake_workers import House, house
from waiting import until

from cxfr_proxy.admin.control.client import Result, call
from cxfr_proxy.admin.metrics.snapshot import MetricsSnapshot, ProcessFigures
from cxfr_proxy.admin.metrics.table import METRICS
from cxfr_proxy.admin.rows.rows import EventRow, HistoryRow, WorkerRow
from cxfr_proxy.cluster.kept_state import KeptState
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.shared import Directive
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.file_lock import FileLock, FileLocked
from cxfr_proxy.ipc.messages import EarlierNews
from cxfr_proxy.net.listen import bind_shared
from cxfr_proxy.process_figures import ProcessCost
from cxfr_proxy.proxy import only
from cxfr_proxy.service_manager import ServiceManager
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.supervisor.orders.state_keeper import StateFile, StateKeeper
from cxfr_proxy.supervisor.upgrading.handover import (
    HANDOVER_VERSION,
    GivenSocket,
    HandedOver,
    HandoverBegins,
    HandoverMessage,
    PredecessorCounts,
    PredecessorEvents,
    PredecessorLeaves,
    SuccessorReady,
    SuccessorServes,
    SuccessorStops,
    encode_handover,
    handover_channel,
)
from cxfr_proxy.supervisor.upgrading.predecessor import Predecessor
from cxfr_proxy.supervisor.upgrading.successor import Program, UpgradeRun
from cxfr_proxy.supervisor.workers.catch_up import CatchUp
from cxfr_proxy.transfers.client_news import ClientNews, Lost, SessionResumable
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.statistics import PastTransfer, Totals, TransferStatistics, TriedRung
from cxfr_proxy.xmpp.stream_management import Resumption

STATE = KeptState().encode().decode()
HISTORY = (msgspec.Raw(msgspec.json.encode(HistoryRow("2026-01-01T00:00:00Z", 10.0, 3, 2, 0, 0, 0, 0, 0))),)
EVENT = EventRow("2026-01-01T00:00:00Z", "WARNING", "node-down", 1, "supervisor", "node=node1")
FIGURES = ProcessFigures(0.0, ProcessCost())
PROGRAM = Program(["/bin/false"], [], {})
MOVED = PastTransfer("node1", Trigger.DRAIN, "Gajim", (TriedRung(Rung.CXFR, Outcome.MOVED),), 0.3)


class OldProxy:
    """What the test says as the proxy that ran before, and what it hears."""

    def __init__(
        self,
        counts: PredecessorCounts | None = None,
        state: str = STATE,
        state_lock: int | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        ours, theirs = socket.socketpair()
        given = tuple(GivenSocket(sock.dup().detach()) for sock in sockets)
        counts = counts or PredecessorCounts()
        begins = HandoverBegins(HANDOVER_VERSION, 4711, given, (), state, 4000, counts, state_lock)
        ours.sendall(encode_handover(begins))
        self.predecessor = Predecessor(theirs)
        self.channel = handover_channel(ours)
        self.heard: list[HandoverMessage] = []
        self.life = trio.CancelScope()

    async def run(self) -> None:
        with self.life:
            await self.channel.run(self.heard.append)

    def has_heard(self, kind: type[HandoverMessage]) -> bool:
        return any(isinstance(each, kind) for each in self.heard)

    def leave(self) -> None:
        self.channel.post(PredecessorLeaves())

    def hand_over(self, statistics: TransferStatistics | None = None, **changed: Any) -> None:
        record = msgspec.to_builtins((statistics or TransferStatistics()).record()) | changed
        statistics_now = msgspec.Raw(msgspec.json.encode(record))
        self.channel.post(HandedOver(STATE, statistics_now, {}, {"node1": 7, "node9": 1}, HISTORY))


@asynccontextmanager
async def successor(
    tmp_path: Path,
    old: OldProxy,
    http: ListenAddress | None = None,
    manager: ServiceManager | None = None,
    nodes: str | None = None,
) -> AsyncIterator[tuple[House, list[BaseException | None]]]:
    """A house that takes the place of ``old``, and how it has ended."""
    ends: list[BaseException | None] = []

    async def run() -> None:
        try:
            await it.supervisor.run()
        except BaseExceptionGroup as group:
            ends.append(only(group))
        except ConfigError as exc:
            ends.append(exc)
        else:
            ends.append(None)

    async with trio.open_nursery() as nursery:
        it = House(tmp_path, nursery, manager=manager, predecessor=old.predecessor, program=PROGRAM, http=http)
        if nodes is not None:
            it.nodes.write_text(nodes)
        nursery.start_soon(old.run)
        nursery.start_soon(run)
        yield it, ends
        nursery.cancel_scope.cancel()


async def test_what_can_not_be_had_is_known_before_the_old_one_gives_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        old = OldProxy()
        async with successor(tmp_path, old, ListenAddress("127.0.0.1", taken.getsockname()[1])) as (_, ends):
            await until(lambda: ends or old.has_heard(SuccessorReady))
            assert "Address already in use" in str(ends[0])
            assert not old.has_heard(SuccessorReady)
    assert not (tmp_path / "c.sock").exists()


async def test_one_that_is_told_to_stop_takes_nothing_over(tmp_path: Path) -> None:
    old = OldProxy()
    async with successor(tmp_path, old) as (it, ends):
        it.greet = False
        await until(lambda: len(it.all) == 2 and all(each.pieces for each in it.all))
        it.supervisor.stop()
        for worker in it.all:
            worker.greet()
        await until(lambda: ends or old.has_heard(SuccessorReady))
        assert "it was told to stop" in str(ends[0])
        assert not old.has_heard(SuccessorReady)


async def test_one_whose_workers_have_died_takes_nothing_over(tmp_path: Path) -> None:
    """Nobody would accept; the old one goes on instead."""
    old = OldProxy()
    async with successor(tmp_path, old) as (it, ends):
        await until(lambda: old.has_heard(SuccessorReady))
        it.greet = False
        for worker in it.all:
            worker.die()
        await until(lambda: len(it.all) == 4)
        old.hand_over()
        await until(lambda: ends or old.has_heard(SuccessorServes))
        assert "not all of its workers live" in str(ends)
        assert not old.has_heard(SuccessorServes)
    assert not (tmp_path / "c.sock.state").exists()


async def test_an_order_waits_until_the_old_one_has_left(tmp_path: Path) -> None:
    """It may go on instead, and would know nothing of it."""
    old = OldProxy()
    async with successor(tmp_path, old) as (it, _):
        await until(lambda: old.has_heard(SuccessorReady))
        old.hand_over()
        await until(lambda: old.has_heard(SuccessorServes))
        async with trio.open_nursery() as ordering:
            ordering.start_soon(drain, it)
            await trio.sleep(0.2)
            assert "node1" not in it.supervisor._drainer.drains
            old.leave()
        assert "node1" in it.supervisor._drainer.drains


async def drain(it: House) -> None:
    async with aclosing(call(it.config.control, "drain", {"node": "node1"})) as answers:
        assert [each async for each in answers if isinstance(each, Result)]


async def test_while_the_old_one_may_go_on_its_sockets_listen(tmp_path: Path) -> None:
    """To stop one of them, while a worker that has died is not there again, would stop the old one's as well."""
    sockets = [sock for slot in bind_shared([ListenAddress("127.0.0.1", 0)], 2) for sock in slot]
    old = OldProxy(sockets=sockets)
    async with successor(tmp_path, old) as (it, ends):
        await until(lambda: old.has_heard(SuccessorReady))
        old.hand_over()
        await until(lambda: old.has_heard(SuccessorServes))
        it.workers[1].die()
        seen: set[int] = set()
        while len(it.all) < 3:
            seen |= {sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in sockets}
            await trio.sleep(0.005)
        assert (seen, ends) == ({1}, [])
    for sock in sockets:
        sock.close()


async def test_a_second_upgrade_waits_and_a_stop_ends_both(tmp_path: Path) -> None:
    old = OldProxy()
    async with successor(tmp_path, old) as (it, ends):
        await until(lambda: old.has_heard(SuccessorReady))
        old.hand_over()
        await until((tmp_path / "c.sock.state").exists)  # it is written by who has taken over
        with pytest.raises(ConfigError, match="the process before this one still moves its clients"):
            it.supervisor.upgrades.begin()
        it.supervisor.stop()
        await until(lambda: old.has_heard(SuccessorStops) and not any(each.alive for each in it.all))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not ends, "a service manager would kill the old one with its clients"
        old.life.cancel()
        await until(lambda: ends)
        assert ends == [None]


async def test_afterwards_it_can_be_replaced(tmp_path: Path) -> None:
    old = OldProxy()
    async with successor(tmp_path, old) as (it, _):
        await until(lambda: old.has_heard(SuccessorReady))
        old.hand_over()
        await until((tmp_path / "c.sock.state").exists)  # it is written by who has taken over
        old.life.cancel()
        await until(old.predecessor.gone.is_set)
        it.supervisor.upgrades.begin()
        upgrade = it.supervisor.upgrades.last
        assert upgrade is not None
        await until(lambda: upgrade.finished)


async def test_statistics_that_can_not_be_added_are_left_out(tmp_path: Path) -> None:
    old = OldProxy()
    async with successor(tmp_path, old) as (it, ends):
        await until(lambda: old.has_heard(SuccessorReady))
        old.hand_over(durations={"cxfr": {"counts": [1, 2], "seconds": 1.0}})
        await until((tmp_path / "c.sock.state").exists)  # it is written by who has taken over
        counts = json.loads(encode_handover(PredecessorCounts(3, 3)))
        counts["totals"]["login_seconds"] = {"counts": [1, 2], "seconds": 1.0}
        counts["totals"]["logins"] = [1]
        old.channel.post(msgspec.json.decode(json.dumps(counts), type=PredecessorCounts))
        await until(lambda: it.supervisor.workers.sessions == 3)
        assert it.supervisor.workers.totals().logins == [0, 0, 0, 0]
        assert not ends


async def test_clients_that_have_returned_are_counted_on(tmp_path: Path) -> None:
    before = TransferStatistics()
    before.add(MOVED)
    before.add_return(MOVED, 2.0, resumed=True)
    old = OldProxy(PredecessorCounts(nodes={"node1": NodeCounts(moved=1, returned=1)}))
    async with successor(tmp_path, old) as (it, _):
        await until(lambda: old.has_heard(SuccessorReady))
        assert it.supervisor.workers.of_node("node1").returned == 1
        old.hand_over(before)
        await until((tmp_path / "c.sock.state").exists)  # it is written by who has taken over
        assert it.supervisor.workers.of_node("node1").returned == 1


async def test_what_is_counted_and_was_seen_goes_on(tmp_path: Path) -> None:
    """Failed checks of nodes that are still there, the last hour, and events, which say whose they were."""
    old = OldProxy()
    async with successor(tmp_path, old) as (it, _):
        await until(lambda: old.has_heard(SuccessorReady))
        old.channel.post(PredecessorEvents((msgspec.Raw(msgspec.json.encode(EVENT)), msgspec.Raw(b"{}"))))
        old.hand_over()
        await until(lambda: old.has_heard(SuccessorServes))
        rows = {row.name: row.checks_failed for row in await it.supervisor.console.nodes.known_rows()}
        assert rows == {"node1": 7, "node2": 0}
        assert [row.sessions for row in it.supervisor.console.history.rows()] == [3]
        earlier = it.supervisor._management.about.known_events()[0]
        assert (earlier.event, earlier.process) == ("node-down", "supervisor of 4711")


async def test_workers_of_both_are_shown_and_each_slot_is_counted_once(tmp_path: Path) -> None:
    rows = [WorkerRow(number, 900 + number, "leaving", 4, 5, deaths=3, cpu_seconds=9.0) for number in (1, 2, 3)]
    old = OldProxy()
    async with successor(tmp_path, old) as (it, _):
        await until(lambda: old.has_heard(SuccessorReady))
        written = tuple(msgspec.Raw(msgspec.json.encode(row)) for row in rows)
        old.channel.post(PredecessorCounts(12, 15, workers=(*written, msgspec.Raw(b"{}"))))
        old.hand_over()
        await until(lambda: old.has_heard(SuccessorServes))
        shown = it.supervisor.workers.worker_rows()
        assert [(row.number, row.main_pid) for row in shown] == [(1, 4711), (2, 4711), (3, 4711), (1, None), (2, None)]
        assert sum(row.connections for row in shown) == 15
        metric = next(each for each in METRICS if each.name == "cxfr_worker_deaths_total")
        snapshot = MetricsSnapshot({}, [], shown, [], {}, Totals(), TransferStatistics(), 0, 0, FIGURES)
        assert dict(metric.samples(snapshot)) == {("1",): 0, ("2",): 0}
        old.life.cancel()
        await until(lambda: len(it.supervisor.workers.worker_rows()) == 2)


async def test_a_node_that_settles_goes_on_settling(tmp_path: Path) -> None:
    """Its last client has left it a second ago, in the process before."""
    kept = KeptState(orders={"node1": Directive(AdminState.DRAIN, grace_end=0.0)}).encode().decode()
    old = OldProxy(PredecessorCounts(last_moves={"node1": 1.0}), kept)
    nodes = "node1 10.0.0.1 check=none settle=1h\nnode2 10.0.0.2 check=none settle=1h\n"
    async with successor(tmp_path, old, nodes=nodes) as (it, _):
        await until(lambda: old.has_heard(SuccessorReady))
        assert not it.supervisor._drainer.is_done("node1")
        seconds = it.supervisor._drainer.drains["node1"].settling_seconds(trio.current_time())
        assert seconds is not None
        assert 0 < seconds <= 3599


async def test_the_lock_of_the_state_file_is_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "c.sock.state.lock"
    lock = FileLock.take(str(path))
    old = OldProxy(state_lock=os.dup(lock.descriptor))
    async with successor(tmp_path, old) as (_, ends):
        await until(lambda: ends or old.has_heard(SuccessorReady))
        assert not ends
        lock.close()  # the old one has ended
        with pytest.raises(FileLocked):
            FileLock.take(str(path))
        old.hand_over()
        await until(lambda: old.has_heard(SuccessorServes))
        assert int(path.read_text()) == os.getpid(), "an operator who finds it locked is told by whom"


async def test_a_file_that_another_proxy_keeps_is_known_before_the_old_one_gives_up(tmp_path: Path) -> None:
    lock = FileLock.take(str(tmp_path / "c.sock.state.lock"))
    old = OldProxy()
    async with successor(tmp_path, old) as (_, ends):
        await until(lambda: ends or old.has_heard(SuccessorReady))
        assert "another proxy keeps its state in this file" in str(ends[0])
        assert not old.has_heard(SuccessorReady)
    lock.close()


async def test_a_full_disk_is_no_reason_not_to_take_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(file: StateFile, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateFile, "write", write)
    old = OldProxy()
    async with successor(tmp_path, old) as (it, ends):
        await until(lambda: old.has_heard(SuccessorReady))
        old.hand_over()
        await until(lambda: old.has_heard(SuccessorServes))
        it.supervisor._drainer.drain("node1")
        it.supervisor._kept.keep_order("node1", Directive(AdminState.DRAIN))
        assert "No space left on device" in str(await it.supervisor._kept.settle())
        assert not ends


@pytest.mark.parametrize("leaves", [True, False])
async def test_one_whose_predecessor_dies_as_it_takes_over_is_the_proxy(leaves: bool, tmp_path: Path) -> None:
    """Nobody else is."""
    old = OldProxy()
    async with successor(tmp_path, old) as (it, ends):
        await until(lambda: old.has_heard(SuccessorReady))
        old.hand_over()
        await until(lambda: old.has_heard(SuccessorServes))
        if leaves:
            old.leave()
            await old.channel.flush()
        old.life.cancel()
        await until(lambda: it.supervisor.console.about.summary().state == "serving")
        assert not ends
        assert (await it.supervisor.console.about.info()).sessions == 0
        it.supervisor.upgrades.begin()  # and it can be replaced in its turn


async def test_a_manager_hears_nothing_before_it_knows_the_new_one(tmp_path: Path) -> None:
    with FakeManager.in_directory(tmp_path) as manager:
        seen = manager.seen_as(30.0)
        seen.wait_until_ready()
        old = OldProxy()
        async with successor(tmp_path, old, manager=seen):
            await until(lambda: old.has_heard(SuccessorReady))
            old.hand_over()
            await until(lambda: old.has_heard(SuccessorServes))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert manager.heard() == []
            old.leave()
            assert await manager.hears("") == "READY=1"


class NotingRun(UpgradeRun):
    """Keeps the news that the new one would be told."""

    def __init__(self, it: House) -> None:
        super().__init__(it.supervisor._succession, it.supervisor._feed, [], {})
        self.noted: list[ClientNews] = []

    def note_news(self, news: EarlierNews) -> bool:
        self.noted.append(news.news)
        return False


async def test_clients_of_a_worker_that_dies_are_known_to_the_new_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with house(tmp_path) as it:
        it.supervisor.upgrades.last = run = NotingRun(it)
        resumption = Resumption("juliet@example.org/r", "node1", "sm1", None)
        it.workers[1].post(SessionResumable("sm1", resumption, "192.0.2.1"))
        await trio.sleep(1)
        it.workers[1].die()
        await trio.sleep(1)
        assert run.noted[-1] == Lost("juliet@example.org", "192.0.2.1", "node1")


class SlowFile(StateFile):
    """A disk that takes its time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def write(self, content: bytes) -> None:
        self.begun.set()
        self.goes_on.wait()
        super().write(content)


async def test_it_is_quiet_when_nothing_is_being_written(tmp_path: Path) -> None:
    """What this process writes must not come behind what its successor does."""
    file = SlowFile(tmp_path / "state")
    keeper = StateKeeper(file, CatchUp(60.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await keeper.quiet()
        keeper.keep_order("node1", Directive(AdminState.DRAIN))
        await until(file.begun.is_set)
        with trio.move_on_after(0.01) as waiting:
            await keeper.quiet()
        assert waiting.cancelled_caught
        file.goes_on.set()
        await keeper.quiet()
        assert "node1" in file.read().orders
        nursery.cancel_scope.cancel()
