"""The crowd's books: what it says is lost, twice or out of turn is so, and what it says nothing of is not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from unnoticed.crowd import Cast, Client, Crowd, Stage
from unnoticed.scene import pairs_for

SM = "urn:xmpp:sm:3"


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """One pair, as if both were bound. What it writes goes nowhere."""
    crowd = Crowd(Cast(port=1, pairs=[("a", "b")], counting=1.0))
    here, there = socket.socketpair()
    for client in crowd.clients:
        client.sock, client.stage = here, Stage.BOUND
    with here, there:
        yield crowd
    crowd.close()


def write(crowd: Crowd, client: Client, count: int) -> None:
    for at in range(count):
        crowd.write_next(client, float(at))


def take(crowd: Crowd, client: Client, *parts: str) -> None:
    for part in parts:
        crowd.take(client, part.encode())


def message(number: int, kind: str = "chat") -> str:
    return f"<message xmlns='jabber:client' from='a@xmpp.test/r' type='{kind}'><body>{number}</body></message>"


@pytest.mark.parametrize(
    ("arriving", "lost", "twice", "disordered"),
    [
        ((1, 2, 3, 4), 0, 0, 0),
        ((1, 2, 3), 1, 0, 0),
        ((1, 3, 4), 1, 0, 0),
        ((1, 2, 2, 3, 4, 4), 0, 2, 0),
        ((2, 1, 4, 3), 0, 0, 2),
        ((), 4, 0, 0),
    ],
)
def test_messages_are_counted_where_they_arrive(
    crowd: Crowd, arriving: tuple[int, ...], lost: int, twice: int, disordered: int
) -> None:
    first, second = crowd.clients
    write(crowd, first, 4)
    take(crowd, second, *map(message, arriving))
    counts = crowd.report()
    assert (counts.sent, counts.lost, counts.twice, counts.disordered) == (4, lost, twice, disordered)
    assert counts.arrived == len(set(arriving)) == len(counts.arrivals)


def test_a_stanza_may_come_in_pieces_and_all_that_the_server_counts_is_counted(crowd: Crowd) -> None:
    first, second = crowd.clients
    write(crowd, first, 2)
    text = f"{message(1)}<presence from='c@d/e'><priority>1</priority></presence><r xmlns='{SM}'/><iq type='get'/>"
    for at in range(len(text)):
        take(crowd, second, text[at])
    assert (second.handled, second.rest) == (3, b"")
    take(crowd, second, message(2, "error"))
    counts = crowd.report()
    assert (counts.arrived, counts.bounced, counts.lost) == (1, 1, 1)


def test_acknowledgements_are_timed(crowd: Crowd) -> None:
    first, _ = crowd.clients
    write(crowd, first, 3)
    take(crowd, first, f"<a xmlns='{SM}' h='2'/>", f"<a xmlns='{SM}' h='2'/>")
    assert len(first.unacked) == 1
    assert len(crowd.report().acks) == 2


def test_each_pair_is_one_from_either_node() -> None:
    pairs = pairs_for(20)
    users = [user for pair in pairs for user in pair]
    assert len(set(users)) == 20
    assert pairs == pairs_for(40)[:10]
