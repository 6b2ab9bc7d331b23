"""Ids of streams and requests: who guesses one could answer in a client's place."""

from __future__ import annotations

from cxfr_proxy.relay.connection_rules import new_token


def test_ids_are_unguessable() -> None:
    ids = {new_token() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert {len(each) for each in ids} == {32}, "128 bits, four a character"
    # A counter or a clock would leave characters alone at some place; 10,000 draws of 16 miss one once in 10^278.
    assert all(len({each[place] for each in ids}) == 16 for place in range(32))
