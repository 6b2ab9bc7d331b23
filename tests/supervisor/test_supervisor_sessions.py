"""What workers have found, as one list."""

from __future__ import annotations

import msgspec
import pytest

from cxfr_proxy.admin.rows.filters import FoundSessions, SessionFilter
from cxfr_proxy.ipc.questions import FindSessions, SessionRows, WorkerQuestion, WorkerReply
from cxfr_proxy.supervisor.workers.workers import Workers


async def test_the_oldest_come_first_whichever_worker_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replies stand one behind the other, each in its own order. Every filter has a list of its own."""
    filters = [SessionFilter(limit=limit) for limit in (None, 3, 10**30)] + [SessionFilter(node="node1", limit=1)]
    asked: list[WorkerQuestion[WorkerReply]] = []
    workers = Workers(2)

    async def ask(question: FindSessions) -> SessionRows:
        asked.append(question)
        rows = [msgspec.Raw(str(number).encode()) for number in (1, 3, 2, 4)]
        return SessionRows([10.0, 30.0, 20.0, 40.0], rows, [0b0111, 0b1011, 0b1111, 0b0101], [7, 7, 7, 2])

    monkeypatch.setattr(workers, "ask", ask)
    found = await workers.find_sessions(filters)
    shown = [[msgspec.json.decode(row) for row in each.rows] for each in found]
    assert shown == [[1, 2, 3, 4], [1, 2, 3], [1, 2, 4], [2]]
    assert [each.matching for each in found] == [7, 7, 7, 2]
    assert asked == [FindSessions(tuple(filters))]


async def test_where_no_worker_answers_nothing_is_found() -> None:
    assert await Workers(2).find_sessions([SessionFilter()]) == [FoundSessions([], 0)]
