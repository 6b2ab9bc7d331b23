"""What a proxy keeps for its next start, as it is written and read."""

from __future__ import annotations

import json

import pytest

from cxfr_proxy.cluster.assigned import MAX_PINS
from cxfr_proxy.cluster.kept_state import MAX_CAPS, MAX_SOFTWARE, SOFTWARE_SECONDS, KeptState, read_state
from cxfr_proxy.cluster.nodes import AdminState
from cxfr_proxy.cluster.roll import RollRecord, RollStep
from cxfr_proxy.cluster.shared import Directive
from cxfr_proxy.errors import ConfigError


def full() -> KeptState:
    state = KeptState(
        orders={
            "node1": Directive(AdminState.DRAIN, 1000.5, 1030.0, 1060.0, rate=5.0, against=AdminState.READY),
            "node2": Directive(AdminState.MAINT, to_restart=True, rebalance=False),
        },
        pins={"juliet@example.org": "node2"},
        roll=RollRecord(("node1", "node2"), done=1, step=RollStep.RETURN, stopped="it is not up"),
    )
    state.learn({"urn:a#1": True, "urn:b#2": False}, 1000.0)
    return state


def test_what_is_written_is_read() -> None:
    assert read_state(full().encode()) == full()
    assert read_state(KeptState().encode()) == KeptState()


def test_what_a_newer_program_has_added_is_passed_over() -> None:
    value = json.loads(full().encode())
    value["moods"] = {"node1": "gloomy"}
    value["nodes"]["node1"]["mood"] = "gloomy"
    value["roll"]["mood"] = "gloomy"
    value["software"]["urn:a#1"]["mood"] = "gloomy"
    assert read_state(json.dumps(value).encode()) == full()


def changed(**parts: object) -> bytes:
    return json.dumps(json.loads(full().encode()) | parts).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "expected a state file of cxfr-proxy: "),
        (b"\x00\xff", "expected a state file of cxfr-proxy: "),
        (b"[]", "expected a state file of cxfr-proxy: "),
        (b"{}", "expected a state file of cxfr-proxy: .*format"),
        (b"[" * 100_000, "expected a state file of cxfr-proxy: "),
        (full().encode()[:-9], "expected a state file of cxfr-proxy: "),
        (changed(format="notes"), "expected a state file of cxfr-proxy, found one of 'notes'"),
        (changed(version=2), "expected version 1, found 2: another version of cxfr-proxy wrote it"),
        (changed(pins=[]), r"expected the state as cxfr-proxy keeps it: .*\$.pins"),
        (changed(pins={"juliet@example.org": 1}), r"\$.pins"),
        (changed(pins={f"{n}@a": "b" for n in range(MAX_PINS + 1)}), "pins: expected at most 10000, found 10001"),
        (changed(roll={"nodes": ["node1"], "step": "dance"}), r"\$.roll.step"),
        (changed(nodes={"node1": "dance"}), "nodes: 'node1': expected ready, drain, maint or a JSON object"),
        (changed(nodes={"node1": {"admin_state": "drain", "rate": 0}}), "nodes: 'node1': expected a rate above 0"),
        (changed(nodes={"node1": {"admin_state": "drain", "deadline": -1}}), "expected a number as deadline"),
        (changed(nodes={"node1": {"admin_state": "dance"}}), "as an admin state, found 'dance'"),
        (changed(software={"urn:a": {"knows_cxfr": 1, "learned_at": 0}}), r"\$.software"),
    ],
)
def test_what_is_no_state(data: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_state(data)


def test_of_software_the_latest_is_kept() -> None:
    state = KeptState()
    known = {f"urn:{number}": True for number in range(MAX_SOFTWARE + 10)}
    state.learn({**known, "x" * (MAX_CAPS + 1): True}, 5.0)
    assert len(state.software) == MAX_SOFTWARE
    assert "urn:9" not in state.software
    assert f"urn:{MAX_SOFTWARE + 9}" in state.software
    assert read_state(state.encode()) == state


def test_what_was_learned_of_software_is_learned_anew_some_day() -> None:
    state = KeptState()
    state.learn({"urn:a": True, "urn:b": True}, 0.0)
    state.learn({"urn:a": True, "urn:b": False}, 10.0)  # nothing new about a
    assert state.software_known(SOFTWARE_SECONDS - 1) == {"urn:a": True, "urn:b": False}
    assert state.software_known(SOFTWARE_SECONDS + 1) == {"urn:b": False}
