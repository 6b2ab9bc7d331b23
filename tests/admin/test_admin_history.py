"""The last hour in numbers: samples of counts that only grow, an hour of them at most."""

from __future__ import annotations

from typing import cast

import pytest
import trio
from trio.testing import MockClock

from cxfr_proxy.admin.console.history import SAMPLE_SECONDS, SAMPLES, History
from cxfr_proxy.admin.console.parts import Sessions
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.statistics import PastTransfer, Totals, TransferStatistics, TriedRung


class CountedSessions:
    def __init__(self) -> None:
        self.sessions = 0
        self.now = Totals()
        self.statistics = TransferStatistics()

    def totals(self) -> Totals:
        return self.now


def transfer(outcome: Outcome, software: str = "Gajim") -> PastTransfer:
    return PastTransfer("node1", Trigger.DRAIN, software, (TriedRung(Rung.CXFR, outcome),), 1.0)


@pytest.fixture
def sessions() -> CountedSessions:
    return CountedSessions()


@pytest.fixture
def history(sessions: CountedSessions) -> History:
    return History(cast("Sessions", sessions))


async def test_a_sample_has_what_happened_in_it(
    sessions: CountedSessions, history: History, autojump_clock: MockClock
) -> None:
    sessions.now.count_login("tcp", 1.0, tls=True)  # before it began
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        await trio.sleep(1)
        sessions.sessions = 7
        sessions.now.count_login("tcp", 1.0, tls=True)
        sessions.now.count_login("websocket", 1.0, tls=False)
        sessions.now.count_failed_login("not-authorized")
        for outcome in Outcome:
            sessions.statistics.add(transfer(outcome))
        await trio.sleep(SAMPLE_SECONDS)
        sessions.sessions = 5
        await trio.sleep(SAMPLE_SECONDS)
        nursery.cancel_scope.cancel()
    first, second = history.rows()
    assert (first.seconds, first.sessions, first.logins, first.logins_failed) == (SAMPLE_SECONDS, 7, 2, 1)
    assert (first.moved, first.refused, first.silent, first.failed) == (1, 1, 2, 1)
    assert (second.sessions, second.logins, second.moved, second.silent) == (5, 0, 0, 0)
    assert history.rows(1) == [second]


async def test_an_hour_is_kept(sessions: CountedSessions, history: History, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        await trio.sleep(SAMPLE_SECONDS / 2)
        for number in range(SAMPLES + 10):
            sessions.sessions = number
            await trio.sleep(SAMPLE_SECONDS)
        nursery.cancel_scope.cancel()
    assert [row.sessions for row in history.rows()] == list(range(10, SAMPLES + 10))


def test_software_is_counted_by_how_its_last_transfer_ended(sessions: CountedSessions, history: History) -> None:
    for outcome in (Outcome.MOVED, Outcome.MOVED, Outcome.STAYED):
        sessions.statistics.add(transfer(outcome))
    sessions.statistics.add_return(transfer(Outcome.MOVED), 1.0, resumed=True)
    for _ in range(4):
        sessions.statistics.add(transfer(Outcome.CUT_OFF, "other"))
    other, gajim = history.software_rows()
    assert (other.software, other.transfers, other.failed, other.returned) == ("other", 4, 4, 0)
    assert (gajim.software, gajim.transfers, gajim.moved, gajim.silent, gajim.returned) == ("Gajim", 3, 2, 1, 1)


async def test_it_goes_on_in_the_process_that_takes_over(
    sessions: CountedSessions, history: History, autojump_clock: MockClock
) -> None:
    """Up to that moment it is the old one's, and what was counted by then is not counted again."""
    new = History(cast("Sessions", sessions))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        await trio.sleep(SAMPLE_SECONDS - 1)
        nursery.start_soon(new.run)
        sessions.sessions = 7
        await trio.sleep(3)
        sessions.sessions = 5
        new.take_over(history.hand_over())
        assert [row.seconds for row in new.rows()] == [SAMPLE_SECONDS, 2]
        await trio.sleep(SAMPLE_SECONDS + 1)
        nursery.cancel_scope.cancel()
    assert [(row.seconds, row.sessions) for row in new.rows()] == [(SAMPLE_SECONDS, 7), (2, 5), (SAMPLE_SECONDS, 5)]
