"""The sources that know better than the policy, and the order in which they are asked."""

from __future__ import annotations

import pytest

from cxfr_proxy.cluster import assigned as module
from cxfr_proxy.cluster.assigned import Answers, Assigned, Pins
from cxfr_proxy.cluster.user_map import parse_user_map
from cxfr_proxy.errors import ConfigError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pins_before_the_map_before_answers() -> None:
    assigned = Assigned(answers=Answers(10.0, Clock()))
    assert assigned.answers is not None
    assert assigned.node_of("kim@h") is None
    assigned.answers.note("kim@h", "answered")
    assert assigned.node_of("Kim@H") == "answered"
    assert assigned.operators_choice("kim@h") is None
    assigned.listed = parse_user_map([b"KIM@h listed"], "u")
    assert assigned.node_of("Kim@H") == "listed"
    assigned.pins.pin("kiM@h", "pinned")
    assert assigned.node_of("Kim@H") == assigned.operators_choice("kim@h") == "pinned"
    assert assigned.pins.unpin("kim@H")
    assert assigned.node_of("Kim@H") == "listed"


class Follower:
    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []

    def pin_changed(self, key: str, node: str | None) -> None:
        self.told.append((key, node))


def test_each_change_of_a_pin_is_told_once() -> None:
    follower = Follower()
    pins = Pins({"a@h": "n0"}, follower)
    pins.pin("Kim@h", "n1")
    pins.pin("kim@h", "n2")
    assert pins.unpin("KIM@h")
    assert not pins.unpin("kim@h")
    assert follower.told == [("kim@h", "n1"), ("kim@h", "n2"), ("kim@h", None)]
    assert pins.nodes == {"a@h": "n0"}


def test_there_are_not_too_many_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PINS", 2)
    pins = Pins({"a@h": "n", "b@h": "n"})
    with pytest.raises(ConfigError, match="there are 2 pins already"):
        pins.pin("c@h", "n")
    pins.pin("a@h", "other")
    assert pins.nodes == {"a@h": "other", "b@h": "n"}


def test_an_answer_holds_for_its_time_and_so_does_none() -> None:
    clock = Clock()
    answers = Answers(10.0, clock)
    answers.note("kim@h", "n1")
    answers.note("sam@h", None)
    assert answers.knows("sam@h")
    assert answers.node_of("sam@h") is None
    clock.now += 9.9
    assert answers.node_of("kim@h") == "n1"
    answers.note("kim@h", "n2")
    clock.now += 0.1
    assert answers.node_of("kim@h") == "n2"
    assert not answers.knows("sam@h")
    clock.now += 10
    assert not answers.knows("kim@h")
    assert answers.node_of("kim@h") == "n2", "until another one is given"
    answers.note("kim@h", None)
    assert answers.node_of("kim@h") is None


def test_the_oldest_answers_make_room() -> None:
    answers = Answers(10.0, Clock(), limit=2)
    for key in ("a", "b", "a", "c"):
        answers.note(key, "n")
    assert [answers.knows(key) for key in ("a", "b", "c")] == [True, False, True]
