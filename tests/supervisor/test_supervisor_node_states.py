"""The list of nodes on its way to a worker: both ends of it, without anything between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxfr_proxy.cluster.addresses import UnixAddress
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState, Health, NodeSpec, SessionOutlook
from cxfr_proxy.ipc.codec import decode, encode
from cxfr_proxy.ipc.messages import BadMessage, Nodes, NodeState
from cxfr_proxy.supervisor.workers.node_states import STATES_A_PIECE, NodeStates, NodeUpdates, digest
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.drains import Drain
from cxfr_proxy.transfers.rebalances import RebalanceTerms
from cxfr_proxy.worker.mirror import Mirror

NAMES = "abcde"


class Pair:
    """A list, and a worker's copy of it."""

    def __init__(self) -> None:
        self.cluster, self.copy = Cluster(), Cluster()
        self.drains: dict[str, Drain] = {}
        self.states = NodeStates(self.cluster, self.drains)
        self.cluster.watch(self.changed)
        self.heard: list[Nodes] = []
        self.begin()

    def begin(self) -> None:
        """A worker that knows nothing."""
        self.copy = Cluster()
        self.updates, self.mirror = NodeUpdates(self.states), Mirror(self.copy)

    def changed(self, name: str) -> None:
        self.states.changed(name)
        self.updates.changed(name)

    def batch(self) -> Iterator[None]:
        for piece in self.updates.batch():
            self.hear(piece)
            yield

    def hear(self, piece: Nodes) -> None:
        self.heard.append(piece)
        told = decode(encode(piece))
        assert isinstance(told, Nodes)
        self.mirror.apply(told)

    def send(self) -> list[Nodes]:
        """The messages that are due."""
        before = len(self.heard)
        while not self.updates.up_to_date:
            for _ in self.batch():
                pass
        return self.heard[before:]

    def list(self, *names: str) -> None:
        self.cluster.apply(NodeSpec(name, UnixAddress(f"/{name}")) for name in names)


def shape(cluster: Cluster, *, removed: bool = True) -> list[object]:
    """All that a worker knows of a list."""
    return [
        (
            each.spec,
            each.admin_state,
            each.health,
            each.session_outlook,
            each.warm_up,
            each.removed,
            dict(each.features),
        )
        for each in cluster
        if removed or not each.removed
    ]


def test_one_that_begins_is_told_everything_and_then_what_changes() -> None:
    pair = Pair()
    pair.list("a", "b", "c")
    pair.cluster.get("b").features = {"x": b"<f/>"}
    pair.drains["c"] = Drain("c", 0, 0, 0, 0, 0, 0, stage=Stage.GRACE)
    (whole,) = pair.send()
    assert [state.spec.name for state in whole.states] == ["a", "b", "c"]
    assert whole.states[2].stage is Stage.GRACE
    assert shape(pair.copy) == shape(pair.cluster)
    assert not pair.send()

    pair.cluster.get("a").health = Health.DOWN
    pair.cluster.get("a").session_outlook = SessionOutlook.DEAD
    (one,) = pair.send()
    assert [(state.spec.name, state.health, state.session_outlook) for state in one.states] == [
        ("a", Health.DOWN, SessionOutlook.DEAD)
    ]
    assert (one.names, one.features, one.forgotten) == ((), {}, ())
    assert shape(pair.copy) == shape(pair.cluster)


def test_what_has_changed_back_is_told_all_the_same() -> None:
    """The worker itself may have found the node down meanwhile."""
    pair = Pair()
    pair.list("a")
    pair.send()
    pair.copy.get("a").health = Health.DOWN  # and says so, and the supervisor's own check comes behind it
    pair.cluster.get("a").health = Health.DOWN
    pair.cluster.get("a").health = Health.UP
    assert len(pair.send()) == 1
    assert pair.copy.get("a").health is Health.UP


def test_features_are_told_once_and_forgotten() -> None:
    pair = Pair()
    pair.list(*NAMES)
    text = "<é/>" * 600
    for name in NAMES:
        pair.cluster.get(name).features = {"x": text.encode()}
    (whole,) = pair.send()
    assert whole.features == {digest(text.encode()): text}
    for name in NAMES:
        pair.cluster.get(name).health = Health.DOWN
        (one,) = pair.send()
        assert len(encode(one)) < len(text) / 4
    for number in range(1000):
        pair.cluster.get("a").features = {"x": b"<f n='%d'/>" % number}
        pair.send()
    assert len(pair.mirror._features) == len(pair.updates._held) == 2
    assert shape(pair.copy) == shape(pair.cluster)


def test_no_batch_is_longer_than_what_has_changed() -> None:
    """Two thousand nodes that go down one after the other are two thousand short messages."""
    pair = Pair()
    pair.list(*(f"n{number}" for number in range(2000)))
    whole = pair.send()
    assert len(whole) == 2000 // STATES_A_PIECE
    assert max(len(encode(piece)) for piece in whole) < 60_000
    for node in pair.cluster:
        node.health = Health.DOWN
        pair.send()
    share = sum(len(encode(piece)) for piece in whole) / 2000
    assert sum(len(encode(piece)) for piece in pair.heard[len(whole) :]) < 2000 * share * 1.2
    assert shape(pair.copy) == shape(pair.cluster)


def test_a_batch_counts_when_it_is_whole() -> None:
    pair = Pair()
    pair.list(*(f"n{number}" for number in range(2 * STATES_A_PIECE)))
    told = pair.batch()
    next(told)
    assert not len(pair.copy), "nobody is placed by half a list"
    pair.cluster.get("n0").set_admin_state(AdminState.DRAIN)  # was told already
    pair.cluster.get("n150").set_admin_state(AdminState.MAINT)  # was not
    assert list(told) == [None]
    assert len(pair.copy) == 2 * STATES_A_PIECE
    assert pair.copy.get("n150").admin_state is AdminState.MAINT
    assert pair.copy.get("n0").admin_state is AdminState.READY
    pair.send()
    assert pair.copy.get("n0").admin_state is AdminState.DRAIN


def test_a_rebalance_alone() -> None:
    pair = Pair()
    pair.list("a")
    pair.send()
    pair.states.rebalance = RebalanceTerms(1)
    (piece,) = pair.send()
    assert (piece.states, piece.rebalance) == ((), RebalanceTerms(1))
    assert not pair.send()


def test_features_that_were_not_told_are_no_message() -> None:
    state = NodeState(
        NodeSpec("a", UnixAddress("/a")),
        AdminState.READY,
        Health.UP,
        removed=False,
        stage=Stage.ALL,
        features={"x": "no such"},
    )
    with pytest.raises(BadMessage, match="features of 'a'"):
        Mirror(Cluster()).apply(Nodes((state,), names=("a",)))


texts = st.sampled_from([b"<f1/>", b"<f2/>", b"<f3/>"])
steps = st.one_of(
    st.tuples(st.just("list"), st.lists(st.sampled_from(NAMES), unique=True)),
    st.tuples(st.just("forget"), st.sampled_from(NAMES)),
    st.tuples(st.just("health"), st.sampled_from(NAMES), st.sampled_from(Health)),
    st.tuples(st.just("admin_state"), st.sampled_from(NAMES), st.sampled_from(AdminState)),
    st.tuples(st.just("warm_up"), st.sampled_from(NAMES), st.sampled_from([0.5, 1.0])),
    st.tuples(st.just("features"), st.sampled_from(NAMES), st.dictionaries(st.sampled_from("xy"), texts)),
    st.tuples(st.just("piece")),
    st.tuples(st.just("tell")),
    st.tuples(st.just("replace")),
)


@settings(max_examples=500)
@given(st.lists(steps, max_size=40))
def test_whatever_happens_in_whichever_order(history: list[tuple[object, ...]]) -> None:
    """Lists, health, admin states, features, pieces that are told meanwhile, a worker that is replaced: in the end the
    copy is the list. But of nodes whose line is gone it has those only that it has seen: it has nobody on any
    other."""
    pair = Pair()
    told: Iterator[None] = iter(())
    for what, *args in history:
        match what, args:
            case "list", [list(names)]:
                pair.list(*names)
            case "forget", [name] if name in pair.cluster and pair.cluster.get(str(name)).removed:
                pair.cluster.forget(str(name))
            case "piece", []:
                if next(told, "over") == "over":
                    told = pair.batch()
                    next(told, None)
            case "tell", []:
                list(told)
                pair.send()
            case "replace", []:
                told = iter(())
                pair.begin()
            case "forget", _:
                pass
            case _, [name, value] if name in pair.cluster:
                setattr(pair.cluster.get(str(name)), str(what), value)
    list(told)
    pair.send()
    assert shape(pair.copy, removed=False) == shape(pair.cluster, removed=False)
    assert {node.name for node in pair.copy} <= {node.name for node in pair.cluster}
