"""Plans of a rebalance: which sessions are elsewhere than they belong, and the fewest moves that even the load."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState, Health, Migrate, NodeSpec, Resume
from cxfr_proxy.cluster.placement import Placement, PlacementPolicies, PlacementPolicy
from cxfr_proxy.cluster.plan import Placed, ProposedMove
from cxfr_proxy.cluster.rebalance import NodeShare, RebalanceForecast, plan_rebalance

LEAST = PlacementPolicies(PlacementPolicy.LEAST_SESSIONS)
SHARING = NodeSpec(
    "", Address("h", 5222), weight=1, resume=Resume.SHARED, migrate=Migrate.EXTERNAL, migrate_address=Address("h", 5226)
)
"""A node from which, and to which, the proxy may take sessions."""


def cluster_of(domain: tuple[str, ...] = (), /, **weights: int) -> Cluster:
    return Cluster(NodeSpec(name, Address("h", 5222), weight=weight, domain=domain) for name, weight in weights.items())


def sessions_on(counts: Mapping[str, int], domain: str = "h") -> list[Placed]:
    numbers = itertools.count(1)
    return [
        Placed(number, f"user{number}@{domain}", node, float(number), domain=domain)
        for node, count in counts.items()
        for number in itertools.islice(numbers, count)
    ]


def moves(
    snapshot: Iterable[Placed],
    cluster: Cluster,
    policies: PlacementPolicies | None = None,
    max_share: float | None = None,
) -> list[ProposedMove]:
    plan = plan_rebalance(snapshot, cluster, Placement(cluster, policies), max_share=max_share)
    return [move for move in plan if move is not None]


# --- users with a place of their own


def at_home(cluster: Cluster, count: int) -> list[Placed]:
    placement = Placement(cluster)
    return [
        Placed(number, user, home.name, float(number), domain="h")
        for number in range(count)
        if (home := placement.home(user := f"user{number}@h", "h")) is not None
    ]


def test_a_node_that_joins_gets_its_share_and_nobody_else_moves() -> None:
    before = at_home(cluster_of(a=1, b=1, c=1), 1000)
    cluster = cluster_of(a=1, b=1, c=1, d=1)
    plan = moves(before, cluster)
    assert {move.target for move in plan} == {"d"}
    assert 200 < len(plan) < 300
    there = {session.session_id: session for session in before}
    placement = Placement(cluster)
    for session in before:
        home = placement.home(session.user or "", "h")
        assert home is not None
        assert (session.session_id in {move.session_id for move in plan}) == (home.name != session.node)
    assert all(there[move.session_id].node == move.source for move in plan)
    assert not moves(at_home(cluster, 100), cluster)


def test_longest_idle_first_and_inactive_last() -> None:
    snapshot = [
        Placed(1, "u@h", "b", 5.0, domain="h"),
        Placed(2, "u@h", "b", 500.0, inactive=True, domain="h"),
        Placed(3, "u@h", "b", 50.0, domain="h"),
    ]
    cluster = cluster_of(a=256, b=0)
    cluster.get("b").spec = NodeSpec("b", Address("h", 5222), weight=1)
    placement = Placement(cluster, assigned=lambda user: "a")
    plan = [move for move in plan_rebalance(snapshot, cluster, placement) if move is not None]
    assert plan == [ProposedMove(3, "b", "a"), ProposedMove(1, "b", "a"), ProposedMove(2, "b", "a", inactive=True)]


def test_who_would_stay_down_is_counted_and_not_moved() -> None:
    """A session that is not moved does not count on its target: there is room for one more on the node."""
    cluster = cluster_of(a=1, b=1)
    cluster.get("a").spec = NodeSpec("a", Address("h", 5222), max_sessions=1)
    placement = Placement(cluster, assigned=lambda user: "a")
    snapshot = [
        Placed(1, "u1@h", "b", 99.0, domain="h", stays_down=True),
        Placed(2, "u2@h", "b", 9.0, domain="h"),
        Placed(3, "u3@h", "b", 1.0, domain="h", stays_down=True),
    ]
    for order in itertools.permutations(snapshot):
        plan = [move for move in plan_rebalance(order, cluster, placement) if move is not None]
        assert [move for move in plan if not move.stays_down] == [ProposedMove(2, "b", "a")]
    forecast = RebalanceForecast()
    for move in (ProposedMove(1, "b", "a", stays_down=True), ProposedMove(2, "b", "a")):
        forecast.add(move)
    forecast.include(forecast)
    assert (forecast.sessions, forecast.stay_down, forecast.moves) == (2, 2, {"b": {"a": 2}})


@pytest.mark.parametrize("staying_down", range(13))
def test_the_load_is_evened_by_those_who_come_back(staying_down: int) -> None:
    """Twelve on one of two nodes: six have to go, and whoever is not among them for want of others is left alone."""
    snapshot = [replace(each, stays_down=each.session_id <= staying_down) for each in sessions_on({"a": 12})]
    plan = moves(snapshot, cluster_of(a=1, b=1), LEAST)
    assert len(plan) == 6
    assert sum(move.stays_down for move in plan) == max(0, staying_down - 6)
    assert all(move.stays_down == (move.session_id <= staying_down) for move in plan)


@pytest.mark.parametrize("willing", ["ab", "a", "b", ""])
@pytest.mark.parametrize("policies", [None, LEAST])
def test_nobody_stays_down_whom_the_proxy_takes_there(willing: str, policies: PlacementPolicies | None) -> None:
    """They count as moved, among those whom an operator allows to be moved as well."""
    cluster = cluster_of(a=1, b=1)
    for name in willing:
        cluster.get(name).spec = replace(SHARING, name=name)
    snapshot = [
        replace(each, stays_down=each.session_id % 2 == 0, can_migrate=each.session_id % 4 == 0)
        for each in sessions_on({"a": 40})
    ]

    def planned(*, migrates: bool, max_share: float | None = None) -> list[ProposedMove]:
        plan = plan_rebalance(snapshot, cluster, Placement(cluster, policies), migrates=migrates, max_share=max_share)
        return [move for move in plan if move is not None]

    before, after = planned(migrates=False), planned(migrates=True)
    assert {move.session_id for move in after} == {move.session_id for move in before}
    assert not any(move.migrates for move in before)
    by_proxy = [move.session_id for move in after if move.migrates]
    assert by_proxy == [move.session_id for move in after if willing == "ab" and move.session_id % 4 == 0]
    assert all(move.stays_down == (move.session_id % 2 == 0 and not move.migrates) for move in after)
    if policies is None and willing == "ab":
        assert by_proxy
    few = [move for move in planned(migrates=True, max_share=10) if not move.stays_down]
    assert len(few) == 4


@pytest.mark.parametrize("state", ["drain", "down", "weight", "gone"])
@pytest.mark.parametrize("policies", [None, LEAST])
def test_nobody_is_moved_off_a_node_that_is_another_s_matter(state: str, policies: PlacementPolicies | None) -> None:
    cluster = cluster_of(a=0 if state == "weight" else 1, b=1)
    if state == "drain":
        cluster.get("a").set_admin_state(AdminState.DRAIN)
    elif state == "down":
        cluster.get("a").health = Health.DOWN
    elif state == "gone":
        cluster = cluster_of(b=1)
    assert not moves(sessions_on({"a": 20}), cluster, policies)


def test_who_has_no_name_or_comes_where_there_is_room_stays() -> None:
    cluster = cluster_of(a=1, b=1)
    nameless = [Placed(number, None, "a", 1.0, domain="h") for number in range(20)]
    assert not moves(nameless, cluster)
    assert not moves(nameless, cluster, LEAST)
    assert not moves(sessions_on({"b": 20}), cluster, PlacementPolicies(PlacementPolicy.FIRST_AVAILABLE))


# --- the others


def even(counts: Mapping[str, int], weights: Mapping[str, int]) -> bool:
    return all((counts[a] - 1) / weights[a] <= counts[b] / weights[b] for a in weights for b in weights)


def fewest(counts: Mapping[str, int], weights: Mapping[str, int]) -> int:
    """Of all ways to share out the sessions that are even: the one for which the fewest have to move."""
    names = list(weights)
    total = sum(counts.values())
    ways = (way for way in itertools.product(range(total + 1), repeat=len(names)) if sum(way) == total)
    return min(
        sum(max(0, counts[name] - number) for name, number in zip(names, way, strict=True))
        for way in ways
        if even(dict(zip(names, way, strict=True)), weights)
    )


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=4))
def test_the_fewest_moves_that_even_the_load(nodes: Sequence[tuple[int, int]]) -> None:
    counts = {"abcd"[number]: count for number, (count, _) in enumerate(nodes)}
    weights = {"abcd"[number]: weight for number, (_, weight) in enumerate(nodes)}
    plan = moves(sessions_on(counts), cluster_of(**weights), LEAST)
    after = Counter(counts)
    for move in plan:
        assert move.target is not None
        after[move.source] -= 1
        after[move.target] += 1
    assert even(after, weights)
    assert len(plan) == fewest(counts, weights)
    assert not {move.source for move in plan} & {move.target for move in plan}


def test_each_set_of_nodes_for_itself() -> None:
    cluster = Cluster(
        NodeSpec(name, Address("h", 5222), domain=(domain,)) for name, domain in zip("abcd", "xxyy", strict=True)
    )
    snapshot = sessions_on({"a": 8}, "x") + [
        Placed(100 + each.session_id, each.user, each.node, 1.0, domain="y") for each in sessions_on({"c": 4}, "y")
    ]
    assert Counter((move.source, move.target) for move in moves(snapshot, cluster, LEAST)) == {
        ("a", "b"): 4,
        ("c", "d"): 2,
    }


def test_who_is_where_his_domain_is_not_served_any_more_goes() -> None:
    cluster = Cluster([NodeSpec("a", Address("h", 1), domain=("y",)), NodeSpec("b", Address("h", 1), domain=("x",))])
    assert len(moves(sessions_on({"a": 3}, "x"), cluster, LEAST)) == 3


def test_who_goes_home_counts_for_the_others() -> None:
    """Ten users who belong on b and sit on a leave; so of the others nobody has to."""
    cluster = cluster_of(a=1, b=1)
    at_work = [Placed(number, f"home{number}@h", "a", 1.0, domain="h") for number in range(10)]
    floating = [Placed(100 + number, f"user{number}@h", "a", 1.0, domain="h") for number in range(10)]
    placement = Placement(cluster, LEAST, lambda user: "b" if user.startswith("home") else None)
    plan = [move for move in plan_rebalance(at_work + floating, cluster, placement) if move is not None]
    assert sorted(move.session_id for move in plan) == list(range(10))


def test_a_node_whose_weight_does_not_count_yet_gives_and_takes_nobody() -> None:
    cluster = cluster_of(a=1, b=1, c=1)
    cluster.get("c").warm_up = 0.0
    assert Counter(
        (move.source, move.target) for move in moves(sessions_on({"a": 9, "b": 1, "c": 9}), cluster, LEAST)
    ) == {("a", "b"): 4}


# --- a share of it


@pytest.mark.parametrize("policies", [None, LEAST])
def test_at_most_a_share_of_each_node(policies: PlacementPolicies | None) -> None:
    snapshot = sessions_on({"a": 100, "b": 50})
    cluster = cluster_of(a=1, b=1, c=1)
    whole, some = moves(snapshot, cluster, policies), moves(snapshot, cluster, policies, max_share=10.0)
    allowed = Counter(move.source for move in some)
    assert allowed["a"] == 10
    assert allowed["b"] <= 5
    assert [move for move in whole if move in some] == some


# --- several processes


def in_parts(
    shares: Sequence[Sequence[Placed]], cluster: Cluster, max_share: float | None = None
) -> Iterator[ProposedMove]:
    everywhere = Counter(session.node for share in shares for session in share)
    before: Counter[str] = Counter()
    for share in shares:
        plan = plan_rebalance(
            share, cluster, Placement(cluster, LEAST), everywhere=everywhere, before=before, max_share=max_share
        )
        yield from (move for move in plan if move is not None)
        before.update(session.node for session in share)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), min_size=2, max_size=4),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
    st.none() | st.floats(1.0, 100.0),
)
def test_the_parts_of_all_processes_are_the_whole(
    nodes: Sequence[tuple[int, int]], processes: int, rng: object, max_share: float | None
) -> None:
    snapshot = sessions_on({"abcd"[number]: count for number, (count, _) in enumerate(nodes)})
    cluster = cluster_of(**{"abcd"[number]: weight for number, (_, weight) in enumerate(nodes)})
    shares: list[list[Placed]] = [[] for _ in range(processes)]
    for session in snapshot:
        rng.choice(shares).append(session)  # type: ignore[attr-defined]
    parts = list(in_parts(shares, cluster, max_share))
    whole = moves(snapshot, cluster, LEAST, max_share=max_share)
    assert len({move.session_id for move in parts}) == len(parts)
    by_source, of_whole = Counter(move.source for move in parts), Counter(move.source for move in whole)
    assert all(0 <= of_whole[name] - by_source[name] < processes for name in of_whole.keys() | by_source.keys())
    if max_share is None:
        assert by_source == of_whole
        assert Counter((move.source, move.target) for move in parts) == Counter(
            (move.source, move.target) for move in whole
        )


def test_parts() -> None:
    assert [NodeShare(own, before, 10).of(3) for own, before in ((4, 0), (0, 4), (6, 4))] == [
        range(1),
        range(1, 1),
        range(1, 3),
    ]
    assert NodeShare(0, 0, 0).of(0) == range(0)
    assert NodeShare(3, 0, 3).scaled(2) == 2
    assert NodeShare(3, 0, 9).scaled(2) == 6


# --- what it comes to


def test_a_forecast() -> None:
    """In parts, or at once."""
    whole, first, second = RebalanceForecast(), RebalanceForecast(), RebalanceForecast()
    plan = moves(sessions_on({"a": 30, "b": 12}), cluster_of(a=1, b=1, c=1), LEAST)
    for number, move in enumerate(plan):
        whole.add(move)
        (first if number % 3 else second).add(move)
    first.include(second)
    assert first == whole
    assert whole.sessions == len(plan) == 16
    assert whole.moves == {"a": {"c": 14, "b": 2}}
