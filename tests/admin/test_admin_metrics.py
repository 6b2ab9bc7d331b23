"""The exposition, read back by the library's own parsers, and held against the table."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs
from prometheus_client import parser
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics_parser

from cxfr_proxy.admin.console.reloads import ReloadOutcome, ReloadPart
from cxfr_proxy.admin.metrics.exposition import Exposition, in_parts
from cxfr_proxy.admin.metrics.reference import render_markdown
from cxfr_proxy.admin.metrics.snapshot import DrainFigures, MetricsSnapshot, ProcessFigures
from cxfr_proxy.admin.metrics.table import METRICS, MetricType
from cxfr_proxy.admin.rows.rows import NodeRow, WorkerRow
from cxfr_proxy.net.tls_failures import TlsFailure
from cxfr_proxy.process_figures import ProcessCost
from cxfr_proxy.session.client_software import MEASURED, Software, name_of
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.move_window import WindowState
from cxfr_proxy.transfers.statistics import Durations, PastTransfer, Totals, TransferStatistics, TriedRung

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "metrics.md"
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"


def expose(snapshot: MetricsSnapshot, accept: str = "") -> Exposition:
    content_type, parts = in_parts(snapshot, accept)
    return Exposition(content_type, b"".join(parts))


def statistics() -> TransferStatistics:
    filled = TransferStatistics()
    refused, moved = TriedRung(Rung.CXFR, Outcome.REFUSED), TriedRung(Rung.RESET, Outcome.MOVED)
    filled.add(PastTransfer("node1", Trigger.DRAIN, "Gajim", (refused, moved), 0.3))
    filled.add(PastTransfer("node1", Trigger.DRAIN, "Gajim", (moved,), 99.0))
    filled.add(PastTransfer("gone", Trigger.NODE_LOST, "other", (TriedRung(Rung.CXFR, Outcome.MOVED),), 0.01))
    filled.add_return(PastTransfer("node1", Trigger.DRAIN, "Gajim", (refused, moved), 0.3), 4.0, resumed=True)
    filled.add_return(PastTransfer("node1", Trigger.DRAIN, "Gajim", (refused, moved), 0.3), 1.0, resumed=False)
    return filled


SNAPSHOT = MetricsSnapshot(
    build={"version": "1.2.3", "framer": "native", "relay": "python"},
    nodes=[
        NodeRow(
            "node1", "10.0.0.1:5222", None, "drain", "up", 2, 7, 5, 3, 1, 9, 4, 2, 6, usable=False, checks_failed=3
        ),
        NodeRow(
            "node2", "10.0.0.2:5222", "b.example:5222", "ready", "down", 1, 0, 0, 8, 0, check_duration_seconds=0.25
        ),
    ],
    workers=[
        WorkerRow(1, 10, "leaving", 3, 4, 2, 1, 5, open_descriptors=9, max_descriptors=100),
        WorkerRow(
            1, 11, "up", 30, 40, 2, 1, 5, cpu_seconds=1.5, resident_bytes=2048, open_descriptors=90, max_descriptors=200
        ),
        WorkerRow(2, None, "waiting", 0, 0, 9),
    ],
    drains=[DrainFigures("node1", Stage.AWAKE, 7, waits=True)],
    states={"bound": 5, "negotiating": 2},
    totals=Totals(
        [1, 11, 0, 5],
        12,
        13,
        {"stalled": 14, "worker-died": 3},
        {"remote-connection-failed": 15},
        {"not-authorized": 16},
        login_seconds=Durations([2, 0, 1, *[0] * 8], 0.5),
        failed_handshakes={"not-tls": 17},
        received=[18, 19],
    ),
    statistics=statistics(),
    moves=WindowState(3, 4, paced=True, held_seconds=0.0041),
    capacity=1000,
    rate=2.5,
    process=ProcessFigures(1.7e9, ProcessCost(12.5, 1 << 20, 20, 1024)),
    source_well=False,
    certificate_expiries={"/etc/ssl/chain.pem": 1.8e9},
    reloads={
        ReloadPart.NODES: ReloadOutcome(worked=False, worked_at=1.6e9),
        ReloadPart.SETTINGS: ReloadOutcome(worked=False, worked_at=None),
    },
)


def families(snapshot: MetricsSnapshot = SNAPSHOT) -> dict[str, Family]:
    """By the table's names."""
    text = expose(snapshot).body.decode()
    parsed = {each.name: each for each in parser.text_string_to_metric_families(text)}
    return {name + "_total" * (each.type == "counter"): each for name, each in parsed.items()}


def openmetrics(body: bytes) -> list[Family]:
    """By a parser that refuses much of what the other one lets pass."""
    return list(openmetrics_parser.text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]


def samples(name: str) -> dict[tuple[str, ...], float]:
    labels = next(metric.labels for metric in METRICS if metric.name == name)
    return {tuple(each.labels[label] for label in labels): each.value for each in families()[name].samples}


def test_every_row_is_there_with_its_type_and_help() -> None:
    found = families()
    assert list(found) == [metric.name for metric in METRICS]
    for metric in METRICS:
        assert found[metric.name].type == metric.type
        assert found[metric.name].documentation == metric.help
        assert found[metric.name].samples, metric.name
        for sample in found[metric.name].samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)


def test_openmetrics_is_the_same_and_valid() -> None:
    exposition = expose(SNAPSHOT, OPENMETRICS)
    assert exposition.content_type.startswith("application/openmetrics-text; version=1.0.0")
    read = openmetrics(exposition.body)
    plain = families().values()
    assert [sample[:3] for each in read for sample in each.samples] == [
        sample[:3] for each in plain for sample in each.samples
    ]


@pytest.mark.parametrize("accept", ["", "*/*", "text/html,*/*;q=0.1", "application/openmetrics-textile", "\xff,;;,="])
def test_who_does_not_ask_for_it_gets_plain_text(accept: str) -> None:
    exposition = expose(SNAPSHOT, accept)
    assert exposition.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert exposition.body == expose(SNAPSHOT).body


def test_names_and_units() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch("(cxfr|process)(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
        assert metric.help.endswith(".")
        assert not re.search("milli|minutes|kilo|percent", metric.name)


def test_no_label_is_a_user_or_an_address() -> None:
    """Though the snapshot has addresses of nodes."""
    for family in families().values():
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label not in ("jid", "user", "address", "client", "caps", "resource")
                assert "@" not in value
                assert not re.search(r"\d+\.\d+\.\d+\.\d+|b\.example", value)


def test_whatever_a_client_says_its_software_is_one_of_few() -> None:
    known = {habit.name for habit in MEASURED} | {"other", "unknown"}
    said = ("romeo@example.org", "10.0.0.1", "", "gajim.org", "x" * 10_000, "a\nb", "gajim.X")
    for caps in (None, *said):
        for resource in (None, *said):
            for agent in (None, *said):
                assert name_of(Software(caps, resource, agent)) in known


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cxfr_build_info", {("1.2.3", "native", "python"): 1}),
        ("cxfr_sessions", {("negotiating",): 2, ("bound",): 5, ("transferring",): 0, ("closing",): 0}),
        ("cxfr_connections", {(): 44}),
        ("cxfr_connections_max", {(): 1000}),
        ("cxfr_connections_waited_total", {(): 13}),
        ("cxfr_connections_refused_total", {("remote-connection-failed",): 15}),
        (
            "cxfr_logins_total",
            {("tcp", "no"): 1, ("tcp", "yes"): 11, ("websocket", "no"): 0, ("websocket", "yes"): 5},
        ),
        ("cxfr_late_stanzas_total", {(): 12}),
        (
            "cxfr_transfers_total",
            {
                ("node1", "Gajim", "drain", "reset", "moved"): 2,
                ("gone", "other", "node-lost", "cxfr", "moved"): 1,
            },
        ),
        (
            "cxfr_transfer_attempts_total",
            {("Gajim", "cxfr", "refused"): 1, ("Gajim", "reset", "moved"): 2, ("other", "cxfr", "moved"): 1},
        ),
        ("cxfr_transfers_per_second_max", {(): 2.5}),
        ("cxfr_migrations_under_way", {(): 3}),
        ("cxfr_migrations_under_way_max", {(): 4}),
        ("cxfr_migrations_paced", {(): 1}),
        ("cxfr_migrations_held_seconds", {(): 0.0041}),
        ("cxfr_node_usable", {("node1",): 0, ("node2",): 1}),
        ("cxfr_node_weight", {("node1",): 2, ("node2",): 1}),
        ("cxfr_node_sessions", {("node1",): 7, ("node2",): 0}),
        ("cxfr_node_asked_total", {("node1",): 9, ("node2",): 0}),
        ("cxfr_node_moved_total", {("node1",): 5, ("node2",): 0}),
        ("cxfr_node_refused_total", {("node1",): 4, ("node2",): 0}),
        ("cxfr_node_silent_total", {("node1",): 2, ("node2",): 0}),
        ("cxfr_node_failed_total", {("node1",): 6, ("node2",): 0}),
        ("cxfr_node_connect_failures_total", {("node1",): 3, ("node2",): 8}),
        ("cxfr_node_forged_total", {("node1",): 1, ("node2",): 0}),
        ("cxfr_drain_remaining_sessions", {("node1",): 7}),
        ("cxfr_drain_waiting", {("node1",): 1}),
        ("cxfr_worker_sessions", {("1",): 33, ("2",): 0}),
        ("cxfr_worker_connections", {("1",): 44, ("2",): 0}),
        ("cxfr_worker_deaths_total", {("1",): 2, ("2",): 9}),
        ("cxfr_worker_hangs_total", {("1",): 1, ("2",): 0}),
        ("cxfr_worker_replacements_total", {("1",): 5, ("2",): 0}),
        ("process_start_time_seconds", {(): 1.7e9}),
        ("cxfr_received_bytes_total", {("client",): 18, ("node",): 19}),
        ("cxfr_transfers_returned_total", {("node1", "Gajim", "drain", "reset"): 2}),
        ("cxfr_transfers_resumed_total", {("node1", "Gajim", "drain", "reset"): 1}),
        ("cxfr_worker_open_fds", {("1",): 99}),
        ("cxfr_worker_max_fds", {("1",): 300}),
        ("process_open_fds", {(): 20}),
        ("process_max_fds", {(): 1024}),
        ("process_cpu_seconds_total", {(): 12.5}),
        ("process_resident_memory_bytes", {(): 1 << 20}),
    ],
)
def test_where_values_come_from(name: str, expected: dict[tuple[str, ...], float]) -> None:
    assert samples(name) == expected


@pytest.mark.parametrize(
    ("name", "ones"),
    [
        ("cxfr_node_admin_state", {("node1", "drain"), ("node2", "ready")}),
        ("cxfr_node_health", {("node1", "up"), ("node2", "down")}),
        ("cxfr_drain_stage", {("node1", "awake")}),
        ("cxfr_workers", {("leaving",), ("up",), ("waiting",)}),
    ],
)
def test_what_is_one_of_several(name: str, ones: set[tuple[str, ...]]) -> None:
    found = samples(name)
    assert {labels for labels, value in found.items() if value == 1} == ones
    assert set(found.values()) == {0, 1}


def test_a_state_that_nobody_thought_of_would_be_seen() -> None:
    removed = replace(SNAPSHOT, nodes=[structs.replace(row, admin_state="removed") for row in SNAPSHOT.nodes])
    by_node = Counter[str]()
    for sample in families(removed)["cxfr_node_admin_state"].samples:
        by_node[sample.labels["node"]] += int(sample.value)
    assert by_node == {"node1": 1, "node2": 1}


def test_all_ends_are_there_to_be_asked_for() -> None:
    found = samples("cxfr_sessions_ended_total")
    assert {reason: count for (reason,), count in found.items() if count} == {"stalled": 14, "worker-died": 3}
    assert found[("client-lost",)] == 0


def test_all_failures_of_handshakes_are_there_to_be_asked_for() -> None:
    found = samples("cxfr_tls_handshakes_failed_total")
    assert found == {(str(failure),): 0 for failure in TlsFailure} | {("not-tls",): 17}


def test_what_nobody_knows_of_a_process_has_no_sample() -> None:
    unknown = replace(SNAPSHOT, workers=[], process=ProcessFigures(1.7e9, ProcessCost(1.0)))
    found = families(unknown)
    nothing = [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "cxfr_worker_open_fds",
        "cxfr_worker_max_fds",
    ]
    assert {name: found[name].samples for name in nothing} == {name: [] for name in nothing}
    assert found["process_cpu_seconds_total"].samples[0].value == 1.0


def test_the_histogram_is_cumulative() -> None:
    read = [
        sample for sample in families()["cxfr_transfer_duration_seconds"].samples if sample.labels["rung"] == "reset"
    ]
    buckets = {sample.labels["le"]: sample.value for sample in read if sample.name.endswith("_bucket")}
    assert (buckets["0.25"], buckets["0.5"], buckets["60.0"], buckets["+Inf"]) == (0, 1, 1, 2)
    rest = {sample.name: sample.value for sample in read if not sample.name.endswith("_bucket")}
    assert rest == {
        "cxfr_transfer_duration_seconds_count": 2,
        "cxfr_transfer_duration_seconds_sum": pytest.approx(99.3),
    }


def test_a_proxy_that_has_just_begun() -> None:
    empty = replace(
        SNAPSHOT, nodes=[], workers=[], drains=[], states={}, totals=Totals(), statistics=TransferStatistics()
    )
    found = families(empty)
    assert openmetrics(expose(empty, OPENMETRICS).body)
    (refused,) = found["cxfr_connections_refused_total"].samples
    assert (refused.labels["reason"], refused.value) == ("remote-connection-failed", 0), "an alert sees the first one"


def test_the_document_is_drawn_from_the_table() -> None:
    """Else: ``make docs``."""
    assert DOCUMENT.read_text(encoding="utf-8") == render_markdown()
