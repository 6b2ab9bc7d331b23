"""The memory for a worker that starts later, and what is forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from fake_workers import house
from msgspec.structs import replace as restated
from trio.testing import MockClock

from cxfr_proxy.ipc.codec import MAX_LINE_BYTES, encode
from cxfr_proxy.ipc.messages import Gone, Remembered
from cxfr_proxy.session.client_software import SILENCES, ClientSoftware
from cxfr_proxy.supervisor.workers.catch_up import PIECE, CatchUp
from cxfr_proxy.transfers.client_news import (
    AnyClientNews,
    Lost,
    Moved,
    Returned,
    SessionResumable,
    SoftwareLearned,
    UserRedirected,
)
from cxfr_proxy.transfers.memory import RESUMABLE_SECONDS, ClientMemory
from cxfr_proxy.xmpp.opening.client_identity import LONGEST
from cxfr_proxy.xmpp.stream_management import Counters, Flow, Resumption


def resumption(full_jid: str, counters: Counters | None = None) -> Resumption:
    return Resumption(full_jid, "node1", "theirs", counters)


EVEN_AGAIN = Counters(up=Flow(3, steps=((7, -1), (8, 1))), down=Flow(0))
SHIFTED = Counters(up=Flow(3), down=Flow(0, settled=-1, lead=-2, steps=((7, -1),)))


def aged(piece: Remembered) -> list[tuple[float, AnyClientNews]]:
    return [(each.seconds_ago, each.news) for each in piece.news]


async def test_a_replacement_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """As long ago as it was; what is out of the window (a minute) is nobody's business any more."""
    async with house(tmp_path) as it:
        first, second = it.all
        first.post(UserRedirected("long-ago@example.org"))
        await trio.sleep(50)
        first.post(UserRedirected("romeo@example.org"))
        second.post(SessionResumable("sm-1", resumption("romeo@example.org/orchard", SHIFTED), "192.0.2.1"))
        second.post(Lost("romeo@example.org", "192.0.2.1", "node1"))
        await trio.sleep(20)
        first.die()
        await trio.sleep(1)
        assert it.workers[1].remembered == [
            (pytest.approx(20, abs=0.1), UserRedirected("romeo@example.org")),
            (0.0, SessionResumable("sm-1", resumption("romeo@example.org/orchard", SHIFTED), "192.0.2.1")),
            (pytest.approx(20, abs=0.1), Lost("romeo@example.org", "192.0.2.1", "node1")),
        ]


async def test_what_was_learned_of_software(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One that starts later is told what is known; silence that was met too seldom is not."""
    async with house(tmp_path) as it:
        first, second = it.all
        said = [
            SoftwareLearned("no#1", False),
            SoftwareLearned("yes#1", False),
            SoftwareLearned("yes#1", True),
            SoftwareLearned("maybe#1", None),
        ]
        said += [SoftwareLearned("mute#1", None)] * SILENCES
        for message in said:
            first.post(message)
        await trio.sleep(1)
        assert second.news_of(SoftwareLearned) == said
        assert not first.news_of(SoftwareLearned)
        second.die()
        await trio.sleep(1)
        assert it.workers[2].remembered == [
            (0.0, SoftwareLearned("no#1", False)),
            (0.0, SoftwareLearned("yes#1", True)),
            (0.0, SoftwareLearned("mute#1", False)),
        ]


def test_the_oldest_are_forgotten() -> None:
    memory = CatchUp(60.0, limit=3)
    for number in range(5):
        memory.note(UserRedirected(f"user{number}"), float(number))
        memory.note(SessionResumable(f"sm{number}", resumption(f"user{number}/r"), "192.0.2.1"), float(number))
        memory.note(Lost(f"user{number}", "192.0.2.1", "node1"), float(number))
    memory.note(UserRedirected("user2"), 50.0)
    redirected = [(57.0, UserRedirected("user3")), (56.0, UserRedirected("user4")), (10.0, UserRedirected("user2"))]
    kept = (2, 3, 4)
    assert [aged(piece) for piece in memory.pieces(60.0)] == [
        redirected,
        [(0.0, SessionResumable(f"sm{number}", resumption(f"user{number}/r"), "192.0.2.1")) for number in kept],
        [(60.0 - number, Lost(f"user{number}", "192.0.2.1", "node1")) for number in kept],
    ]
    assert aged(memory.pieces(80.0)[0]) == [(30.0, UserRedirected("user2"))]
    assert aged(memory.pieces(RESUMABLE_SECONDS + 3.0)[-1]) == [
        (RESUMABLE_SECONDS - 1.0, Lost("user4", "192.0.2.1", "node1"))
    ]


async def test_whom_a_killed_worker_takes_along(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The others hear of those who can resume, as if it had said so itself; as does its replacement."""

    def mine(stream_management_id: str, user: str | None, counters: Counters | None = None) -> SessionResumable:
        full_jid = f"{user}@example.org/r" if user is not None else None
        return SessionResumable(stream_management_id, Resumption(full_jid, "node2", "theirs", counters), "192.0.2.7")

    async with house(tmp_path) as it:
        first, second = it.all
        said = [mine("a", "juliet"), mine("b", None), mine("wrapped", "nurse", SHIFTED), mine("over", "tybalt")]
        said.append(mine("theirs", "capulet", EVEN_AGAIN))
        not_rightly = SessionResumable("of-node", Resumption("paris@example.org/r", "node2", "of-node"), "192.0.2.7")
        for message in (*said, not_rightly, mine("a", "juliet")):
            first.post(message)
        first.post(Gone("over"))
        first.post(restated(not_rightly, resumption=replace(not_rightly.resumption, counters=SHIFTED)))
        second.post(mine("elsewhere", "mercutio"))
        await trio.sleep(1)
        assert not second.remembered
        first.die()
        await trio.sleep(1)
        lost = [
            Lost(user, "192.0.2.7", "node2")
            for user in (None, "nurse@example.org", "capulet@example.org", "juliet@example.org")
        ]
        assert second.remembered == [(0.0, each) for each in lost]
        assert [each for _, each in it.workers[1].remembered if isinstance(each, Lost)] == lost
        second.end()
        await trio.sleep(1)
        assert len(it.workers[1].of(Remembered)) == 2, "who ends by itself has said what there was to say"


def test_as_many_pieces_as_fit_into_lines() -> None:
    memory = CatchUp(60.0)
    longest = "\N{PILE OF POO}" * 767  # of 3071 bytes; JSON writes twelve characters for each
    unacknowledged = Counters(Flow(0), Flow(0, steps=((1_000_000_000, -1),) * 5000))
    for number in range(2 * PIECE + 1):
        memory.note(SessionResumable(f"sm{number}", resumption(f"{number}{longest}", unacknowledged), "192.0.2.1"), 0.0)
        memory.note(SoftwareLearned(f"{number}" + longest[: 2 * LONGEST], knows_cxfr=True), 0.0)
    pieces = memory.pieces(0.0)
    assert [len(piece.news) for piece in pieces] == [PIECE, PIECE, 1] * 2
    assert max(len(encode(piece)) for piece in pieces) < MAX_LINE_BYTES


def test_what_is_remembered_does_not_undo_what_was_seen_since() -> None:
    memory = ClientMemory(60.0, ClientSoftware())
    memory.apply(UserRedirected("romeo@example.org"), 100.0)
    memory.apply(UserRedirected("romeo@example.org"), 30.0)
    assert memory.redirected_lately("romeo@example.org", 120.0)


def test_who_is_back_under_another_resource_is_not_on_his_way_any_more() -> None:
    memory = CatchUp(60.0)
    for number, resource in enumerate("abc"):
        memory.note(Moved(number, f"romeo@example.org/{resource}", "192.0.2.1", "node1"), float(number))
    memory.note(Returned("romeo@example.org/b", "192.0.2.1"), 5.0)
    memory.note(Returned("romeo@example.org/x", "192.0.2.1"), 5.0)
    memory.note(Returned("juliet@example.org/x", "192.0.2.1"), 5.0)
    (piece,) = memory.pieces(10.0)
    assert aged(piece) == [(8.0, Moved(2, "romeo@example.org/c", "192.0.2.1", "node1"))]
    memory.note(Returned("romeo@example.org/y", "192.0.2.1"), 5.0)
    assert memory.pieces(10.0) == []
