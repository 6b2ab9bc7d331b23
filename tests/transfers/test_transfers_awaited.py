"""Clients that were cut and may still come for their sessions."""

from __future__ import annotations

from cxfr_proxy.transfers.awaited import Awaited


def test_who_comes_who_does_not_and_who_is_forgotten() -> None:
    awaited = Awaited(3)
    for number, node in enumerate("aabb"):
        awaited.cut(f"sm-{number}", node, 12.0 + number)
    assert awaited.by_node(0.0) == {"a": 1, "b": 2}, "the oldest goes where there are too many"
    awaited.has_come("sm-2")
    awaited.has_come("sm-2")
    awaited.has_come("nobody's")
    assert awaited.by_node(0.0) == {"a": 1, "b": 1}
    awaited.cut("sm-1", "b", 20.0)  # again, and elsewhere
    assert awaited.by_node(15.0) == {"b": 1}
    assert awaited.by_node(20.0) == {}
