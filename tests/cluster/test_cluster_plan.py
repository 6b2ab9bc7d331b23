"""Plans of a drain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.members import Cluster, UnknownNode
from cxfr_proxy.cluster.nodes import AdminState, Health, Migrate, NodeSpec, Resume
from cxfr_proxy.cluster.placement import Placement, rank
from cxfr_proxy.cluster.plan import DrainForecast, Placed, ProposedMove
from cxfr_proxy.cluster.plan import plan_drain as plan_drain_of


def cluster_of(**weights: int) -> Cluster:
    return Cluster(NodeSpec(name, Address("h", 5222), weight=weight) for name, weight in weights.items())


def plan_drain(snapshot: Iterable[Placed], node: str, cluster: Cluster) -> Iterator[ProposedMove]:
    return plan_drain_of(snapshot, node, cluster, Placement(cluster))


def test_longest_idle_first_and_only_the_node_s_own_sessions() -> None:
    snapshot = [
        Placed(1, None, "a", 5.0),
        Placed(2, None, "b", 99.0),
        Placed(3, None, "a", 50.0),
        Placed(5, None, "a", 7.0),
        Placed(4, None, "a", 7.0),
    ]
    plan = list(plan_drain(iter(snapshot), "a", cluster_of(a=1, b=1)))
    assert plan == [
        ProposedMove(3, "a", "b"),
        ProposedMove(4, "a", "b"),
        ProposedMove(5, "a", "b"),
        ProposedMove(1, "a", "b"),
    ]


def test_nameless_sessions_fill_up_what_is_there_by_weight() -> None:
    snapshot = [Placed(number, None, "a", 0.0) for number in range(8)]
    snapshot += [Placed(number, None, "b", 0.0) for number in range(10, 14)]
    plan = plan_drain(snapshot, "a", cluster_of(a=1, b=1, c=3))
    # 12 sessions on weights 1 and 3 are 3 and 9; the 4 on b stay, so c gets all 8.
    assert Counter(move.target for move in plan) == {"c": 8}
    plan = plan_drain(snapshot[:8], "a", cluster_of(a=1, b=1, c=3))
    assert Counter(move.target for move in plan) == {"b": 2, "c": 6}


def test_moves_of_users_with_a_home_count_as_load_for_those_without() -> None:
    cluster = cluster_of(a=1, b=1, c=1)
    snapshot = [Placed(number, f"user{number}@h", "a", 100.0) for number in range(20)]
    snapshot += [Placed(100 + number, None, "a", 1.0) for number in range(20)]
    targets = Counter(move.target for move in plan_drain(snapshot, "a", cluster))
    assert targets == {"b": 20, "c": 20}


def test_users_go_to_their_next_home() -> None:
    cluster = cluster_of(a=1, b=1, c=1, d=1)
    others = cluster.candidates(exclude=("a",))
    snapshot = [Placed(number, f"user{number}@h", "a", 0.0) for number in range(50)]
    for session, move in zip(snapshot, plan_drain(snapshot, "a", cluster), strict=True):
        assert move == ProposedMove(session.session_id, "a", rank(session.user, others, {})[0].name)
    assert len({move.target for move in plan_drain(snapshot, "a", cluster)}) == 3


def test_nobody_there_to_take_them() -> None:
    cluster = cluster_of(a=1, b=0)
    assert list(plan_drain([Placed(1, "u@h", "a", 0.0), Placed(2, None, "a", 0.0)], "a", cluster)) == [
        ProposedMove(1, "a", None),
        ProposedMove(2, "a", None),
    ]


def test_nobody_is_moved_onto_a_node_that_is_down() -> None:
    cluster = cluster_of(a=1, b=1, c=1)
    cluster.get("b").health = Health.DOWN
    snapshot = [Placed(number, f"user{number}@h", "a", 0.0) for number in range(8)]
    assert {move.target for move in plan_drain(snapshot, "a", cluster)} == {"c"}
    cluster.get("c").health = Health.DOWN
    assert {move.target for move in plan_drain(snapshot, "a", cluster)} == {None}


def test_the_inactive_go_last() -> None:
    snapshot = [
        Placed(1, None, "a", 500.0, inactive=True),
        Placed(2, None, "a", 1.0),
        Placed(3, None, "a", 900.0, inactive=True),
        Placed(4, None, "a", 2.0),
    ]
    plan = list(plan_drain(snapshot, "a", cluster_of(a=1, b=1)))
    assert [(move.session_id, move.inactive) for move in plan] == [(4, False), (2, False), (3, True), (1, True)]


def test_what_a_plan_comes_to() -> None:
    """In parts, as several processes have them, or at once."""
    cluster = cluster_of(a=1, b=1, c=1)
    snapshot = [
        Placed(number, f"user{number}@h", "a", 0.0, number % 3 == 0, stays_down=number % 10 == 0)
        for number in range(30)
    ]
    whole, total = DrainForecast(), DrainForecast()
    for move in plan_drain(snapshot, "a", cluster):
        whole.add(move)
    for part in (snapshot[:7], snapshot[7:]):
        forecast = DrainForecast()
        for move in plan_drain(part, "a", cluster):
            forecast.add(move)
        total.include(forecast)
    assert total == whole
    assert (whole.sessions, whole.inactive, whole.unplaced, sum(whole.targets.values())) == (30, 10, 0, 30)
    assert whole.stay_down == 3, "and they leave with the others"
    assert whole.targets.keys() == {"b", "c"}
    nowhere = DrainForecast()
    for move in plan_drain(snapshot, "a", cluster_of(a=1)):
        nowhere.add(move)
    assert nowhere == DrainForecast(sessions=30, inactive=10, unplaced=30, stay_down=3)


def test_a_plan_says_who_will_not_notice() -> None:
    """Those of them whose clients would not come back do not have to."""
    spec = NodeSpec(
        "", Address("h", 1), resume=Resume.SHARED, migrate=Migrate.EXTERNAL, migrate_address=Address("h", 2)
    )
    cluster = Cluster([replace(spec, name="a"), replace(spec, name="b"), NodeSpec("c", Address("h", 1))])
    snapshot = [
        Placed(number, f"user{number}@h", "a", 0.0, stays_down=number % 3 == 0, can_migrate=number % 2 == 0)
        for number in range(60)
    ]
    forecast, known = DrainForecast(), {each.session_id: each for each in snapshot}
    for move in plan_drain_of(snapshot, "a", cluster, Placement(cluster), migrates=True):
        session = known[move.session_id]
        assert move.migrates == (session.can_migrate and move.target == "b")
        assert move.stays_down == (session.stays_down and not move.migrates)
        forecast.add(move)
    assert 0 < forecast.migrate < 30, "some go to b and some to c"
    assert 10 < forecast.stay_down < 20
    assert not any(move.migrates for move in plan_drain(snapshot, "a", cluster)), "without a certificate"
    there = [replace(each, node="c") for each in snapshot]
    back = list(plan_drain_of(there, "c", cluster, Placement(cluster), migrates=True))
    assert len(back) == 60
    assert not any(move.migrates for move in back), "c does not allow it either way"


@pytest.mark.parametrize(
    ("plan", "terms", "seconds"),
    [
        (DrainForecast(100, 40, 0, {"b": 100}), {}, 10.0),
        (DrainForecast(100, 40, 0, {"b": 100}), {"grace": 5.0}, 15.0),
        (DrainForecast(100, 40, 0, {"b": 100}), {"deadline": 60.0}, 34.0),  # half of it, then 40
        (DrainForecast(100, 0, 0, {"b": 100}), {"deadline": 60.0}, 10.0),
        (DrainForecast(100, 40, 0, {"b": 100}), {"deadline": 10.0}, 9.0 + 1.0),
        (DrainForecast(100, 40, 0, {"b": 100}), {"deadline": 8.0, "grace": 3.0}, 8.0),
        (DrainForecast(100, 40, 100), {"grace": 5.0}, 5.0),
        (DrainForecast(), {}, 0.0),
        (DrainForecast(100, 0, 0, {"b": 100}, migrate=50), {"paced_rate": 5.0}, 15.0),
        (DrainForecast(100, 0, 0, {"b": 100}, migrate=50), {"paced_rate": 20.0}, 10.0),
        (DrainForecast(), {"paced_rate": 5.0}, 0.0),
    ],
)
def test_how_long_it_takes(plan: DrainForecast, terms: dict[str, float], seconds: float) -> None:
    assert plan.seconds(10.0, **terms) == pytest.approx(seconds)


def test_a_removed_node_is_drained_and_an_unknown_one_is_an_error() -> None:
    cluster = cluster_of(a=1, b=1)
    cluster.apply([cluster.get("b").spec])
    assert list(plan_drain([Placed(1, "u@h", "a", 0.0)], "a", cluster)) == [ProposedMove(1, "a", "b")]
    with pytest.raises(UnknownNode):
        plan_drain([], "x", cluster)


@given(
    st.lists(
        st.builds(
            Placed,
            session_id=st.integers(0, 10_000),
            user=st.none() | st.sampled_from(["u@h", "v@h", "w@h"]),
            node=st.sampled_from("abc"),
            idle_seconds=st.floats(0, 100),
            inactive=st.booleans(),
        ),
        unique_by=lambda session: session.session_id,
    ),
    st.sampled_from(AdminState),
)
def test_every_session_of_the_node_moves_once_to_another_that_takes_it(
    snapshot: list[Placed], admin_state: AdminState
) -> None:
    cluster = cluster_of(a=1, b=1, c=1)
    cluster.get("c").set_admin_state(admin_state)
    plan = list(plan_drain(snapshot, "a", cluster))
    assert Counter(move.session_id for move in plan) == Counter(s.session_id for s in snapshot if s.node == "a")
    assert {move.target for move in plan} <= ({"b", "c"} if admin_state is AdminState.READY else {"b"})
    turns = {session.session_id: (session.inactive, -session.idle_seconds) for session in snapshot}
    order = [turns[move.session_id] for move in plan]
    assert order == sorted(order)
    homes: dict[str, set[str | None]] = {}
    users = {session.session_id: session.user for session in snapshot}
    for move in plan:
        if (user := users[move.session_id]) is not None:
            homes.setdefault(user, set()).add(move.target)
    assert all(len(targets) == 1 for targets in homes.values())
