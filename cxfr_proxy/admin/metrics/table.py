"""THE table of metrics: what a monitoring system is told of the proxy.

A metric is a row: its name, type, help and labels, and where in a :class:`~.snapshot.MetricsSnapshot` its values come
from. The exposition and docs/metrics.md are drawn from :data:`METRICS`.

Rules:

- Names begin with ``cxfr_`` and name the base unit, where there is one; counters end in ``_total``. Each of them goes
  on over the whole life of the proxy, whichever of its workers counted.
- What stands in a label is one of few, and nothing that came from a client: names of nodes, of software by the table of
  what was measured, members of enumerations, conditions of the RFC. So neither users nor their addresses are told, and
  nobody can make the monitoring grow by what they say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cxfr_proxy.admin.metrics.samples import (
    Samples,
    attempts,
    by_drain,
    by_node,
    by_slot,
    by_worker,
    durations,
    ends,
    healths,
    returns,
    session_states,
    single,
    stages,
    transfers,
    wishes,
    worker_states,
)
from cxfr_proxy.admin.metrics.snapshot import MetricsSnapshot


class MetricType(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row. ``help`` is what its value is; ``labels`` in the order of what ``samples`` gives."""

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...]
    samples: Callable[[MetricsSnapshot], Samples]


_COUNTER: Final = MetricType.COUNTER
_GAUGE: Final = MetricType.GAUGE
_NODE: Final = ("node",)
_WORKER: Final = ("worker",)

METRICS: Final = (
    Metric(
        "cxfr_build_info",
        _GAUGE,
        "Always 1; the labels say which version runs, and which engines.",
        ("version", "framer", "relay"),
        lambda snapshot: [([snapshot.build[name] for name in ("version", "framer", "relay")], 1)],
    ),
    # --- clients
    Metric("cxfr_sessions", _GAUGE, "Sessions by state.", ("state",), session_states),
    Metric(
        "cxfr_connections",
        _GAUGE,
        "Clients' connections, logged in or not.",
        (),
        single(lambda snapshot: sum(row.connections for row in snapshot.workers)),
    ),
    Metric(
        "cxfr_connections_max",
        _GAUGE,
        "Connections that fit; more wait in the kernel until some have left.",
        (),
        single(lambda snapshot: snapshot.capacity),
    ),
    Metric(
        "cxfr_connections_waited_total",
        _COUNTER,
        "Connections that did not fit at first.",
        (),
        single(lambda snapshot: snapshot.totals.waited),
    ),
    Metric(
        "cxfr_connections_refused_total",
        _COUNTER,
        "Connections refused before they had a session, by the stream error's condition (remote-connection-failed: no "
        "node could be reached) or connections-per-address.",
        ("reason",),
        lambda snapshot: [((reason,), count) for reason, count in snapshot.totals.refused.items()],
    ),
    Metric(
        "cxfr_logins_total",
        _COUNTER,
        "Streams that got a resource, or resumed a session (XEP-0198).",
        (),
        single(lambda snapshot: snapshot.totals.logins),
    ),
    Metric(
        "cxfr_logins_failed_total",
        _COUNTER,
        "Logins that failed, by the condition of SASL or of the stream error that said so, or by why the session ended "
        "before an answer; other: any other word of a node's.",
        ("reason",),
        lambda snapshot: [((reason,), count) for reason, count in snapshot.totals.failed_logins.items()],
    ),
    Metric(
        "cxfr_sessions_ended_total",
        _COUNTER,
        "Sessions that ended, by why; starttls: began over behind TLS, worker-died: went with their worker.",
        ("reason",),
        ends,
    ),
    Metric(
        "cxfr_late_stanzas_total",
        _COUNTER,
        "Clients' stanzas that came when their stream had been closed, and could be neither forwarded nor answered.",
        (),
        single(lambda snapshot: snapshot.totals.late),
    ),
    # --- transfers
    Metric(
        "cxfr_transfers_total",
        _COUNTER,
        "Transfers that are over, by the node they led away from, the client's software, what they were for, the last "
        "rung that was tried, and what came of it.",
        ("node", "software", "trigger", "rung", "outcome"),
        transfers,
    ),
    Metric(
        "cxfr_transfer_attempts_total",
        _COUNTER,
        "Rungs that were tried in transfers that are over: one for each, where cxfr_transfers has the last alone.",
        ("software", "rung", "outcome"),
        attempts,
    ),
    Metric(
        "cxfr_transfer_duration_seconds",
        MetricType.HISTOGRAM,
        "From the order to the client's leaving, by the last rung that was tried.",
        ("rung",),
        durations,
    ),
    Metric(
        "cxfr_transfers_returned_total",
        _COUNTER,
        "Of those transfers by which the client has left: it, or its user's next one, has logged in again by way of "
        "this proxy, within ten minutes.",
        ("node", "software", "trigger", "rung"),
        returns,
    ),
    Metric(
        "cxfr_transfer_absence_seconds",
        MetricType.HISTOGRAM,
        "From a client's leaving to its return, by the rung by which it left.",
        ("rung",),
        lambda snapshot: [((rung,), durations) for rung, durations in snapshot.tally.absences.items()],
    ),
    Metric(
        "cxfr_transfers_per_second_max",
        _GAUGE,
        "Clients that this proxy tells to move per second at most, by drains, rebalances and all else.",
        (),
        single(lambda snapshot: snapshot.rate),
    ),
    # --- nodes
    Metric(
        "cxfr_node_wish",
        _GAUGE,
        "1 for what the operator wants of the node, 0 for all else.",
        ("node", "wish"),
        wishes,
    ),
    Metric("cxfr_node_health", _GAUGE, "1 for what checks see, 0 for all else.", ("node", "health"), healths),
    Metric(
        "cxfr_node_usable",
        _GAUGE,
        "1 if the node is ready, up and of some weight; standbys and full nodes too.",
        _NODE,
        by_node(lambda row: row.usable),
    ),
    Metric(
        "cxfr_node_weight",
        _GAUGE,
        "Its configured weight, while it starts slowly as well.",
        _NODE,
        by_node(lambda row: row.weight),
    ),
    Metric("cxfr_node_sessions", _GAUGE, "Sessions on the node.", _NODE, by_node(lambda row: row.sessions)),
    Metric(
        "cxfr_node_logins_waiting",
        _GAUGE,
        "Logins that wait for their turn (logins-per-second), or for the node to accept them.",
        _NODE,
        by_node(lambda row: row.waiting),
    ),
    Metric(
        "cxfr_node_asked_total",
        _COUNTER,
        "Clients told to move away, each once a transfer.",
        _NODE,
        by_node(lambda row: row.asked),
    ),
    Metric("cxfr_node_moved_total", _COUNTER, "Of them: moved.", _NODE, by_node(lambda row: row.moved_away)),
    Metric(
        "cxfr_node_returned_total",
        _COUNTER,
        "Of those that moved: back, on whichever node.",
        _NODE,
        by_node(lambda row: row.returned),
    ),
    Metric(
        "cxfr_node_refused_total", _COUNTER, "Rungs that a client refused.", _NODE, by_node(lambda row: row.refused)
    ),
    Metric(
        "cxfr_node_silent_total",
        _COUNTER,
        "Rungs that a client did not follow in time.",
        _NODE,
        by_node(lambda row: row.silent),
    ),
    Metric(
        "cxfr_node_failed_total",
        _COUNTER,
        "Transfers that ended without the client having moved.",
        _NODE,
        by_node(lambda row: row.failed),
    ),
    Metric(
        "cxfr_node_connect_failures_total",
        _COUNTER,
        "Times that a client's connection to the node failed.",
        _NODE,
        by_node(lambda row: row.connect_failures),
    ),
    Metric(
        "cxfr_node_forged_total",
        _COUNTER,
        "Connection transfers that came by this node from somebody else than the proxy, and were kept from its "
        "clients.",
        _NODE,
        by_node(lambda row: row.forged),
    ),
    # --- drains
    Metric(
        "cxfr_drain_stage",
        _GAUGE,
        "Of each node that is, or was, to be emptied: 1 for how far its drain is, 0 for all else.",
        ("node", "stage"),
        stages,
    ),
    Metric(
        "cxfr_drain_remaining_sessions",
        _GAUGE,
        "Sessions that are still on a node that is drained.",
        _NODE,
        by_drain(lambda drain: drain.left),
    ),
    Metric(
        "cxfr_drain_waiting",
        _GAUGE,
        "1 if nobody can be moved off the node at the moment; the log says why.",
        _NODE,
        by_drain(lambda drain: drain.waits),
    ),
    # --- files
    Metric(
        "cxfr_source_well",
        _GAUGE,
        "1 if the list of nodes can be read and is good; at 0 everything stays as it was read last.",
        (),
        single(lambda snapshot: snapshot.source_well),
    ),
    Metric(
        "cxfr_reload_successful",
        _GAUGE,
        "1 if it was good when it was read last, at the start, because it had changed, or because an operator said so; "
        "at 0 what was read before is still in use.",
        ("what",),
        lambda snapshot: [((what,), each.worked) for what, each in snapshot.reloads.items()],
    ),
    Metric(
        "cxfr_reload_success_timestamp_seconds",
        _GAUGE,
        "When it was last read and found good, in seconds since 1970.",
        ("what",),
        lambda snapshot: [
            ((what,), each.worked_at) for what, each in snapshot.reloads.items() if each.worked_at is not None
        ],
    ),
    Metric(
        "cxfr_certificate_expiry_timestamp_seconds",
        _GAUGE,
        "Until when the certificate that is shown is valid, in seconds since 1970; by its file.",
        ("file",),
        lambda snapshot: [((file,), at) for file, at in snapshot.certificate_expiries.items()],
    ),
    # --- processes
    Metric("cxfr_workers", _GAUGE, "Processes that serve clients, by state.", ("state",), worker_states),
    Metric("cxfr_worker_sessions", _GAUGE, "A worker's sessions.", _WORKER, by_worker(lambda row: row.sessions)),
    Metric(
        "cxfr_worker_connections",
        _GAUGE,
        "A worker's connections, logged in or not.",
        _WORKER,
        by_worker(lambda row: row.connections),
    ),
    Metric(
        "cxfr_worker_deaths_total",
        _COUNTER,
        "Workers of that number that died, those that hung among them.",
        _WORKER,
        by_slot(lambda row: row.deaths),
    ),
    Metric(
        "cxfr_worker_hangs_total",
        _COUNTER,
        "Workers of that number that were killed because they did nothing any more.",
        _WORKER,
        by_slot(lambda row: row.hung),
    ),
    Metric(
        "cxfr_worker_replacements_total",
        _COUNTER,
        "Workers of that number that were replaced as ordered.",
        _WORKER,
        by_slot(lambda row: row.replaced),
    ),
    # --- under the names that all programs use
    Metric(
        "process_start_time_seconds",
        _GAUGE,
        "When the main process began, in seconds since 1970.",
        (),
        single(lambda snapshot: snapshot.process.started),
    ),
    Metric(
        "process_cpu_seconds_total",
        _COUNTER,
        "CPU time of the main process.",
        (),
        single(lambda snapshot: snapshot.process.cpu_seconds),
    ),
    Metric(
        "process_resident_memory_bytes",
        _GAUGE,
        "Memory of the main process.",
        (),
        lambda snapshot: [((), snapshot.process.resident_bytes)] if snapshot.process.resident_bytes is not None else [],
    ),
)
