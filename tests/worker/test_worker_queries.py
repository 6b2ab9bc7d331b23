"""Questions to workers: a row for what is asked, and one for how it is answered."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio
from session_fakes import FakeListener, FakeRelayed
from trio.testing import MockClock

from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.cluster.assigned import Assigned
from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.table import Config
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.ipc.questions import (
    FindPinned,
    FindSessions,
    KickUser,
    ListTransfers,
    SessionRows,
    WorkerQuestion,
    WorkerReply,
)
from cxfr_proxy.proxy import Proxy
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.worker import queries
from cxfr_proxy.worker.parts import WorkerParts
from cxfr_proxy.worker.time_share import TimeShare


class HasRegistry(WorkerParts):
    """As much of a worker as lists need."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.listing = TimeShare(1.0)

    @property
    def leaving_pid(self) -> int | None:
        return None


class NodesKnown(WorkerReply):
    names: list[str] = msgspec.field(default_factory=list)

    def include(self, other: NodesKnown) -> None:
        self.names += other.names


class ListNodes(WorkerQuestion[NodesKnown], frozen=True):
    """Which nodes do you know?"""

    reply = NodesKnown


async def answer_nodes(parts: WorkerParts, question: ListNodes) -> AsyncIterator[NodesKnown]:
    for node in parts.cluster:
        yield NodesKnown([node.name])


def test_each_question_has_its_answer() -> None:
    asked = {kind for kind in WorkerQuestion.__subclasses__() if kind.__module__.startswith("cxfr_proxy")}
    assert set(queries.ANSWERS) == asked


async def test_a_session_that_ends_while_rows_are_made_is_in_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are served between two pieces of an answer, so some of them end."""
    monkeypatch.setattr(queries, "ROWS_AT_A_TIME", 2)
    registry = Registry(FakeListener(), redirect_window=60.0)
    live = [FakeRelayed(number, "node1") for number in range(1, 6)]
    for each in live:
        registry.add(each)
    pieces = []
    async for piece in queries._live_pieces(registry):
        pieces.append([each.id for each in piece])
        registry.remove(live[3])
    assert pieces == [[1, 2], [3], [5]]


JULIET, ROMEO = "Juliet@example.org/balcony", "romeo@example.org/orchard"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (SessionFilter(), [1, 2, 3, 4, 5]),
        (SessionFilter(user="juliet@EXAMPLE.org"), [1, 2]),
        (SessionFilter(user="juliet@example.org/phone"), [2]),
        (SessionFilter(user="juliet@example.org/nothing"), []),
        (SessionFilter(node="node2"), [2, 3]),
        (SessionFilter(address="192.0.2.0/25"), [1, 2]),
        (SessionFilter(address="2001:db8::1/128"), [4]),
        (SessionFilter(address="unix"), [5]),
        (SessionFilter(user="juliet@example.org", node="node2", address="192.0.2.2/32"), [2]),
        (SessionFilter(limit=2), [1, 2]),
        (SessionFilter(node="node2", limit=1), [2]),
    ],
)
async def test_sessions_that_match(monkeypatch: pytest.MonkeyPatch, wanted: SessionFilter, found: list[int]) -> None:
    """Only rows that are shown are made; all that match are counted, whichever piece of the answer they are in."""
    monkeypatch.setattr(queries, "ROWS_AT_A_TIME", 2)
    registry = Registry(FakeListener(), redirect_window=60.0)
    for each in (
        FakeRelayed(1, "node1", jid=JULIET, address="192.0.2.1"),
        FakeRelayed(2, "node2", jid="juliet@example.org/phone", address="192.0.2.2"),
        FakeRelayed(3, "node2", jid=ROMEO, address="192.0.2.200"),
        FakeRelayed(4, "node1", jid=None, address="2001:db8::1"),
        FakeRelayed(5, "node1", jid=ROMEO, address="local"),
    ):
        registry.add(each)
    total, together = SessionRows(), SessionRows()
    async for part in queries.answer_sessions(HasRegistry(registry), FindSessions((wanted,))):
        total.include(part)
    assert [msgspec.json.decode(row)["id"] for row in total.rows] == found
    assert len(total.began) == len(found)
    assert total.shown_by == [1] * len(found)
    # Beside others it is shown the same.
    filters = SessionFilter(node="node1", limit=1), wanted, msgspec.structs.replace(wanted, limit=None)
    async for part in queries.answer_sessions(HasRegistry(registry), FindSessions(filters)):
        together.include(part)
    shown = [
        [
            msgspec.json.decode(row)["id"]
            for row, shown_by in zip(together.rows, together.shown_by, strict=True)
            if shown_by & bit
        ]
        for bit in (1, 2, 4)
    ]
    assert shown[:2] == [[1], found]
    assert [*total.matching, *together.matching] == [len(shown[2]), 3, len(shown[2]), len(shown[2])]


@pytest.mark.parametrize("question", [FindSessions((SessionFilter(),)), FindPinned(), ListTransfers()])
async def test_who_lists_all_sessions_takes_a_share_of_the_time(
    question: FindSessions | FindPinned | ListTransfers, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "ROWS_AT_A_TIME", 2)
    clock = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(clock) * 0.001)
    registry = Registry(FakeListener(), redirect_window=60.0)
    for number in range(6):
        registry.add(FakeRelayed(number, "node1", jid=JULIET))
    parts = HasRegistry(registry)
    parts.assigned, parts.listing = Assigned(), TimeShare(0.25)
    began = trio.current_time()
    async for _ in queries.answer(parts, question):
        pass
    assert trio.current_time() - began == pytest.approx(3 * 0.004)


async def test_a_kick_is_for_those_that_a_jid_names() -> None:
    registry = Registry(FakeListener(), redirect_window=60.0)
    live = [
        FakeRelayed(1, "node1", jid=JULIET),
        FakeRelayed(2, "node2", jid=JULIET),
        FakeRelayed(3, "node1", jid=ROMEO),
    ]
    for each in live:
        registry.add(each)
    parts = [part async for part in queries.answer_kick(HasRegistry(registry), KickUser("juliet@example.org"))]
    assert sum(part.sessions for part in parts) == 2
    assert [each.kicked for each in live] == [True, True, False]


async def test_a_new_question_is_two_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions, how answers become one, and how a worker answers. Nothing between has to know it."""
    monkeypatch.setattr(queries, "ANSWERS", dict([*queries.ANSWERS.items(), (ListNodes, answer_nodes)]))
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("node1 127.0.0.1:1 check=none\nnode2 127.0.0.1:1 check=none\n")
    config = Config(
        backends=FileBackends(str(nodes)),
        listen=(ListenAddress("127.0.0.1", 0),),
        control=tmp_path / "c.sock",
        workers=1,
    )
    proxy = Proxy(config)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            assert (await proxy.supervisor.workers.ask(ListNodes())).names == ["node1", "node2"]
            nursery.cancel_scope.cancel()
