"""What a worker that starts later is told of what the others saw; and what is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from fake_workers import house
from trio.testing import MockClock

from cxfr_proxy.process.channel import MAX_LINE_BYTES
from cxfr_proxy.process.memory import PIECE, Memory
from cxfr_proxy.process.messages import Redirected, Remembered, Resumable, encode
from cxfr_proxy.session.registry import Registry


async def test_a_replacement_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """As long ago as it was; what is out of the window (a minute) is nobody's business any more."""
    async with house(tmp_path) as it:
        first, second = it.all
        first.channel.post(Redirected("long-ago@example.org"))
        await trio.sleep(50)
        first.channel.post(Redirected("romeo@example.org"))
        second.channel.post(Resumable("sm-1", "romeo@example.org/orchard"))
        await trio.sleep(20)
        first.die()
        await trio.sleep(1)
        told = it.workers[1].of(Remembered)
        assert [message.resumable for message in told if isinstance(message, Remembered)] == [
            {},
            {"sm-1": "romeo@example.org/orchard"},
        ]
        assert isinstance(told[0], Remembered)
        assert told[0].redirected == {"romeo@example.org": pytest.approx(20, abs=0.1)}


def test_the_oldest_are_forgotten() -> None:
    memory = Memory(60.0, limit=3)
    for number in range(5):
        memory.note(Redirected(f"user{number}"), float(number))
        memory.note(Resumable(f"sm{number}", f"user{number}/r"), float(number))
    memory.note(Redirected("user2"), 50.0)
    assert memory.pieces(60.0) == [
        Remembered({"user3": 57.0, "user4": 56.0, "user2": 10.0}, {}),
        Remembered({}, {"sm2": "user2/r", "sm3": "user3/r", "sm4": "user4/r"}),
    ]
    assert memory.pieces(80.0)[0] == Remembered({"user2": 30.0}, {})


def test_as_many_pieces_as_fit_into_lines() -> None:
    memory = Memory(60.0)
    longest = "\N{PILE OF POO}" * 767  # of 3071 bytes; JSON writes twelve characters for each
    for number in range(2 * PIECE + 1):
        memory.note(Resumable(f"sm{number}", f"{number}{longest}"), 0.0)
    pieces = memory.pieces(0.0)
    assert [len(piece.resumable) for piece in pieces] == [PIECE, PIECE, 1]
    assert max(len(encode(piece)) for piece in pieces) < MAX_LINE_BYTES


def test_what_is_remembered_does_not_undo_what_was_seen_since() -> None:
    registry = Registry(redirect_window=60.0)
    registry.remember_redirected("romeo@example.org", 100.0)
    registry.remember_redirected("romeo@example.org", 30.0)
    assert registry.redirected_lately("romeo@example.org", 120.0)
