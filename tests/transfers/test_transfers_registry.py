"""The registry: counts, and what is remembered."""

from __future__ import annotations

import pytest
from session_fakes import FakeListener, FakeRelayed
from session_script import ELSEWHERE, ENABLE, ENABLED, HURRIED, JID

from cxfr_proxy.session.client_software import Software
from cxfr_proxy.session.commands import (
    Answered,
    Asked,
    BoundTo,
    Ended,
    Event,
    Forged,
    Learned,
    Outcome,
    Reason,
    Redirected,
    Resumable,
    Transferred,
    Warned,
)
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers import memory as memory_module
from cxfr_proxy.transfers.counts import RECENT_TRANSFERS, NodeCounts, TransferRecord
from cxfr_proxy.transfers.memory import RESUMABLE_SECONDS
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import user_of
from cxfr_proxy.xmpp.stream_management import Resumption

BALCONY = Software(resource="balcony")
USER = "juliet@example.org"
ENDED = Ended(Reason.CLIENT_LOST, None, 0, 0)


def registry() -> Registry:
    return Registry(FakeListener(), redirect_window=60.0)


def test_coming_and_going() -> None:
    subject = registry()
    one, two = FakeRelayed(subject.new_id(), "a"), FakeRelayed(subject.new_id(), "b")
    assert (one.id, two.id) == (1, 2)
    subject.add(one)
    subject.add(two)
    assert subject.sessions_by_node() == {"a": 1, "b": 1}
    assert list(subject) == [one, two]
    assert len(subject) == 2
    assert subject.get(1) is one
    subject.remove(one)
    subject.remove(one)
    assert subject.sessions_by_node() == {"a": 0, "b": 1}
    assert subject.get(1) is None


def test_who_is_about_to_begin_counts_for_placement() -> None:
    """Else a burst of logins would all take the node that was empty when the first of them came."""
    subject = registry()
    subject.add(FakeRelayed(subject.new_id(), "a"))
    with subject.expecting("b"), subject.expecting("a"):
        assert subject.sessions_by_node() == {"a": 2, "b": 1}
        assert subject.counts.of_node("b").sessions == 0
    assert subject.sessions_by_node().get("b", 0) == 0


def test_who_is_still_logging_in() -> None:
    subject = registry()
    one, two = FakeRelayed(subject.new_id(), "a"), FakeRelayed(subject.new_id(), "a")
    subject.add(one)
    subject.add(two)
    assert subject.logging_in() == [one, two]
    subject.note(one, BoundTo(JID), 0.0)
    assert subject.logging_in() == [two]
    subject.remove(two)
    assert subject.logging_in() == []


def test_sessions_may_leave_while_somebody_looks_at_them() -> None:
    subject = registry()
    for number in range(3):
        subject.add(FakeRelayed(number, "a"))
    for relayed in subject:
        subject.remove(relayed)
    assert len(subject) == 0


def test_a_snapshot_for_a_plan() -> None:
    subject = registry()
    subject.add(FakeRelayed(7, "a", idle=5.0))
    subject.add(FakeRelayed(8, "a", jid=None))
    seven, eight = subject.snapshot(10.0)
    assert (seven.session_id, seven.user, seven.node, seven.idle_seconds) == (7, USER, "a", 15.0)
    assert eight.user is None


def test_addresses_are_counted_up_to_their_limit() -> None:
    subject = registry()
    assert [subject.connected("a", 2) for _ in range(3)] == [True, True, False]
    assert subject.connected("b", 2)
    subject.disconnected("a")
    assert subject.connected("a", 2)
    assert not subject.connected("a", 2)
    for _ in range(2):
        subject.disconnected("a")
    assert [subject.connected("a", 2) for _ in range(3)] == [True, True, False]
    assert all(subject.connected("c", None) for _ in range(100))


def test_a_transfer_is_counted_rung_by_rung() -> None:
    subject, relayed = registry(), FakeRelayed(1, "a")
    tried = (
        (Rung.CXFR, Outcome.REFUSED),
        (Rung.SEE_OTHER_HOST, Outcome.MOVED),
    )
    events: list[Event] = [
        BoundTo(JID),
        Asked(Rung.CXFR, ELSEWHERE, first=True),
        Answered(Rung.CXFR, ELSEWHERE, Outcome.REFUSED),
        Asked(Rung.SEE_OTHER_HOST, ELSEWHERE, first=False),
        Transferred(ELSEWHERE, tried, 1.5, "a"),
        Warned("about nothing"),
    ]
    for event in events:
        subject.note(relayed, event, 20.0)
    assert subject.counts.of_node("a") == NodeCounts(asked=1, moved=1, refused=1)
    assert list(subject.counts.recent) == [
        TransferRecord(1, JID, "a", "node2", Trigger.DRAIN, tried, 20.0, 1.5, BALCONY)
    ]


def test_what_a_session_has_shown_is_learned() -> None:
    subject = registry()
    subject.note(FakeRelayed(1, "a"), Learned("a.example#v", True), 0.0)
    assert subject.memory.client_software.learned() == {"a.example#v": True}


@pytest.mark.parametrize("outcome", [Outcome.SILENT, Outcome.STAYED])
def test_who_does_not_leave_is_counted_as_silent(outcome: Outcome) -> None:
    subject = registry()
    subject.note(FakeRelayed(1, "a"), Answered(Rung.CXFR, ELSEWHERE, outcome), 0.0)
    assert (subject.counts.of_node("a").silent, subject.counts.of_node("a").refused) == (1, 0)


def test_the_counts_of_a_real_transfer() -> None:
    subject, relayed = registry(), FakeRelayed(1, "a")
    relayed.script.order().order(HURRIED).node("</stream:stream>").client_ends()
    for event in relayed.script.events:
        subject.note(relayed, event, 0.0)
    assert subject.counts.of_node("a") == NodeCounts(asked=1, moved=1, silent=1)
    assert subject.counts.totals.ended == {Reason.TRANSFERRED: 1}
    assert subject.memory.redirected_lately(USER, 1.0)


def test_only_the_last_transfers_are_kept() -> None:
    subject, relayed = registry(), FakeRelayed(1, "a")
    for number in range(RECENT_TRANSFERS + 5):
        subject.note(relayed, Transferred(ELSEWHERE, ((Rung.RESET, Outcome.MOVED),), 0.0, "a"), float(number))
    assert len(subject.counts.recent) == RECENT_TRANSFERS
    assert subject.counts.recent[-1].ended == RECENT_TRANSFERS + 4


def test_ends_forgeries_and_late_stanzas() -> None:
    subject, relayed = registry(), FakeRelayed(1, "a")
    subject.note(relayed, Forged(), 0.0)
    subject.note(relayed, Ended(Reason.CLIENT_LOST, None, 3, 100), 0.0)
    subject.note(relayed, Ended(Reason.CLIENT_LOST, None, 1, 0), 0.0)
    assert subject.counts.of_node(relayed.session.node).forged == 1
    assert (subject.counts.totals.late, subject.counts.totals.ended) == (4, {Reason.CLIENT_LOST: 2})


def test_a_redirect_is_remembered_as_long_as_its_window() -> None:
    subject, relayed = registry(), FakeRelayed(1, "a")
    subject.note(relayed, Asked(Rung.CXFR, ELSEWHERE, first=True), 0.0)
    assert not subject.memory.redirected_lately(USER, 0.0)
    subject.note(relayed, Redirected(), 0.0)
    assert subject.memory.redirected_lately(USER, 59.9)
    assert not subject.memory.redirected_lately(USER, 60.0)
    assert not subject.memory.redirected_lately("romeo@example.org", 1.0)
    assert not subject.memory.redirected_lately(None, 1.0)
    subject.note(relayed, Redirected(), 50.0)
    assert subject.memory.redirected_lately(USER, 100.0)


def test_who_can_resume_as_whom() -> None:
    subject = registry()
    subject.note(FakeRelayed(1, "a"), Resumable("sm1", "n1"), 0.0)
    subject.note(FakeRelayed(2, "b", jid=None), Resumable("sm2", "sm2"), 0.0)
    assert subject.memory.resumption("sm1") == Resumption(JID, "a", "n1")
    assert subject.memory.resumption("sm2") == Resumption(None, "b", "sm2")
    assert subject.memory.resumption("sm3") is None
    assert [subject.memory.node_of_resumable(sm_id) for sm_id in ("sm1", "sm2", "sm3")] == ["a", "b", None]


def test_counts_are_kept_of_those_only_that_differ() -> None:
    subject, relayed = registry(), FakeRelayed(1, "a")
    relayed.script.client(ENABLE).node(ENABLED)
    resumable = relayed.script.reported(Resumable)
    subject.note(relayed, resumable, 0.0)
    known = subject.memory.resumption("sm1")
    assert known is not None
    assert known.counters is resumable.counters
    subject.note(relayed, ENDED, 0.0)
    known = subject.memory.resumption("sm1")
    assert known is not None
    assert known.counters is None
    subject.note(relayed, resumable, 0.0)
    assert resumable.counters is not None
    resumable.counters.down.injected(0)
    subject.note(relayed, ENDED, 0.0)
    known = subject.memory.resumption("sm1")
    assert known is not None
    assert known.counters is resumable.counters


def test_memory_is_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "REMEMBERED", 3)
    subject, relayed = registry(), FakeRelayed(1, "a")
    for sm_id in ("1", "2", "3", "1", "4"):
        subject.note(relayed, Resumable(sm_id, sm_id), 0.0)
    assert [subject.memory.resumption(sm_id) is not None for sm_id in "1234"] == [True, False, True, True]


def test_the_user_is_known_once_it_is_certain() -> None:
    assert user_of(FakeRelayed(1, "a", jid=None).session) is None
    assert user_of(FakeRelayed(1, "a").session) == USER


# --- who is lost, and comes back


def lost(
    subject: Registry, number: int, node: str, *, reason: Reason = Reason.CLIENT_LOST, resumes: bool = True
) -> None:
    relayed = FakeRelayed(number, node, jid=f"user{number}@example.org/home")
    if resumes:
        relayed.script.client(ENABLE).node(ENABLED)
    subject.note(relayed, Ended(reason, None, 0, 0), 0.0)


def test_who_was_lost_is_looked_for_on_its_node() -> None:
    subject = registry()
    lost(subject, 1, "a")
    lost(subject, 2, "b")
    assert subject.memory.returning_clients.node_for("user1@example.org", "198.51.100.7", RESUMABLE_SECONDS - 1) == "a"
    assert subject.memory.returning_clients.node_for("user1@example.org", "198.51.100.7", RESUMABLE_SECONDS) is None
    assert [subject.memory.returning_clients.node_for(None, "192.0.2.1", 1.0) for _ in range(3)] == ["b", "a", None]


@pytest.mark.parametrize(
    ("reason", "resumes"), [(Reason.CLIENT_CLOSED, True), (Reason.NODE_LOST, True), (Reason.CLIENT_LOST, False)]
)
def test_who_left_for_good_is_not_looked_for(reason: Reason, resumes: bool) -> None:
    subject = registry()
    lost(subject, 1, "a", reason=reason, resumes=resumes)
    assert subject.memory.returning_clients.node_for("user1@example.org", "192.0.2.1", 1.0) is None
    assert subject.memory.returning_clients.node_for(None, "192.0.2.1", 1.0) is None
