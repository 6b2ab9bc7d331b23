"""Events that a stranger repeats are summed up: first lines at once, then a number."""

from __future__ import annotations

import logging

import pytest

from cxfr_proxy.log_sums import MAX_OPEN, RULES, SECONDS, FieldValue, Rule, Sums

ORIGIN = logging.getLogger("cxfr_proxy.test"), logging.INFO


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sums(clock: Clock) -> Sums:
    return Sums(clock)


def admitted(sums: Sums, times: int, event: str = "client-refused", **fields: FieldValue) -> int:
    return sum(sums.admit(event, fields, ORIGIN) for _ in range(times))


def told(sums: Sums, *, at_once: bool = False) -> list[tuple[str, dict[str, FieldValue]]]:
    return [(each.event, each.fields) for each in sums.due(at_once=at_once)]


def test_first_lines_then_a_sum(sums: Sums, clock: Clock) -> None:
    most = RULES["client-refused"].most
    assert admitted(sums, 100, client="10.0.0.1", condition="host-unknown", port=1) == most
    assert admitted(sums, 1, client="10.0.0.2", condition="host-unknown", port=1) == 1
    assert told(sums) == []
    assert sums.next_due() == SECONDS
    clock.now = SECONDS
    expected = {"client": "10.0.0.1", "condition": "host-unknown", "repeated": 100 - most, "seconds": 60}
    assert told(sums) == [("client-refused", expected)]
    assert sums.next_due() is None
    assert admitted(sums, 100, client="10.0.0.1", condition="host-unknown") == most


def test_few_are_never_summed_up(sums: Sums, clock: Clock) -> None:
    for _ in range(10):
        assert admitted(sums, RULES["tls-failed"].most, "tls-failed", client="10.0.0.1", reason="x") == 5
        clock.now += SECONDS
        assert told(sums) == []


def test_other_events_are_always_written(sums: Sums) -> None:
    assert admitted(sums, 1000, "transfer", client="10.0.0.1") == 1000
    assert admitted(sums, 1000, "session-end", client="10.0.0.1", jid="a@b/c") == 1000
    assert admitted(sums, 1000, "session-end", client="10.0.0.1", jid=None) == RULES["session-end"].most


def test_orders_are_always_written_but_those_that_are_denied(sums: Sums) -> None:
    assert admitted(sums, 1000, "order", by="alice", outcome="done") == 1000
    assert admitted(sums, 1000, "order", by="alice", outcome="refused") == 1000
    most = RULES["order"].most
    assert admitted(sums, 1000, "order", by="viewer", outcome="denied") == most
    told_of = {"by": "viewer", "outcome": "denied", "repeated": 1000 - most, "seconds": 0}
    assert told(sums, at_once=True) == [("order", told_of)]


def test_an_ipv6_client_is_its_network(sums: Sums, clock: Clock) -> None:
    assert sum(admitted(sums, 1, "tls-failed", client=f"2001:db8::{number:x}") for number in range(1000)) == 5
    assert admitted(sums, 1, "tls-failed", client="fe80::1%eth0") == 1
    clock.now = SECONDS
    assert told(sums) == [("tls-failed", {"client": "2001:db8::/64", "repeated": 995, "seconds": 60})]


def test_many_strangers_are_one(sums: Sums) -> None:
    many = MAX_OPEN + 500
    assert sum(admitted(sums, 1, "tls-failed", client=f"c{number}") for number in range(many)) == MAX_OPEN + 5
    assert told(sums, at_once=True) == [("tls-failed", {"client": "others", "repeated": 495, "seconds": 0})]


@pytest.mark.parametrize("rule", RULES.values())
def test_rules_write_something(rule: Rule) -> None:
    assert rule.most >= 1
