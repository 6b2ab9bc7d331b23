"""Placement: homes that stay, shares that follow weights."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import AdminState, Health, NodeSpec
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.placement import Placement, PlacementPolicies, PlacementPolicy, rank, rank_to_resume

USERS = [f"user{number}@example.org" for number in range(2000)]


def nodes(weights: Mapping[str, int]) -> list[Node]:
    return [Node(NodeSpec(name, Address("h", 5222), weight=weight)) for name, weight in weights.items()]


def order(user: str | None, weights: Mapping[str, int], sessions: Mapping[str, int] | None = None) -> list[str]:
    return [node.name for node in rank(user, nodes(weights), sessions or {})]


weights_of_nodes = st.dictionaries(
    st.text("abcdefgh123", min_size=1, max_size=4), st.integers(1, 256), min_size=2, max_size=6
)
users = st.text(min_size=1, max_size=12)


@given(users, weights_of_nodes, st.data())
def test_without_a_node_the_order_of_the_others_stays(user: str, weights: dict[str, int], data: st.DataObject) -> None:
    """Read both ways: removing a node moves only its users, and adding one moves users only to it."""
    gone = data.draw(st.sampled_from(sorted(weights)))
    full = order(user, weights)
    less = order(user, {name: weight for name, weight in weights.items() if name != gone})
    assert sorted(full) == sorted(weights)
    assert less == [name for name in full if name != gone]


@given(users, weights_of_nodes, st.data())
def test_a_heavier_node_only_gains(user: str, weights: dict[str, int], data: st.DataObject) -> None:
    grown = data.draw(st.sampled_from(sorted(weights)))
    before = order(user, weights)
    after = order(user, {**weights, grown: weights[grown] + 1})
    assert after.index(grown) <= before.index(grown)
    assert [name for name in after if name != grown] == [name for name in before if name != grown]


@given(users, weights_of_nodes, st.randoms(use_true_random=False), st.integers(0, 9))
def test_neither_the_list_s_order_nor_the_load_matters_to_a_home(
    user: str, weights: dict[str, int], dice: random.Random, load: int
) -> None:
    shuffled = list(weights.items())
    dice.shuffle(shuffled)
    assert order(user, dict(shuffled), {shuffled[0][0]: load}) == order(user, weights)


def test_shares_follow_weights() -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    homes = Counter(order(user, weights)[0] for user in USERS)
    for name, weight in weights.items():
        assert abs(homes[name] / len(USERS) - weight / 8) < 0.04  # more than 3.5 standard deviations


def test_the_users_of_a_lost_node_spread_by_weight() -> None:
    weights = {"a": 1, "b": 3, "gone": 4}
    second = Counter(ranked[1] for user in USERS if (ranked := order(user, weights))[0] == "gone")
    assert abs(second["b"] / second.total() - 0.75) < 0.06


KNOWN = {
    "juliet@example.org": ["node3", "node1", "node2"],
    "rosaline@example.org": ["node1", "node3", "node2"],
    "paris@example.org": ["node2", "node3", "node1"],
}


def test_known_answers() -> None:
    """A change here moves the users of every running cluster at its next upgrade."""
    for user, expected in KNOWN.items():
        assert order(user, {"node1": 1, "node2": 1, "node3": 2}) == expected


def test_another_process_with_another_hash_seed_agrees() -> None:
    program = (
        "from cxfr_proxy.cluster.members import Node\n"
        "from cxfr_proxy.cluster.nodes import *\n"
        "from cxfr_proxy.cluster.placement import rank\n"
        "nodes = [Node(NodeSpec(n, Address('h', 1))) for n in ('a', 'b', 'c', 'd')]\n"
        "print(*(rank(f'user{i}@example.org', nodes, {})[0].name for i in range(50)))\n"
    )
    answers = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert answers == [order(user, {"a": 1, "b": 1, "c": 1, "d": 1})[0] for user in USERS[:50]]


def test_one_home_for_all_spellings_of_a_user() -> None:
    weights = {f"n{number}": 1 for number in range(50)}
    for spellings in (
        ("juliet@example.org", "Juliet@EXAMPLE.org"),
        ("jos\u00e9@example.org", "jose\u0301@example.org", "JOS\u00c9@example.org", "JOSE\u0301@example.org"),
    ):
        assert len({tuple(order(user, weights)) for user in spellings}) == 1


def test_a_node_of_weight_0_is_the_last_choice() -> None:
    assert {order(user, {"a": 0, "b": 1})[0] for user in USERS[:50]} == {"b"}
    assert order(None, {"a": 0, "b": 1}, {"b": 99}) == ["b", "a"]
    assert order("u@h", {"a": 0}) == ["a"]


def test_without_a_name_the_least_sessions_per_weight_win_and_ties_keep_their_order() -> None:
    assert order(None, {"b": 1, "a": 1}) == ["b", "a"]
    assert order(None, {"b": 1, "a": 1}, {"b": 1}) == ["a", "b"]
    assert order(None, {"a": 1, "b": 4}, {"a": 2, "b": 7}) == ["b", "a"]
    assert order(None, {"a": 1, "b": 4}, {"a": 2, "b": 8}) == ["a", "b"]
    assert order(None, {"a": 1, "b": 4}, {"a": 2, "b": 9}) == ["a", "b"]


def test_nobody_there() -> None:
    assert rank("u@h", [], {}) == []
    assert rank(None, [], {}) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("", "dabc"),
        ("weight=0", "dabc"),
        ("down", "acb"),
        ("drain", "acb"),
        ("removed", "acb"),
        ("drain alone", "abc"),
    ],
)
def test_who_comes_to_resume_goes_where_the_session_is(change: str, expected: str) -> None:
    """``d`` holds it; ``a`` and ``c`` share sessions with it."""
    own = "" if change.endswith("alone") else "resume=shared"
    weight = change if change.startswith("weight") else ""
    listed = parse_nodes(f"a h resume=shared\nb h\nc h resume=shared\nd h {own} {weight}", "n.txt")
    cluster = Cluster(listed)
    holder = cluster.get("d")
    if change.startswith("drain"):
        holder.set_admin_state(AdminState.DRAIN)
    elif change == "down":
        holder.health = Health.DOWN
    elif change == "removed":
        cluster.apply(listed[:3])
    ranked = sorted(cluster.candidates(), key=lambda node: node.name)
    assert "".join(node.name for node in rank_to_resume(ranked, holder)) == expected


# --- by policy


def placement(nodes: str, policies: PlacementPolicies | None = None, **assigned: str) -> Placement:
    cluster = Cluster(parse_nodes(nodes, "nodes.txt"))
    return Placement(cluster, policies, lambda user: assigned.get(user.partition("@")[0]))


def ranked(placement: Placement, user: str | None, domain: str = "h", **sessions: int) -> list[str]:
    return [node.name for node in placement.rank(user, domain, sessions)]


def test_each_domain_has_its_policy_and_its_nodes() -> None:
    placed = placement(
        "a h1 domain=one\nb h2 domain=one,two\nc h3",
        PlacementPolicies(PlacementPolicy.FIRST_AVAILABLE, {"two": PlacementPolicy.LEAST_SESSIONS}),
    )
    assert ranked(placed, "u@one", "One", a=9, b=5) == ["a", "b", "c"]
    assert ranked(placed, "u@two", "two", a=9, b=5, c=1) == ["c", "b"]
    assert ranked(placed, "u@three", "three") == ["c"]
    assert placed.home("u@one", "one") is None


def test_who_was_assigned_a_node_has_it_first() -> None:
    placed = placement("a h1\nb h2\nc h3", PlacementPolicies(PlacementPolicy.LEAST_SESSIONS), kim="c", lost="gone")
    assert ranked(placed, "kim@h", a=1, b=0, c=9) == ["c", "b", "a"]
    assert ranked(placed, "lost@h", a=1, b=0, c=9) == ["b", "a", "c"]
    home = placed.home("kim@h", "h")
    assert home is not None
    assert home.name == "c"
    assert placed.home("sam@h", "h") is None
    assert placed.home("lost@h", "h") is None


def test_a_home_is_up() -> None:
    cluster = Cluster(parse_nodes("a h1\nb h2", "nodes.txt"))
    placed = Placement(cluster)
    first = placed.home("kim@h", "h")
    assert first is not None
    first.health = Health.DOWN
    assert placed.home("kim@h", "h") not in (None, first)


def test_a_node_that_comes_back_takes_users_as_its_ramp_grows_and_gives_none_away() -> None:
    cluster = Cluster(parse_nodes("a h1\nb h2\nc h3", "nodes.txt"))
    placed, users = Placement(cluster), [f"user{number}@h" for number in range(600)]
    before: set[str] = set()
    for warm_up in (0.1, 0.3, 0.6, 1.0):
        cluster.get("c").warm_up = warm_up
        there = {user for user in users if ranked(placed, user)[0] == "c"}
        assert before <= there
        assert abs(len(there) / 600 - warm_up / (2 + warm_up)) < 0.06
        before = there


# --- nodes that have still to be restarted


@pytest.mark.parametrize("policy", PlacementPolicy)
def test_a_node_that_has_to_be_restarted_takes_only_those_that_nobody_else_takes(policy: PlacementPolicy) -> None:
    cluster = Cluster(parse_nodes("a h1\nb h2 max-sessions=9\nc h3\nd h4 priority=1", "nodes.txt"))
    placed = Placement(cluster, PlacementPolicies(policy), {"kim@h": "c"}.get)
    rolled = [cluster.rolling]
    usual = {user: ranked(placed, user) for user in ("sam@h", "pat@h", None)}
    for name in ("a", "c"):
        cluster.get(name).to_restart = True
    rolled.append(cluster.rolling)
    for user, order in usual.items():
        assert ranked(placed, user) == ["b", *(name for name in order if name in "ac"), "d"]
        assert ranked(placed, user, b=9)[-1] == "b", "it is full"
        assert ranked(placed, user, b=9)[:-1] == [*(name for name in order if name in "ac"), "d"]
    assert ranked(placed, "kim@h")[:2] == ["c", "b"], "an operator has said so"
    cluster.get("b").health = Health.DOWN
    assert ranked(placed, "sam@h")[0] in "ac"
    for name in ("a", "c"):
        cluster.get(name).to_restart = False
    cluster.get("b").health = Health.UP
    assert {user: ranked(placed, user) for user in usual} == usual
    assert [*rolled, cluster.rolling] == [False, True, False]


# --- nodes that are full


@pytest.mark.parametrize("policy", PlacementPolicy)
def test_a_full_node_takes_nobody_new_while_another_has_room(policy: PlacementPolicy) -> None:
    placed = placement("a h1 max-sessions=2\nb h2 max-sessions=3\nc h3", PlacementPolicies(policy), kim="a")
    for user in ("kim@h", "sam@h", "pat@h", None):
        free = ranked(placed, user, a=1, b=2, c=5)
        full = ranked(placed, user, a=2, b=4, c=5)
        assert full == [name for name in free if name == "c"] + [name for name in free if name != "c"]
    assert ranked(placed, "kim@h", a=1, b=9, c=5)[0] == "a"
    assert ranked(placed, "kim@h", a=2, b=2, c=5)[0] != "a"


def test_nobody_belongs_on_a_node_that_is_full_and_nobody_has_to_leave_it() -> None:
    placed = placement("a h1 max-sessions=2\nb h2", kim="a")
    home = placed.home("kim@h", "h", {"a": 1})
    assert home is not None
    assert home.name == "a"
    assert placed.home("kim@h", "h", {"a": 2}) is None


# --- minimal movement, whatever decides

lists = st.lists(
    st.tuples(
        st.sampled_from("abcdefghijkl"),
        st.integers(1, 8),
        st.sampled_from(["", " domain=one", " domain=two", " domain=one,two"]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda line: line[0],
)
Line = tuple[str, int, str]
PEOPLE = [f"user{number}@{domain}" for number in range(8) for domain in ("one", "two")]
ASSIGNED = {"user1": "a", "user2": "b", "user3": "z"}


def homes(lines: list[Line], policies: PlacementPolicies) -> dict[str, str | None]:
    nodes = "\n".join(f"{name} h weight={weight}{domain}" for name, weight, domain in lines)
    placed = placement(nodes, policies, **ASSIGNED)
    found = {user: placed.home(user, user.partition("@")[2]) for user in PEOPLE}
    return {user: node.name if node is not None else None for user, node in found.items()}


policies_of_two = st.builds(
    PlacementPolicies,
    st.sampled_from(PlacementPolicy),
    st.dictionaries(st.just("two"), st.sampled_from(PlacementPolicy), max_size=1),
)


@given(lists, policies_of_two, st.data())
def test_a_node_that_goes_or_comes_moves_only_its_own_users(
    lines: list[Line], policies: PlacementPolicies, data: st.DataObject
) -> None:
    """Read both ways, as above; of policies without homes only the assigned have one. Users who were assigned the node
    that goes fall back to the policy, and they alone may have to leave the others then."""
    gone = data.draw(st.sampled_from([line[0] for line in lines]))
    before = homes(lines, policies)
    rest = [line for line in lines if line[0] != gone]
    after = homes(rest, policies) if rest else dict.fromkeys(PEOPLE)
    for user in PEOPLE:
        if before[user] != gone and policies.of(user.partition("@")[2]) is PlacementPolicy.RENDEZVOUS:
            assert after[user] == before[user]


@given(lists, st.data())
def test_a_change_of_weight_moves_users_to_or_from_that_node_only(lines: list[Line], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(lines) - 1))
    name, weight, domain = lines[place]
    heavier = [*lines[:place], (name, weight + data.draw(st.integers(1, 200)), domain), *lines[place + 1 :]]
    before, after = homes(lines, PlacementPolicies()), homes(heavier, PlacementPolicies())
    for user in PEOPLE:
        assert after[user] in (before[user], name)


@given(lists, st.sampled_from(PlacementPolicy))
def test_users_are_on_nodes_of_their_domain(lines: list[Line], policy: PlacementPolicy) -> None:
    serving = {name: domain for name, _, domain in lines}
    for user, node in homes(lines, PlacementPolicies(policy)).items():
        assert node is None or not serving[node] or user.partition("@")[2] in serving[node]


@pytest.mark.parametrize(("count", "most"), [(3, 0.03), (10, 0.08), (100, 0.40)])
def test_each_node_has_its_share(count: int, most: float) -> None:
    """20,000 users; ``most`` is five standard deviations of the binomial distribution, and some."""
    there = nodes({f"node{number}": 1 for number in range(count)})
    draws = Counter(rank(f"user{number}@example.org", there, {})[0].name for number in range(20_000))
    assert len(draws) == count
    assert max(abs(users / (20_000 / count) - 1) for users in draws.values()) < most
