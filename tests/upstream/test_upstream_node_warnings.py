"""Faults that sessions notice about nodes are logged once each, and never silenced for good."""

from __future__ import annotations

import logging

import pytest

from cxfr_proxy.log_sums import RULES, Sums
from cxfr_proxy.upstream.node_warnings import REMEMBERED, NodeWarnings


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    fields = [getattr(record, "cxfr_proxy_fields", {}) for record in caplog.records if record.msg == "node-warning"]
    return [(each["node"], each["reason"]) for each in fields]


def test_each_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    warnings = NodeWarnings()
    for node, text in [("a", "x"), ("a", "y"), ("a", "x"), ("b", "x"), ("b", "x")]:
        warnings.warn(node, text)
    assert said(caplog) == [("a", "x"), ("a", "y"), ("b", "x")]


def test_a_node_that_makes_up_texts_silences_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A fault that was noticed all along stays known; the oldest of the others are forgotten."""
    warnings = NodeWarnings()
    warnings.warn("a", "always")
    for number in range(REMEMBERED + 5):
        warnings.warn("b", f"text {number}")
        warnings.warn("a", "always")
    warnings.warn("c", "news")
    warnings.warn("b", "text 0")
    assert len(said(caplog)) == REMEMBERED + 8
    assert said(caplog).count(("a", "always")) == 1
    assert said(caplog)[-2:] == [("c", "news"), ("b", "text 0")]


def test_in_the_log_they_are_summed_up_by_node() -> None:
    sums, origin = Sums(lambda: 0.0), (logging.getLogger("cxfr_proxy.test"), logging.WARNING)
    admitted = [sums.admit("node-warning", {"node": "b", "reason": str(number)}, origin) for number in range(100)]
    assert sum(admitted) == RULES["node-warning"].most
    assert sums.admit("node-warning", {"node": "c", "reason": "news"}, origin)
    assert [each.fields["repeated"] for each in sums.due(at_once=True)] == [100 - RULES["node-warning"].most]
