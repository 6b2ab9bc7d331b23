"""A supervisor that takes the place of another one, which a test plays; and one whose place is taken."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from fake_workers import House, house
from waiting import until

from cxfr_proxy.admin.sentences import in_words
from cxfr_proxy.cluster.kept_state import KeptState
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.shared import Directive
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.ipc.messages import EarlierNews
from cxfr_proxy.proxy import only
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.supervisor.catch_up import CatchUp
from cxfr_proxy.supervisor.handover import (
    HANDOVER_VERSION,
    HandedOver,
    HandoverBegins,
    HandoverChannel,
    HandoverMessage,
    PredecessorCounts,
    SuccessorReady,
    SuccessorStops,
    encode_handover,
)
from cxfr_proxy.supervisor.predecessor import Predecessor
from cxfr_proxy.supervisor.state_keeper import StateFile, StateKeeper
from cxfr_proxy.supervisor.successor import Program, UpgradeRun, Upgrades
from cxfr_proxy.transfers.client_news import ClientNews, Lost, SessionResumable
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.statistics import PastTransfer, TransferStatistics, TriedRung
from cxfr_proxy.xmpp.stream_management import Resumption

STATE = KeptState().encode().decode()
PROGRAM = Program(["/bin/false"], [], {})
MOVED = PastTransfer("node1", Trigger.DRAIN, "Gajim", (TriedRung(Rung.CXFR, Outcome.MOVED),), 0.3)


class OldProxy:
    """What the test says as the proxy that ran before, and what it hears."""

    def __init__(self, counts: PredecessorCounts | None = None) -> None:
        ours, theirs = socket.socketpair()
        begins = HandoverBegins(HANDOVER_VERSION, 4711, (), (), STATE, 4000, counts or PredecessorCounts())
        ours.sendall(encode_handover(begins))
        self.predecessor = Predecessor(theirs)
        self.channel = HandoverChannel(ours)
        self.heard: list[HandoverMessage] = []
        self.life = trio.CancelScope()

    async def run(self) -> None:
        with self.life:
            await self.channel.run(self.heard.append)

    def has_heard(self, kind: type[HandoverMessage]) -> bool:
        return any(isinstance(each, kind) for each in self.heard)

    def hand_over(self, statistics: TransferStatistics | None = None, **changed: Any) -> None:
        record = msgspec.to_builtins((statistics or TransferStatistics()).record()) | changed
        self.channel.post(HandedOver(STATE, msgspec.Raw(msgspec.json.encode(record)), {}))


@asynccontextmanager
async def successor(
    tmp_path: Path, old: OldProxy, http: ListenAddress | None = None
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
        it = House(tmp_path, nursery, predecessor=old.predecessor, program=PROGRAM, http=http)
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


SAYS_READY_AND_STOPS = """
import os, socket, time
end = socket.socket(fileno=int(os.environ["CXFR_PROXY_HANDOVER"]))
end.sendall(b'{"type":"SuccessorReady","version":"1"}\\n' b'{"type":"SuccessorStops"}\\n')
time.sleep(60)
"""


async def test_nothing_is_handed_over_to_one_that_stops(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        upgrades = Upgrades(
            it.supervisor._succession,
            it.supervisor._feed,
            Program([sys.executable, "-c", SAYS_READY_AND_STOPS], [], {}),
        )
        it.nursery.start_soon(upgrades.run)
        upgrades.begin()
        await until(lambda: upgrades.last is not None and upgrades.last.finished)
        assert upgrades.last is not None
        assert upgrades.last.progress().failure == "it was told to stop"
        assert not it.supervisor.is_stopping()


SAYS_READY_AND_DIES = """
import os, socket
end = socket.socket(fileno=int(os.environ["CXFR_PROXY_HANDOVER"]))
end.sendall(b'{"type":"SuccessorReady","version":"1"}\\n')
while b"HandedOver" not in end.recv(1 << 20):
    pass
"""


async def test_one_that_dies_when_it_has_taken_over_is_no_success(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        it = House(tmp_path, nursery, program=Program([sys.executable, "-c", SAYS_READY_AND_DIES], [], {}))
        it.leave = False
        await nursery.start(it.supervisor.run)
        it.supervisor.upgrades.begin()
        upgrade = it.supervisor.upgrades.last
        assert upgrade is not None
        await until(lambda: upgrade.progress().finished)
        seen = upgrade.progress()
        assert (seen.step, seen.left) == ("move", 1)
        assert in_words(seen).startswith(f"process {seen.pid} has failed: it took over, and has ended since")
        nursery.cancel_scope.cancel()


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
