"""Returns of clients that were moved."""

from __future__ import annotations

from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.returns import WITHIN_SECONDS, ReturnedClient, Returns
from cxfr_proxy.transfers.statistics import PastTransfer, TriedRung

PHONE, LAPTOP = "kim@h/phone", "kim@h/laptop"


def transfer(outcome: Outcome = Outcome.MOVED, node: str = "a", seconds: float = 1.0) -> PastTransfer:
    return PastTransfer(node, Trigger.DRAIN, "Gajim", (TriedRung(Rung.CXFR, outcome),), seconds)


def brief(back: ReturnedClient | None) -> tuple[int, int, float] | None:
    """Return the session, the one by which its client is back, and after how long."""
    return (back.gone.session, back.session, back.seconds) if back is not None else None


def test_a_client_that_leaves_and_comes_back_is_back_once() -> None:
    it = Returns()
    assert it.note_login(1, PHONE, 10.0) is None
    assert it.note_transfer(1, PHONE, transfer(), 200.0) is None
    back = it.note_login(2, PHONE, 203.0)
    assert brief(back) == (1, 2, 3.0)
    assert back is not None
    assert back.rung is Rung.CXFR
    assert it.note_login(3, PHONE, 204.0) is None
    assert dict(it.seconds) == {1: 3.0}


def test_who_was_not_moved_or_has_no_name_is_not_waited_for() -> None:
    it = Returns()
    for outcome in set(Outcome) - {Outcome.MOVED}:
        it.note_transfer(1, PHONE, transfer(outcome), 10.0)
    it.note_transfer(2, None, transfer(), 10.0)
    assert it.note_login(3, PHONE, 11.0) is None
    assert it.note_login(4, None, 11.0) is None
    assert not it.seconds


def test_a_session_that_was_taken_to_another_node_was_never_away() -> None:
    it = Returns()
    tried = (TriedRung(Rung.MIGRATE, Outcome.MOVED),)
    back = it.note_transfer(1, PHONE, PastTransfer("a", Trigger.DRAIN, "Gajim", tried, 0.1), 10.0)
    assert brief(back) == (1, 1, 0.0)
    assert dict(it.seconds) == {1: 0.0}
    assert it.note_login(2, PHONE, 11.0) is None, "and nobody is taken for it"


def test_whose_session_went_on_is_told_apart() -> None:
    it = Returns()
    it.note_transfer(1, PHONE, transfer(), 10.0)
    resumed = it.note_login(2, PHONE, 11.0, resumed=True)
    it.note_transfer(2, PHONE, transfer(), 20.0)
    anew = it.note_login(3, PHONE, 21.0)
    it.note_login(4, LAPTOP, 30.0, resumed=True)
    earlier = it.note_transfer(3, LAPTOP, transfer(seconds=2.0), 31.0)
    migrated = it.note_transfer(
        5, PHONE, PastTransfer("a", Trigger.DRAIN, "Gajim", (TriedRung(Rung.MIGRATE, Outcome.MOVED),), 0.1), 40.0
    )
    told = [back.resumed if back is not None else None for back in (resumed, anew, earlier, migrated)]
    assert told == [True, False, True, True]


def test_the_same_client_comes_first_then_any_of_the_user_s() -> None:
    it = Returns()
    it.note_transfer(1, LAPTOP, transfer(), 10.0)
    it.note_transfer(2, PHONE, transfer(node="b"), 11.0)
    assert brief(it.note_login(3, PHONE, 12.0)) == (2, 3, 1.0)
    assert it.note_login(4, "mallory@h/laptop", 12.0) is None
    assert brief(it.note_login(5, "kim@h/new", 13.0)) == (1, 5, 3.0)
    assert it.note_login(6, LAPTOP, 14.0) is None
    assert dict(it.seconds) == {2: 1.0, 1: 3.0}


def test_who_logs_in_before_they_leave_is_back_at_once() -> None:
    it = Returns()
    it.note_login(1, PHONE, 5.0)
    it.note_login(2, PHONE, 10.0)
    assert brief(it.note_transfer(1, PHONE, transfer(seconds=2.0), 11.0)) == (1, 2, 0.0)
    assert it.note_transfer(2, PHONE, transfer(seconds=2.0), 11.5) is None, "that login is taken"
    assert brief(it.note_login(3, PHONE, 12.0)) == (2, 3, 0.5)
    assert it.note_login(4, LAPTOP, 20.0) is None
    assert it.note_transfer(3, PHONE, transfer(seconds=2.0), 30.0) is None, "it was there before it was asked"


def test_who_stays_away_is_forgotten() -> None:
    it = Returns(limit=2)
    it.note_transfer(1, PHONE, transfer(), 10.0)
    assert it.note_login(2, PHONE, 10.0 + WITHIN_SECONDS) is None
    for number, user in enumerate("abc"):
        it.note_transfer(number, f"{user}@h/r", transfer(), 1000.0)
    assert [brief(it.note_login(9, f"{user}@h/r", 1001.0)) for user in "abc"] == [None, (1, 9, 1.0), (2, 9, 1.0)]
    for number in range(20):
        it.note_transfer(number, f"kim@h/{number}", transfer(), 2000.0)
    back = [it.note_login(99, f"kim@h/other{number}", 2001.0) for number in range(20)]
    assert sum(each is not None for each in back) == 10
