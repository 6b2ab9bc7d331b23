"""The state that several proxies share: values, what follows from all keys, and each one's share of the pace."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.shared import Directive, Entry, Keys, ProxyState, Section, read_directive, read_proxy, share_of
from cxfr_proxy.errors import ConfigError

times = st.none() | st.floats(0, 2**40)
admin_states = st.sampled_from(AdminState)
orders = st.builds(
    Directive,
    admin_states,
    times,
    times,
    times,
    st.none() | st.floats(0.01, 1e6),
    st.booleans(),
    st.none() | admin_states,
)
counts = st.integers(0, 2**40)
states = st.builds(ProxyState, counts, counts, st.dictionaries(st.text(), counts, max_size=3))


@given(orders)
def test_an_order_is_read_as_it_was_written(order: Directive) -> None:
    assert read_directive(order.encode()) == order


@given(states)
def test_so_is_what_a_proxy_says(state: ProxyState) -> None:
    assert read_proxy(state.encode()) == state


@pytest.mark.parametrize("admin_state", AdminState)
def test_an_admin_state_can_be_written_by_hand(admin_state: AdminState) -> None:
    assert read_directive(f" {admin_state}\n") == Directive(admin_state)


def test_what_a_later_version_says_besides_is_passed_over() -> None:
    assert read_directive('{"admin_state": "drain", "colour": "red"}') == Directive(AdminState.DRAIN)


WRONG = [
    ("", "expected ready, drain, maint or a JSON object, found ''"),
    ("drained", "expected ready, drain, maint or a JSON object, found 'drained'"),
    ("[]", "expected ready, drain, maint or a JSON object, found '[]'"),
    ("[" * 10_000, "expected ready"),
    ("1" + "0" * 5000, "expected ready"),
    ('{"admin_state": ["drain"]}', "expected ready, drain, maint as an admin state"),
    ('{"admin_state": "drain", "against": "x"}', "expected ready, drain, maint as an admin state, found 'x'"),
    ('{"admin_state": "drain", "deadline": "soon"}', "expected a number as deadline, found 'soon'"),
    ('{"admin_state": "drain", "deadline": true}', "expected a number as deadline"),
    ('{"admin_state": "drain", "deadline": NaN}', "expected a number as deadline"),
    ('{"admin_state": "drain", "grace_end": -1}', "expected a number as grace_end"),
    ('{"admin_state": "drain", "halfway": 1e999}', "expected a number as halfway"),
    ('{"admin_state": "drain", "rate": 0}', "expected a rate above 0"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_an_order_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_directive(text)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    "text",
    ["{}", '{"sessions": 1}', '{"sessions": 1, "to_move": -1}', '{"sessions": 1, "to_move": 1, "left": {"a": "x"}}'],
)
def test_a_proxy_that_says_nothing_of_use(text: str) -> None:
    with pytest.raises(ConfigError):
        read_proxy(text)


# --- the keys


def keys(**values: str) -> Keys:
    """``nodes__a="..."``."""
    found = Keys("/cxfr")
    pairs = [(f"/cxfr/{name.replace('__', '/')}", value) for name, value in values.items()]
    found.replace((key, Entry(value, revision)) for revision, (key, value) in enumerate(pairs, start=1))
    return found


def read(found: Keys, **pending: Directive) -> dict[str, str]:
    return {spec.name: str(spec.admin_state) for spec in found.read_nodes(pending)[0]}


def test_nodes_with_their_wishes() -> None:
    found = keys(nodes__b="h2 state=maint", nodes__a="h1 weight=3", states__a="drain", states__none="drain")
    assert read(found) == {"a": "drain", "b": "maint"}
    specs, holding = found.read_nodes()
    assert (specs[0].weight, holding) == (3, {"a": Directive(AdminState.DRAIN)})
    assert read(found, a=Directive(AdminState.READY)) == {"a": "ready", "b": "maint"}  # said here, and not written yet


def test_an_order_holds_until_the_line_says_something_else() -> None:
    order = Directive(AdminState.READY, against=AdminState.DRAIN).encode()
    found = keys(nodes__a="h state=drain", states__a=order)
    assert read(found) == {"a": "ready"}
    found.put("/cxfr/nodes/a", Entry("h state=drain weight=2", 9))
    assert read(found) == {"a": "ready"}
    found.put("/cxfr/nodes/a", Entry("h state=maint", 10))
    assert read(found) == {"a": "maint"}


def test_what_is_wrong_costs_nothing_else_and_is_named() -> None:
    found = keys(nodes__a="h1", nodes__b="h2", states__b="gone")
    assert read(found) == {"a": "ready", "b": "ready"}
    assert list(found.faults) == ["/cxfr/states/b"]
    found.put("/cxfr/nodes/a", Entry("h1 wieght=3", 5))
    found.put("/cxfr/nodes/c", Entry("", 6))
    assert read(found) == {"a": "ready", "b": "ready"}  # a as it was; c was never good
    assert found.faults["/cxfr/nodes/a"].startswith("column 4: expected an option (key=value), found 'wieght=3'")
    assert found.faults["/cxfr/nodes/c"].startswith("column 2: expected an address")
    found.put("/cxfr/nodes/a", Entry("h3", 7))
    found.put("/cxfr/nodes/c", None)
    found.put("/cxfr/states/b", None)
    assert str(found.read_nodes()[0][0].address) == "h3:5222"
    assert found.faults == {}


def test_no_nodes() -> None:
    with pytest.raises(ConfigError, match="as /cxfr/nodes/NAME, found none"):
        keys().read_nodes()
    found = keys()
    found.put("/cxfr/nodes/-", Entry("h", 1))
    with pytest.raises(ConfigError, match="found /cxfr/nodes/-: column 1: expected a name"):
        found.read_nodes()


@pytest.mark.parametrize("key", ["/cxfr/nodes/", "/cxfr/nodes", "/cxfr/moons/a", "/cxfrnodes/a", "/other/nodes/a"])
def test_keys_that_are_none_of_ours(key: str) -> None:
    assert Keys("/cxfr").put(key, Entry("h", 1)) is None


def test_pins_and_proxies() -> None:
    found = keys(
        proxies__one='{"sessions": 3, "to_move": 1}',
        proxies__two="?",
        proxies__three=ProxyState(left={"a": 0}, settling=("a",)).encode(),
        proxies__four='{"sessions": 3, "to_move": 1, "settling": [1]}',
    )
    assert found.put("/cxfr/pins/juliet@example.org", Entry("a\n", 9)) is Section.PINS
    assert found.pins() == {"juliet@example.org": "a"}
    # One that can't be understood lives, and has its share.
    assert found.proxies() == {
        "one": ProxyState(3, 1),
        "two": ProxyState(),
        "three": ProxyState(left={"a": 0}, settling=("a",)),
        "four": ProxyState(),
    }


# --- the pace


@given(st.dictionaries(st.text(max_size=3), states, min_size=1, max_size=8))
def test_all_shares_are_the_whole(proxies: dict[str, ProxyState]) -> None:
    shares = {name: share_of(name, proxies) for name in proxies}
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share >= 0.1 / len(proxies) - 1e-9 for share in shares.values())
    needs = {name: state.to_move for name, state in proxies.items()}
    first, second = min(needs, key=lambda name: needs[name]), max(needs, key=lambda name: needs[name])
    assert shares[first] <= shares[second] + 1e-9


def test_who_has_to_move_has_the_pace() -> None:
    proxies = {"a": ProxyState(0, 30), "b": ProxyState(0, 10), "c": ProxyState(0, 0)}
    assert [round(share_of(name, proxies), 3) for name in "abc"] == [0.708, 0.258, 0.033]
    assert share_of("a", {"a": ProxyState()}) == 1
    assert share_of("d", proxies) == 1


def test_json_that_others_can_read() -> None:
    value = json.loads(Directive(AdminState.DRAIN, grace_end=5.0, rate=2.0).encode())
    assert value == {
        "admin_state": "drain",
        "grace_end": 5.0,
        "rate": 2.0,
        "aborted": False,
        "rebalance": True,
        "to_restart": False,
    }
    assert not math.isnan(value["rate"])
