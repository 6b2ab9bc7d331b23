"""What workers have found, as one list."""

from __future__ import annotations

import msgspec
import pytest

from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.ipc.questions import FindSessions, SessionRows, WorkerQuestion, WorkerReply
from cxfr_proxy.supervisor.workers.workers import Workers


@pytest.mark.parametrize(("limit", "shown"), [(None, [1, 2, 3, 4]), (3, [1, 2, 3]), (9, [1, 2, 3, 4])])
async def test_the_oldest_come_first_whichever_worker_has_them(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, shown: list[int]
) -> None:
    """The replies stand one behind the other, each in its own order."""
    asked: list[WorkerQuestion[WorkerReply]] = []
    workers = Workers(2)

    async def ask(question: FindSessions) -> SessionRows:
        asked.append(question)
        rows = [msgspec.Raw(str(number).encode()) for number in (1, 3, 2, 4)]
        return SessionRows([10.0, 30.0, 20.0, 40.0], rows, matching=7)

    monkeypatch.setattr(workers, "ask", ask)
    found = await workers.find_sessions(SessionFilter(limit=limit))
    assert [msgspec.json.decode(row) for row in found.rows] == shown
    assert found.matching == 7
    assert asked == [FindSessions(SessionFilter(limit=limit))]
