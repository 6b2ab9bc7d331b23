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
    admin_states,
    attempts,
    by_drain,
    by_node,
    by_slot,
    by_worker,
    durations,
    ends,
    failed_handshakes,
    healths,
    of_process,
    refusals,
    resumptions,
    returns,
    session_states,
    single,
    stages,
    transfers,
    worker_states,
)
from cxfr_proxy.admin.metrics.snapshot import MetricsSnapshot
from cxfr_proxy.session.commands import Side
from cxfr_proxy.transfers.statistics import LOGIN_WAYS


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
        "Always 1; the labels name the version and the engines.",
        ("version", "framer", "relay"),
        lambda snapshot: [([snapshot.build[name] for name in ("version", "framer", "relay")], 1)],
    ),
    # --- clients
    Metric("cxfr_sessions", _GAUGE, "Sessions by state.", ("state",), session_states),
    Metric(
        "cxfr_connections",
        _GAUGE,
        "Connections of clients, logged in or not.",
        (),
        single(lambda snapshot: sum(row.connections for row in snapshot.workers)),
    ),
    Metric(
        "cxfr_connections_max",
        _GAUGE,
        "Most connections that fit; further ones wait in the kernel.",
        (),
        single(lambda snapshot: snapshot.capacity),
    ),
    Metric(
        "cxfr_connections_waited_total",
        _COUNTER,
        "Connections that did not fit when they came.",
        (),
        single(lambda snapshot: snapshot.totals.waited),
    ),
    Metric(
        "cxfr_connections_refused_total",
        _COUNTER,
        "Connections refused before they had a session, by the condition of the stream error "
        "(remote-connection-failed: no node could be reached), the status of an HTTP answer (http-404), "
        "connections-per-address, or proxy-header.",
        ("reason",),
        refusals,
    ),
    Metric(
        "cxfr_logins_total",
        _COUNTER,
        "Streams that bound a resource or resumed a session (XEP-0198), by transport (tcp, websocket) and by TLS (yes, "
        "no), wherever it ends.",
        ("transport", "tls"),
        lambda snapshot: [
            ((transport, "yes" if tls else "no"), count)
            for (transport, tls), count in zip(LOGIN_WAYS, snapshot.totals.logins, strict=True)
        ],
    ),
    Metric(
        "cxfr_logins_failed_total",
        _COUNTER,
        "Logins that failed, by the condition of the SASL failure or stream error, or by the reason why the session "
        "ended before an answer; other: a condition that is in no specification.",
        ("reason",),
        lambda snapshot: [((reason,), count) for reason, count in snapshot.totals.failed_logins.items()],
    ),
    Metric(
        "cxfr_login_duration_seconds",
        MetricType.HISTOGRAM,
        "Time from the accepted connection until its stream has bound a resource or resumed a session, including what "
        "the client needs and what a login waits for.",
        (),
        single(lambda snapshot: snapshot.totals.login_seconds),
    ),
    Metric(
        "cxfr_tls_handshakes_failed_total",
        _COUNTER,
        "TLS handshakes with clients that failed, by reason; alert: the client has ended it with an alert that is not "
        "about the certificate or the version. The log (tls-failed) has more.",
        ("reason",),
        failed_handshakes,
    ),
    Metric(
        "cxfr_received_bytes_total",
        _COUNTER,
        "Bytes that sessions have received, from clients and from nodes, without those of TLS and of WebSocket's "
        "frames.",
        ("side",),
        lambda snapshot: [
            ((side.name.lower(),), count) for side, count in zip(Side, snapshot.totals.received, strict=True)
        ],
    ),
    Metric(
        "cxfr_sessions_ended_total",
        _COUNTER,
        "Sessions that ended, by reason; starttls: began again behind TLS, worker-died: ended with their worker.",
        ("reason",),
        ends,
    ),
    Metric(
        "cxfr_late_stanzas_total",
        _COUNTER,
        "Stanzas that clients sent after their stream had been closed, and that could be neither forwarded nor "
        "answered.",
        (),
        single(lambda snapshot: snapshot.totals.late),
    ),
    Metric(
        "cxfr_sessions_regained_total",
        _COUNTER,
        "Sessions that the proxy has resumed because the connection to their node had broken; their clients noticed "
        "nothing.",
        (),
        single(lambda snapshot: snapshot.totals.regained),
    ),
    # --- transfers
    Metric(
        "cxfr_transfers_total",
        _COUNTER,
        "Transfers that are over, by the node that the client left, its software, the trigger, the last rung that was "
        "tried, and the outcome.",
        ("node", "software", "trigger", "rung", "outcome"),
        transfers,
    ),
    Metric(
        "cxfr_transfer_attempts_total",
        _COUNTER,
        "Rungs that were tried in transfers that are over: every one, where cxfr_transfers counts the last one only.",
        ("software", "rung", "outcome"),
        attempts,
    ),
    Metric(
        "cxfr_transfer_duration_seconds",
        MetricType.HISTOGRAM,
        "Time from the order until the client has left, by the last rung that was tried.",
        ("rung",),
        durations,
    ),
    Metric(
        "cxfr_transfers_returned_total",
        _COUNTER,
        "Transfers whose client, or its user's next one, has logged in again by way of this proxy within ten minutes.",
        ("node", "software", "trigger", "rung"),
        returns,
    ),
    Metric(
        "cxfr_transfers_resumed_total",
        _COUNTER,
        "Of cxfr_transfers_returned, those whose client has its session still: it has resumed it (XEP-0198), or the "
        "proxy has taken it to another node.",
        ("node", "software", "trigger", "rung"),
        resumptions,
    ),
    Metric(
        "cxfr_transfer_absence_seconds",
        MetricType.HISTOGRAM,
        "Time from a client's leaving to its return, by the rung by which it left.",
        ("rung",),
        lambda snapshot: [((rung,), durations) for rung, durations in snapshot.statistics.absences.items()],
    ),
    Metric(
        "cxfr_transfers_per_second_max",
        _GAUGE,
        "Most clients per second that this proxy asks to move, by drains, rebalances and everything else together.",
        (),
        single(lambda snapshot: snapshot.rate),
    ),
    Metric(
        "cxfr_migrations_under_way",
        _GAUGE,
        "Sessions that the proxy is taking to other nodes itself at the moment.",
        (),
        single(lambda snapshot: snapshot.moves.under_way),
    ),
    Metric(
        "cxfr_migrations_under_way_max",
        _GAUGE,
        "Most of them at once, by how long clients were held of late.",
        (),
        single(lambda snapshot: snapshot.moves.at_once),
    ),
    Metric(
        "cxfr_migrations_paced",
        _GAUGE,
        "1 if more sessions wait to be taken to other nodes than may be under way, 0 if the rate alone bounds it.",
        (),
        single(lambda snapshot: snapshot.moves.paced),
    ),
    Metric(
        "cxfr_migrations_held_seconds",
        _GAUGE,
        "For about how long clients were not read of late while their session was taken to another node; 0 before the "
        "first one.",
        (),
        single(lambda snapshot: snapshot.moves.held_seconds or 0.0),
    ),
    # --- nodes
    Metric(
        "cxfr_node_admin_state",
        _GAUGE,
        "1 for the node's admin state, 0 for the others.",
        ("node", "state"),
        admin_states,
    ),
    Metric("cxfr_node_health", _GAUGE, "1 for the node's health, 0 for the other.", ("node", "health"), healths),
    Metric(
        "cxfr_node_usable",
        _GAUGE,
        "1 if the node is ready and up, and its weight is above 0; also if it stands by or is full.",
        _NODE,
        by_node(lambda row: row.usable),
    ),
    Metric(
        "cxfr_node_weight",
        _GAUGE,
        "The node's configured weight, during its warm-up too.",
        _NODE,
        by_node(lambda row: row.weight),
    ),
    Metric("cxfr_node_sessions", _GAUGE, "Sessions on the node.", _NODE, by_node(lambda row: row.sessions)),
    Metric(
        "cxfr_node_sessions_entered_total",
        _COUNTER,
        "Sessions that have come to the node, by a login or from another node; less those on it, as many have left.",
        _NODE,
        by_node(lambda row: row.entered),
    ),
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
        "Clients that were asked to move away, each once per transfer.",
        _NODE,
        by_node(lambda row: row.asked),
    ),
    Metric(
        "cxfr_node_moved_total",
        _COUNTER,
        "Clients that moved away after being asked.",
        _NODE,
        by_node(lambda row: row.moved),
    ),
    Metric(
        "cxfr_node_returned_total",
        _COUNTER,
        "Clients that moved away and have returned, to whichever node.",
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
        "Times that a client could not be connected to the node.",
        _NODE,
        by_node(lambda row: row.connect_failures),
    ),
    Metric(
        "cxfr_node_forged_total",
        _COUNTER,
        "Forged connection transfers that came from the node and were kept from its clients.",
        _NODE,
        by_node(lambda row: row.forged),
    ),
    Metric(
        "cxfr_node_check_duration_seconds",
        _GAUGE,
        "Time that the last check of the node took.",
        _NODE,
        lambda snapshot: [
            ((row.name,), row.check_duration_seconds)
            for row in snapshot.nodes
            if row.check_duration_seconds is not None
        ],
    ),
    Metric(
        "cxfr_node_checks_failed_total",
        _COUNTER,
        "Checks of the node that failed.",
        _NODE,
        by_node(lambda row: row.checks_failed),
    ),
    # --- drains
    Metric(
        "cxfr_drain_stage",
        _GAUGE,
        "1 for the stage of a node's drain, 0 for the others; for nodes that are or were being drained.",
        ("node", "stage"),
        stages,
    ),
    Metric(
        "cxfr_drain_remaining_sessions",
        _GAUGE,
        "Sessions that are still on a node that is being drained.",
        _NODE,
        by_drain(lambda drain: drain.left),
    ),
    Metric(
        "cxfr_drain_waiting",
        _GAUGE,
        "1 if no client can be moved off the node at the moment; the log says why.",
        _NODE,
        by_drain(lambda drain: drain.waits),
    ),
    # --- files
    Metric(
        "cxfr_source_well",
        _GAUGE,
        "1 if the list of nodes can be read and is good; at 0 the last good one stays in use.",
        (),
        single(lambda snapshot: snapshot.source_well),
    ),
    Metric(
        "cxfr_reload_successful",
        _GAUGE,
        "1 if the last reading was good, whether at start, after a change or on command; at 0 the one before stays in "
        "use.",
        ("what",),
        lambda snapshot: [((what,), each.worked) for what, each in snapshot.reloads.items()],
    ),
    Metric(
        "cxfr_reload_success_timestamp_seconds",
        _GAUGE,
        "Time of the last good reading, in seconds since 1970.",
        ("what",),
        lambda snapshot: [
            ((what,), each.worked_at) for what, each in snapshot.reloads.items() if each.worked_at is not None
        ],
    ),
    Metric(
        "cxfr_certificate_expiry_timestamp_seconds",
        _GAUGE,
        "Time when the certificate in that file expires, in seconds since 1970.",
        ("file",),
        lambda snapshot: [((file,), at) for file, at in snapshot.certificate_expiries.items()],
    ),
    # --- processes
    Metric("cxfr_workers", _GAUGE, "Workers by state.", ("state",), worker_states),
    Metric("cxfr_worker_sessions", _GAUGE, "Sessions of the worker.", _WORKER, by_worker(lambda row: row.sessions)),
    Metric(
        "cxfr_worker_connections",
        _GAUGE,
        "Connections of the worker, logged in or not.",
        _WORKER,
        by_worker(lambda row: row.connections),
    ),
    Metric(
        "cxfr_worker_deaths_total",
        _COUNTER,
        "Workers of that number that died, hung ones included.",
        _WORKER,
        by_slot(lambda row: row.deaths),
    ),
    Metric(
        "cxfr_worker_hangs_total",
        _COUNTER,
        "Workers of that number that were killed because they hung.",
        _WORKER,
        by_slot(lambda row: row.hung),
    ),
    Metric(
        "cxfr_worker_replacements_total",
        _COUNTER,
        "Workers of that number that were replaced on command.",
        _WORKER,
        by_slot(lambda row: row.replaced),
    ),
    Metric(
        "cxfr_worker_cpu_seconds_total",
        _COUNTER,
        "CPU time of the workers of that number; with one worker, that of the main process.",
        _WORKER,
        by_slot(lambda row: row.cpu_seconds),
    ),
    Metric(
        "cxfr_worker_resident_memory_bytes",
        _GAUGE,
        "Memory of the worker; with one worker, that of the main process.",
        _WORKER,
        by_worker(lambda row: row.resident_bytes or 0),
    ),
    Metric(
        "cxfr_worker_open_fds",
        _GAUGE,
        "File descriptors that the worker has open; before Linux 6.2 it is not known.",
        _WORKER,
        by_worker(lambda row: row.open_descriptors),
    ),
    Metric(
        "cxfr_worker_max_fds",
        _GAUGE,
        "File descriptors that the worker may have open.",
        _WORKER,
        by_worker(lambda row: row.max_descriptors),
    ),
    # --- under the names that all programs use
    Metric(
        "process_start_time_seconds",
        _GAUGE,
        "Time when the main process began, in seconds since 1970.",
        (),
        single(lambda snapshot: snapshot.process.started),
    ),
    Metric(
        "process_cpu_seconds_total",
        _COUNTER,
        "CPU time of the main process.",
        (),
        of_process(lambda cost: cost.cpu_seconds),
    ),
    Metric(
        "process_resident_memory_bytes",
        _GAUGE,
        "Memory of the main process.",
        (),
        of_process(lambda cost: cost.resident_bytes),
    ),
    Metric(
        "process_open_fds",
        _GAUGE,
        "File descriptors that the main process has open; before Linux 6.2 it is not known.",
        (),
        of_process(lambda cost: cost.open_descriptors),
    ),
    Metric(
        "process_max_fds",
        _GAUGE,
        "File descriptors that the main process may have open.",
        (),
        of_process(lambda cost: cost.max_descriptors),
    ),
)
