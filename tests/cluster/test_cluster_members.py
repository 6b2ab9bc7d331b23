"""The live list: reloads, admin states and health."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxfr_proxy.cluster.addresses import Address, UnixAddress
from cxfr_proxy.cluster.members import Changes, Cluster, UnknownNode
from cxfr_proxy.cluster.nodes import AdminState, Health, NodeSpec
from cxfr_proxy.errors import ConfigError


def spec(name: str, admin_state: AdminState = AdminState.READY, weight: int = 1) -> NodeSpec:
    return NodeSpec(name, Address(f"{name}.example", 5222), weight=weight, admin_state=admin_state)


A, B, C = spec("a"), spec("b"), spec("c")


def names(cluster: Cluster) -> list[str]:
    return [node.name for node in cluster]


def candidates(cluster: Cluster, exclude: tuple[str, ...] = ()) -> list[str]:
    return [node.name for node in cluster.candidates(exclude)]


def test_the_first_list_is_all_added_and_empties_nothing() -> None:
    cluster = Cluster()
    assert cluster.apply([A, replace(B, admin_state=AdminState.DRAIN)]) == Changes(added=("a", "b"))
    assert names(cluster) == ["a", "b"]
    assert [node.health for node in cluster] == [Health.UP, Health.UP]


def test_the_same_list_again_changes_nothing() -> None:
    cluster = Cluster([A, B])
    changes = cluster.apply([A, B])
    assert changes == Changes()
    assert not changes


def test_order_is_the_source_s_and_removed_nodes_come_last() -> None:
    cluster = Cluster([A, B, C])
    assert cluster.apply([C, B]) == Changes(removed=("a",), emptied=("a",))
    assert names(cluster) == ["c", "b", "a"]
    assert candidates(cluster) == ["c", "b"]
    assert cluster.apply([C, B]) == Changes()


def test_a_node_keeps_its_identity_and_health_when_options_change() -> None:
    cluster = Cluster([A])
    node = cluster.get("a")
    node.health = Health.DOWN
    assert cluster.apply([replace(A, weight=5)]) == Changes(changed=("a",))
    assert cluster.get("a") is node
    assert node.spec.weight == 5
    assert node.health is Health.DOWN


def test_a_new_address_is_innocent_of_the_old_one_s_failures() -> None:
    cluster = Cluster([A])
    cluster.get("a").health = Health.DOWN
    assert cluster.apply([replace(A, address=UnixAddress("/x"))]) == Changes(changed=("a",))
    assert cluster.get("a").health is Health.UP


@pytest.mark.parametrize("admin_state", [AdminState.DRAIN, AdminState.MAINT])
def test_a_node_marked_in_the_file_is_emptied_once(admin_state: AdminState) -> None:
    cluster = Cluster([A, B])
    marked = [replace(A, admin_state=admin_state), B]
    assert cluster.apply(marked) == Changes(changed=("a",), emptied=("a",))
    assert cluster.get("a").admin_state is admin_state
    assert cluster.apply(marked) == Changes()
    assert cluster.apply([A, B]) == Changes(changed=("a",))
    assert cluster.get("a").usable


def test_weight_0_takes_nobody_new_and_sends_nobody_away() -> None:
    cluster = Cluster([A, B])
    assert cluster.apply([replace(A, weight=0), B]) == Changes(changed=("a",))
    assert not cluster.get("a").accepts_new
    assert not cluster.get("a").leaving
    assert candidates(cluster) == ["b"]


def test_the_operator_s_admin_state_survives_a_reload_that_does_not_touch_it() -> None:
    cluster = Cluster([A, B])
    cluster.get("a").set_admin_state(AdminState.DRAIN)
    assert cluster.apply([replace(A, weight=3), B]) == Changes(changed=("a",))
    assert cluster.get("a").admin_state is AdminState.DRAIN


def test_a_changed_state_in_the_file_overrides_the_operator_s_admin_state() -> None:
    cluster = Cluster([A])
    cluster.get("a").set_admin_state(AdminState.DRAIN)
    # The file says drain now, which is so already: nobody has to be sent away again.
    assert cluster.apply([replace(A, admin_state=AdminState.DRAIN)]) == Changes(changed=("a",))
    cluster.apply([A])
    assert cluster.get("a").admin_state is AdminState.READY


def test_an_admin_state_made_ready_at_run_time_holds_against_an_unchanged_file() -> None:
    drained = replace(A, admin_state=AdminState.DRAIN)
    cluster = Cluster([drained])
    cluster.get("a").set_admin_state(AdminState.READY)
    assert cluster.apply([drained]) == Changes()
    assert cluster.get("a").admin_state is AdminState.READY


def test_a_node_that_comes_back_revives_as_its_line_says() -> None:
    cluster = Cluster([A, B])
    node = cluster.get("a")
    node.set_admin_state(AdminState.MAINT)
    cluster.apply([B])
    assert node.removed
    assert node.leaving
    assert cluster.apply([A, B]) == Changes(added=("a",))
    assert cluster.get("a") is node
    assert node.admin_state is AdminState.READY
    assert not cluster.get("a").removed
    assert names(cluster) == ["a", "b"]


def test_a_node_that_comes_back_drained_is_still_to_be_emptied() -> None:
    cluster = Cluster([A, B])
    cluster.apply([B])
    assert cluster.apply([replace(A, admin_state=AdminState.DRAIN), B]) == Changes(added=("a",), emptied=("a",))


def test_a_list_with_a_name_twice_changes_nothing() -> None:
    cluster = Cluster([A])
    with pytest.raises(ValueError, match="twice"):
        cluster.apply([B, B])
    assert names(cluster) == ["a"]
    assert not cluster.get("a").removed


def test_an_unknown_name_is_the_operator_s_error_and_shows_the_known_ones() -> None:
    cluster = Cluster([spec("node1"), spec("node2")])
    with pytest.raises(UnknownNode) as caught:
        cluster.get("nod1")
    assert isinstance(caught.value, ConfigError)
    assert str(caught.value) == "no node 'nod1' (did you mean 'node1'?); known: node1, node2"
    with pytest.raises(UnknownNode, match="known: none"):
        Cluster().get("a")
    assert "node1" in cluster
    assert "nod1" not in cluster


def test_only_a_removed_node_is_forgotten() -> None:
    cluster = Cluster([A, B])
    with pytest.raises(ValueError, match="still listed"):
        cluster.forget("a")
    cluster.apply([B])
    cluster.forget("a")
    assert names(cluster) == ["b"]
    assert len(cluster) == 1
    with pytest.raises(UnknownNode):
        cluster.forget("a")
    assert cluster.apply([A, B]) == Changes(added=("a",))


def test_candidates_are_the_usable_ones_in_order() -> None:
    cluster = Cluster([A, B, C, spec("d", AdminState.DRAIN), spec("e", AdminState.MAINT), spec("f", weight=0)])
    cluster.get("b").health = Health.DOWN
    assert candidates(cluster) == ["a", "c"]
    assert candidates(cluster, ("a",)) == ["c"]


def test_where_none_is_up_those_that_are_down_are_tried() -> None:
    cluster = Cluster([A, B, spec("d", AdminState.DRAIN)])
    for node in cluster:
        node.health = Health.DOWN
    assert candidates(cluster) == ["a", "b"]
    cluster.get("b").health = Health.UP
    assert candidates(cluster) == ["b"]
    assert candidates(cluster, ("b",)) == ["a"]
    assert candidates(cluster, ("a", "b")) == []


def test_a_cluster_can_be_changed_while_it_is_walked() -> None:
    cluster = Cluster([A, B])
    cluster.apply([])
    for node in cluster:
        cluster.forget(node.name)
    assert len(cluster) == 0
