"""What is asked of all clients is asked of the proxy before this one as well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import ANY

import msgspec
import pytest
import trio
from fake_workers import House, house
from trio.testing import MockClock, memory_stream_pair

from cxfr_proxy.admin.rows.rows import EventRow, TransferRow
from cxfr_proxy.ipc.channel import StreamChannel
from cxfr_proxy.ipc.messages import BadMessage, WorkerCounts
from cxfr_proxy.supervisor.upgrading.handover import (
    HANDOVER_FORM,
    HandoverMessage,
    PredecessorAnswered,
    PredecessorAsked,
    PredecessorCounts,
    PredecessorEvents,
    PredecessorReply,
)
from cxfr_proxy.supervisor.upgrading.relaying import PredecessorQuestions
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.transfers.counts import NodeCounts


class NewProxy:
    """The workers of a new proxy, which has none yet, and the old one's house."""

    def __init__(self, old: House) -> None:
        self.old = old
        theirs, ours = memory_stream_pair()
        self.old_end = StreamChannel(theirs, HANDOVER_FORM)
        self.new_end = StreamChannel(ours, HANDOVER_FORM)
        self.questions = PredecessorQuestions(4711)
        self.questions.begin(self.new_end)
        self.workers = Workers(1)
        self.workers.also_ask(self.questions)
        self.counts: list[PredecessorCounts] = []
        self.events: list[PredecessorEvents] = []
        self.answers = 0
        self.heard: list[HandoverMessage] = []
        self.old_hangs: list[PredecessorAsked] | None = None
        """What it was asked, while it answers nothing."""

    def ask_old(self, message: HandoverMessage) -> None:
        assert isinstance(message, PredecessorAsked)
        if self.old_hangs is not None:
            self.old_hangs.append(message)
            return
        self.old.nursery.start_soon(self.old.supervisor._succession.answer, message, self.old_end)

    def note(self, message: HandoverMessage) -> None:
        self.heard.append(message)
        match message:
            case PredecessorReply() | PredecessorAnswered():
                self.answers += isinstance(message, PredecessorAnswered)
                self.questions.note(message)
            case PredecessorCounts():
                self.counts.append(message)
            case PredecessorEvents():
                self.events.append(message)
            case _:
                raise AssertionError(message)


@asynccontextmanager
async def new_proxy(tmp_path: Path) -> AsyncIterator[NewProxy]:
    async with house(tmp_path) as old:
        it = NewProxy(old)
        old.nursery.start_soon(it.old_end.run, it.ask_old)
        old.nursery.start_soon(it.new_end.run, it.note)
        yield it


def transfer(session: int) -> TransferRow:
    return TransferRow(session, "juliet@example.org/r", "node1", None, "cxfr", None, 1.0, 1.0, "drain")


async def test_the_old_ones_workers_answer(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with new_proxy(tmp_path) as it:
        for number, worker in it.old.workers.items():
            worker.moves, worker.states = number, {"bound": 10 * number}
            worker.transfers = [transfer(number)]
            worker.counts = WorkerCounts(sessions=number, nodes={"node1": NodeCounts(number)})
        assert await it.workers.move("juliet@example.org", "node1") == 3
        assert await it.workers.states() == {"bound": 30}
        assert {row.session for row in await it.workers.transfer_rows()} == {1, 2}
        assert it.counts[-1].sessions == 3, "counts are those of the moment when somebody looks"
        assert len(it.counts[-1].workers) == 2
        assert it.workers.omissions() == []
        await it.workers.event_rows()
        assert all(msgspec.json.decode(each, type=EventRow).process == "supervisor" for each in it.events[-1].events)


async def test_a_worker_of_the_old_one_that_hangs_is_named(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with new_proxy(tmp_path) as it:
        for number, worker in it.old.workers.items():
            worker.moves, worker.states = number, {"bound": number}
        assert await it.workers.states() == {"bound": 3}
        it.old.workers[1].hangs = True
        assert await it.workers.states() == {"bound": 3}, "its last reply will do"
        assert await it.workers.transfer_rows() == []
        (omission,) = it.workers.omissions()
        assert omission.startswith("worker 1 (pid 100")
        assert it.answers == 3


async def test_an_old_one_that_hangs_is_named(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is asked no more until something comes from it, but for actions; and what comes too late counts no more."""
    async with new_proxy(tmp_path) as it:
        it.old.workers[1].moves = 4
        asked: list[PredecessorAsked] = []
        it.old_hangs = asked
        assert await it.workers.transfer_rows() == []
        assert await it.workers.states() == {}
        assert await it.workers.move("juliet@example.org", "node1") == 0
        assert [each.request for each in asked] == [1, 2]
        (omission,) = it.workers.omissions()
        assert omission.startswith("process 4711, which still moves its clients, has not answered for 1")
        it.old_hangs = None
        it.ask_old(asked[0])
        await trio.sleep(1)
        assert it.workers.omissions() == []
        assert await it.workers.move("juliet@example.org", "node1") == 4


@pytest.mark.parametrize("reply", [b'{"type":"Dance"}', b'{"type":"Done"}', b'{"type":"TransferRows","rows":[{}]}'])
async def test_a_reply_that_can_not_be_read(reply: bytes, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with new_proxy(tmp_path) as it:
        it.old_hangs = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.workers.transfer_rows)
            await trio.sleep(0.1)
            with pytest.raises(BadMessage):
                it.questions.note(PredecessorReply(1, msgspec.Raw(reply)))
            it.questions.note(PredecessorAnswered(1, ("some are missing",)))
        assert it.workers.omissions() == ["some are missing"]


async def test_a_question_that_the_old_one_does_not_know(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with new_proxy(tmp_path) as it:
        it.ask_old(PredecessorAsked(7, msgspec.Raw(b'{"type":"Dance"}')))
        await trio.sleep(0.1)
        assert it.heard == [PredecessorAnswered(7, ANY)]


async def test_when_it_has_ended_it_is_asked_no_more(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with new_proxy(tmp_path) as it:
        it.old.workers[1].states = {"bound": 4}
        assert await it.workers.states() == {"bound": 4}
        it.old.workers[1].hangs = True
        it.old.nursery.start_soon(end_soon, it.questions)
        began = trio.current_time()
        assert await it.workers.transfer_rows() == []
        assert trio.current_time() - began < 1.0, "nobody waits for one that is gone"
        assert await it.workers.states() == {}
        assert it.workers.omissions() == []


async def end_soon(questions: PredecessorQuestions) -> None:
    await trio.sleep(0.5)
    questions.end()
