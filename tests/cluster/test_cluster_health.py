"""Findings about a node, and what follows: the table at the head of the module, row by row, and as stories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.cluster.health import (
    FAILED_LOGINS,
    FAILED_LOGINS_SECONDS,
    HOLD_SECONDS,
    LONGEST_HOLD_SECONDS,
    STEPS,
    TOGETHER_SECONDS,
    Finding,
    Vitals,
)
from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import Health, SessionOutlook
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.placement import Placement

SLOW = "S"
"""A check that brought no answer in time, while clients logged in."""
CHECKS = {
    "o": Finding.OK,
    "r": Finding.REFUSED,
    "s": Finding.SILENT,
    SLOW: Finding.SILENT,
    "f": Finding.FAILED,
    "-": Finding.UNTRIED,
}
STATES = {
    (Health.UP, SessionOutlook.GOOD): "u",
    (Health.DOWN, SessionOutlook.GOOD): "d",
    (Health.DOWN, SessionOutlook.FAILING): "F",
    (Health.DOWN, SessionOutlook.DEAD): "D",
}


def vitals(options: str = "", *, new: bool = False) -> Vitals:
    (spec,) = parse_nodes(f"a 10.0.0.1 {options}", "nodes.txt")
    return Vitals(Node(spec), new=new)


def state(of: Vitals) -> str:
    return STATES[of.node.health, of.node.session_outlook]


def told(of: Vitals, checks: str) -> str:
    """The state after each check; they are a second apart."""
    states = ""
    for second, check in enumerate(checks):
        of.checked(CHECKS[check], float(second), logins_work=check == SLOW)
        states += state(of)
    return states


@pytest.mark.parametrize(
    ("options", "checks", "states"),
    [
        ("", "oo", "uu"),
        ("", "offf", "uuuF"),
        ("", "offoff", "uuuuuu"),
        ("", "offoffff", "uuuuuuFF"),
        ("", "offfooo", "uuuFduu"),
        ("", "offfofoo", "uuuFdddu"),
        ("rise=1 fall=1", "ofofo", "uFuFu"),
        ("rise=3 fall=5", "offfffooo", "uuuuuFddu"),
        # Nobody listens: two are enough, if not one is.
        ("", "orr", "uuF"),
        ("", "oror", "uuuu"),
        ("fall=1", "or", "uF"),
        ("fall=9", "osrsrr", "uuuuuF"),
        # No answer at all, to any of them.
        ("", "osss", "uuuD"),
        ("", "ossf", "uuuF"),
        ("", "ofsss", "uuuFD"),
        ("", "osssoss", "uuuDddd"),
        ("", "osssooo", "uuuDduu"),
        ("", "osssrr", "uuuDFF"),
        # It was up on trust alone.
        ("", "fff", "ddF"),
        ("", "r", "d"),
        ("", "foo", "ddu"),
        ("fall=1", "s", "D"),
        # This machine could not look: nothing follows, but for one that was never seen well.
        ("", "o-----", "uuuuuu"),
        ("", "off-f", "uuuuF"),
        ("", "osss-o", "uuuDDd"),
        ("", "offfo-o", "uuuFddu"),
        ("", "----", "dddd"),
        ("", "-oo", "ddu"),
        ("", "oSSS--s", "uuuuuuD"),
        # Clients log in: it was alive, and one silent check without that is as sure as it would have been.
        ("", "oSSSSSo", "uuuuuuu"),
        ("", "oSSSSs", "uuuuuD"),
        ("", "oSsSs", "uuuuD"),
        ("", "offS", "uuuu"),
        ("", "offSf", "uuuuF"),
        ("fall=1", "SSs", "uuD"),
        ("", "osssSSs", "uuuDDDD"),
        ("", "oSrr", "uuuF"),
    ],
)
def test_checks(options: str, checks: str, states: str) -> None:
    assert told(vitals(options), checks) == states


def test_a_slow_node_is_one_that_checks_alone_would_have_given_up() -> None:
    node = vitals()
    slow = ""
    for check in "oSSSSoSSSsSS":
        slow += "S" if told(node, check) and node.slow else "-"
    assert slow == "---SS---S---", "neither one of which there is doubt, nor one that is down"


@pytest.mark.parametrize("finding", [Finding.REFUSED, Finding.FAILED])
def test_logins_excuse_no_wrong_answer(finding: Finding) -> None:
    node = vitals()
    for second in range(3):
        node.checked(finding, float(second), logins_work=True)
    assert state(node) == "F"


@pytest.mark.parametrize(("checks", "states"), [("oo", "uu"), ("foff", "duuu"), ("fffoo", "ddFuu")])
def test_a_new_node(checks: str, states: str) -> None:
    """It takes nobody before it was seen, and once is enough."""
    fresh = vitals(new=True)
    assert state(fresh) == "d"
    assert told(fresh, checks) == states


@pytest.mark.parametrize(
    ("options", "checks", "doubts"),
    [
        ("", "oofffooo", "--!!-!--"),
        ("", "offo", "-!!-"),
        ("", "orrr", "-!--"),
        ("rise=3", "offfoooo", "-!!-!!--"),
        ("", "ffff", "!!--"),
    ],
)
def test_checks_are_faster_while_there_is_doubt(options: str, checks: str, doubts: str) -> None:
    node = vitals(options)
    for second, (check, doubt) in enumerate(zip(checks, doubts, strict=True)):
        node.checked(CHECKS[check], float(second))
        assert node.in_doubt is (doubt == "!"), second


# --- sessions


def test_a_session_that_is_refused_takes_it_out_but_decides_nothing_about_the_others() -> None:
    node = vitals()
    assert told(node, "oo") == "uu"
    node.connect_failed(2.0)
    assert state(node) == "d"
    assert node.in_doubt
    assert told(node, "oo") == "du"
    node.connect_failed(2.0)
    assert told(node, "rr") == "dF"


def test_the_word_of_two_sessions_counts_more_than_checks() -> None:
    node = vitals("rise=1")
    told(node, "o")
    node.said_it_was_going(10.0, sessions=10)
    assert state(node) == "u", "one client may have been meant"
    node.said_it_was_going(11.0, sessions=9)
    assert state(node) == "d"
    node.checked(Finding.OK, 11.0 + HOLD_SECONDS - 0.1)
    assert state(node) == "d", "although it still accepts connections"
    node.checked(Finding.OK, 11.0 + HOLD_SECONDS)
    assert state(node) == "u"


def test_it_is_going_and_closes_its_listener() -> None:
    node = vitals()
    told(node, "o")
    node.said_it_was_going(1.0, sessions=1)
    node.checked(Finding.REFUSED, 2.0)
    assert state(node) == "d"
    node.checked(Finding.REFUSED, 3.0)
    assert state(node) == "F"


def test_words_far_apart_are_about_clients() -> None:
    node = vitals()
    for number in range(10):
        node.said_it_was_going(number * (TOGETHER_SECONDS + 0.1), sessions=10)
    assert state(node) == "u"


def test_logins_that_fail_in_a_row() -> None:
    node = vitals("rise=1")
    told(node, "o")
    for number in range(FAILED_LOGINS):
        assert state(node) == "u", number
        node.login_failed(float(number))
    assert state(node) == "d"
    node.checked(Finding.OK, 6.0)
    assert state(node) == "d", "what greets well is no better for it"
    node.checked(Finding.OK, 20.0)
    assert state(node) == "u"
    node.login_failed(21.0)
    assert state(node) == "u", "the row begins anew"


def test_a_node_that_lets_nobody_in_is_tried_less_and_less_often() -> None:
    node = vitals("rise=1")
    told(node, "o")
    now, pauses = 0.0, []
    for _ in range(9):
        for _ in range(FAILED_LOGINS + 3):  # some are still under way
            node.login_failed(now)
        assert state(node) == "d"
        went = now
        while state(node) == "d":
            now += 1.0
            node.checked(Finding.OK, now)
        pauses.append(now - went)
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, *[LONGEST_HOLD_SECONDS] * 3]
    node.login_worked()
    for _ in range(FAILED_LOGINS):
        node.login_failed(now)
    node.checked(Finding.OK, now + HOLD_SECONDS)
    assert state(node) == "u"


def test_failures_between_logins_that_work_are_about_clients() -> None:
    node = vitals()
    for number in range(FAILED_LOGINS * 3):
        node.login_failed(float(number))
        if number % (FAILED_LOGINS - 1) == 0:
            node.login_worked()
    for number in range(10):
        node.login_failed(100.0 + number * (FAILED_LOGINS_SECONDS + 1))
    assert state(node) == "u"


def test_without_checks_a_mark_wears_off() -> None:
    node = vitals("check=none")
    node.connect_failed(100.0)
    node.checked(Finding.OK, 100.0 + HOLD_SECONDS - 0.1)
    assert state(node) == "d"
    node.checked(Finding.OK, 100.0 + HOLD_SECONDS)
    assert state(node) == "u"


# --- the weight


def test_the_weight_of_a_node_that_is_back_grows_in_steps() -> None:
    node = vitals("slowstart=10s weight=4")
    told(node, "oo")
    assert (node.node.warm_up, node.grow(5.0)) == (1.0, None), "not when a proxy starts"
    told(node, "fff")
    assert node.node.warm_up == 1.0
    for second in (100.0, 101.0):
        node.checked(Finding.OK, second)
    warm_ups, now = [node.node.warm_up], 101.0
    while (due := node.grow(now)) is not None:
        warm_ups.append(node.node.warm_up)
        assert due - now == pytest.approx(0.5)
        now = due
    assert warm_ups == pytest.approx([1 / STEPS, *(max(1, step) / STEPS for step in range(STEPS))])
    assert now == pytest.approx(111.0)
    assert (node.node.warm_up, node.node.weight) == (1.0, 4.0)


def test_going_down_ends_the_growing() -> None:
    node = vitals("slowstart=10s rise=1 fall=1")
    told(node, "ofo")
    node.grow(5.0)
    assert 0 < node.node.warm_up < 1
    node.connect_failed(6.0)
    assert (node.node.warm_up, node.grow(7.0)) == (1.0, None)
    node.checked(Finding.OK, 20.0)
    assert node.node.warm_up == 1 / STEPS, "and it begins anew"


def test_placement_follows() -> None:
    cluster = Cluster(parse_nodes("a 10.0.0.1\nb 10.0.0.2 slowstart=100s rise=1 fall=1", "nodes.txt"))
    back = Vitals(cluster.get("b"))
    for check in (Finding.OK, Finding.FAILED, Finding.OK):
        back.checked(check, 0.0)
    shares = []
    for second in (0.0, 20.0, 60.0, 100.0):
        back.grow(second)
        homes = [Placement(cluster).home(f"u{n}@example.org", "example.org") for n in range(2000)]
        shares.append(sum(node is back.node for node in homes) / len(homes))
    assert shares == pytest.approx([0.05 / 1.05, 0.2 / 1.2, 0.6 / 1.6, 0.5], abs=0.03)


# --- all stories


@given(
    st.lists(st.sampled_from("orsSf"), max_size=40).map("".join), st.integers(1, 4), st.integers(1, 4), st.booleans()
)
def test_any_story(checks: str, rise: int, fall: int, new: bool) -> None:
    """Against what an operator would read off the last checks."""
    node = vitals(f"rise={rise} fall={fall}", new=new)
    before = state(node)
    for number, after in enumerate(told(node, checks)):
        past = checks[: number + 1]
        bad = len(past) - len(past.rstrip("rsSf"))
        if past.endswith(SLOW):
            assert after == before
        elif bad >= fall or past.endswith("rr"):
            assert after in "FD"
            assert (after == "D") is (past[-fall:].lower() == "s" * fall)
        before = after
        if past.endswith("o" * rise):
            assert after == "u"
        if past.endswith("o"):
            assert after in "ud"
