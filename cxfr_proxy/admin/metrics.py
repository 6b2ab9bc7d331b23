"""THE table of metrics: what a monitoring system is told of the proxy.

A metric is a row: its name, type, help and labels, and where its values come from, which is a :class:`Snapshot`. The
exposition and docs/metrics.md are drawn from :data:`METRICS`; how it is written is ``prometheus_client``'s to know.

Rules:

- Names begin with ``cxfr_`` and name the base unit, where there is one; counters end in ``_total``. Each of them goes
  on over the whole life of the proxy, whichever of its workers counted.
- What stands in a label is one of few, and nothing that came from a client: names of nodes, of software by the table of
  what was measured, members of enumerations, conditions of the RFC. So neither users nor their addresses are told, and
  nobody can make the monitoring grow by what he says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from prometheus_client import exposition
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from cxfr_proxy.admin.rows import NodeRow, WorkerRow
from cxfr_proxy.cluster.nodes import Health, Wish
from cxfr_proxy.session.commands import Reason
from cxfr_proxy.session.state import State
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.statistics import BUCKETS, WORKER_DIED, Durations, Tally, Totals

_WISHES: Final = (*Wish, "removed")
_WORKER_STATES: Final = ("starting", "up", "leaving", "stopping", "waiting", "gone")


@dataclass(frozen=True, slots=True)
class DrainFigures:
    """A drain that was ordered, and not called off since. ``left``: sessions; ``waits``: nobody can be moved now."""

    node: str
    stage: Stage
    left: int
    waits: bool


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """The main process. ``started`` in seconds since 1970; ``resident_bytes`` is ``None`` where nobody can tell."""

    started: float
    cpu_seconds: float
    resident_bytes: int | None


@dataclass(frozen=True, slots=True)
class ReloadFigures:
    """How reading it went last, and when it went well last, in seconds since 1970; ``None``: it never did."""

    worked: bool
    worked_at: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to tell at one moment. ``build`` has the words of ``--version``; ``states`` are sessions by theirs;
    ``room`` is how many connections fit, ``rate`` how many clients a second are told to move at most;
    ``reloads`` are by what is read, ``certificate_expiries`` in seconds since 1970 by the certificate's file."""

    build: Mapping[str, str]
    nodes: Sequence[NodeRow]
    workers: Sequence[WorkerRow]
    drains: Sequence[DrainFigures]
    states: Mapping[str, int]
    totals: Totals
    tally: Tally
    room: int
    rate: float
    process: ProcessFigures
    source_well: bool = True
    certificate_expiries: Mapping[str, float] = field(default_factory=dict)
    reloads: Mapping[str, ReloadFigures] = field(default_factory=dict)


class Type(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Value = float | Durations
Samples = Iterable[tuple[Sequence[str], Value]]
"""The labels' values, each time with what was measured."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row. ``help`` is what its value is; ``labels`` in the order of what ``samples`` gives."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Snapshot], Samples]


# --- where values come from


def _one(value: Callable[[Snapshot], float]) -> Callable[[Snapshot], Samples]:
    return lambda snapshot: [((), value(snapshot))]


def _nodes(value: Callable[[NodeRow], float]) -> Callable[[Snapshot], Samples]:
    return lambda snapshot: [((row.name,), value(row)) for row in snapshot.nodes]


def _drains(value: Callable[[DrainFigures], float]) -> Callable[[Snapshot], Samples]:
    return lambda snapshot: [((drain.node,), value(drain)) for drain in snapshot.drains]


def _slots(value: Callable[[WorkerRow], int]) -> Callable[[Snapshot], Samples]:
    """Of a number of which there are two workers for a while, what is counted of both alike."""
    return lambda snapshot: {(str(row.number),): value(row) for row in snapshot.workers}.items()


def _workers(value: Callable[[WorkerRow], int]) -> Callable[[Snapshot], Samples]:
    """By number, both workers' together."""

    def samples(snapshot: Snapshot) -> Samples:
        sums: dict[tuple[str], float] = {}
        for row in snapshot.workers:
            sums[(str(row.number),)] = sums.get((str(row.number),), 0) + value(row)
        return sums.items()

    return samples


def _one_of(name: str, states: Iterable[str], state: str) -> Iterator[tuple[tuple[str, str], float]]:
    """1 beside the state that it is, 0 beside all others: so each is there to be asked for."""
    for each in states:
        yield (name, str(each)), float(each == state)


def _wishes(snapshot: Snapshot) -> Samples:
    return [sample for row in snapshot.nodes for sample in _one_of(row.name, _WISHES, row.wish)]


def _healths(snapshot: Snapshot) -> Samples:
    return [sample for row in snapshot.nodes for sample in _one_of(row.name, Health, row.health)]


def _stages(snapshot: Snapshot) -> Samples:
    return [sample for drain in snapshot.drains for sample in _one_of(drain.node, Stage, drain.stage)]


def _states(snapshot: Snapshot) -> Samples:
    return [((state.value,), snapshot.states.get(state.value, 0)) for state in State if state is not State.CLOSED]


def _worker_states(snapshot: Snapshot) -> Samples:
    states = [row.state for row in snapshot.workers]
    return [((state,), states.count(state)) for state in _WORKER_STATES]


def _ends(snapshot: Snapshot) -> Samples:
    reasons = {str(reason): 0 for reason in Reason} | {WORKER_DIED: 0} | snapshot.totals.ended
    return [((reason,), count) for reason, count in reasons.items()]


def _transfers(snapshot: Snapshot) -> Samples:
    for node, kind, count in snapshot.tally.transfers():
        yield (node, kind.software, kind.trigger, kind.rung, kind.outcome), count


def _returns(snapshot: Snapshot) -> Samples:
    for node, kind, count in snapshot.tally.returns():
        yield (node, kind.software, kind.trigger, kind.rung), count


def _attempts(snapshot: Snapshot) -> Samples:
    for (software, attempt), count in snapshot.tally.attempts.items():
        yield (software, attempt.rung, attempt.outcome), count


def _durations(snapshot: Snapshot) -> Samples:
    return [((rung,), durations) for rung, durations in snapshot.tally.durations.items()]


_COUNTER: Final = Type.COUNTER
_GAUGE: Final = Type.GAUGE
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
    Metric("cxfr_sessions", _GAUGE, "Sessions by state.", ("state",), _states),
    Metric(
        "cxfr_connections",
        _GAUGE,
        "Clients' connections, logged in or not.",
        (),
        _one(lambda snapshot: sum(row.connections for row in snapshot.workers)),
    ),
    Metric(
        "cxfr_connections_max",
        _GAUGE,
        "Connections that fit; more wait in the kernel until some have left.",
        (),
        _one(lambda snapshot: snapshot.room),
    ),
    Metric(
        "cxfr_connections_waited_total",
        _COUNTER,
        "Connections that did not fit at first.",
        (),
        _one(lambda snapshot: snapshot.totals.waited),
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
        _one(lambda snapshot: snapshot.totals.logins),
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
        _ends,
    ),
    Metric(
        "cxfr_late_stanzas_total",
        _COUNTER,
        "Clients' stanzas that came when their stream had been closed, and could be neither forwarded nor answered.",
        (),
        _one(lambda snapshot: snapshot.totals.late),
    ),
    # --- transfers
    Metric(
        "cxfr_transfers_total",
        _COUNTER,
        "Transfers that are over, by the node they led away from, the client's software, what they were for, the last "
        "rung that was tried, and what came of it.",
        ("node", "software", "trigger", "rung", "outcome"),
        _transfers,
    ),
    Metric(
        "cxfr_transfer_attempts_total",
        _COUNTER,
        "Rungs that were tried in transfers that are over: one for each, where cxfr_transfers has the last alone.",
        ("software", "rung", "outcome"),
        _attempts,
    ),
    Metric(
        "cxfr_transfer_duration_seconds",
        Type.HISTOGRAM,
        "From the order to the client's leaving, by the last rung that was tried.",
        ("rung",),
        _durations,
    ),
    Metric(
        "cxfr_transfers_returned_total",
        _COUNTER,
        "Of those transfers by which the client has left: it, or its user's next one, has logged in again by way of "
        "this proxy, within ten minutes.",
        ("node", "software", "trigger", "rung"),
        _returns,
    ),
    Metric(
        "cxfr_transfer_absence_seconds",
        Type.HISTOGRAM,
        "From a client's leaving to its return, by the rung by which it left.",
        ("rung",),
        lambda snapshot: [((rung,), durations) for rung, durations in snapshot.tally.absences.items()],
    ),
    Metric(
        "cxfr_transfers_per_second_max",
        _GAUGE,
        "Clients that this proxy tells to move per second at most, by drains, rebalances and all else.",
        (),
        _one(lambda snapshot: snapshot.rate),
    ),
    # --- nodes
    Metric(
        "cxfr_node_wish",
        _GAUGE,
        "1 for what the operator wants of the node, 0 for all else.",
        ("node", "wish"),
        _wishes,
    ),
    Metric("cxfr_node_health", _GAUGE, "1 for what checks see, 0 for all else.", ("node", "health"), _healths),
    Metric(
        "cxfr_node_usable",
        _GAUGE,
        "1 if the node is ready, up and of some weight; standbys and full nodes too.",
        _NODE,
        _nodes(lambda row: row.usable),
    ),
    Metric(
        "cxfr_node_weight",
        _GAUGE,
        "Its configured weight, while it starts slowly as well.",
        _NODE,
        _nodes(lambda row: row.weight),
    ),
    Metric("cxfr_node_sessions", _GAUGE, "Sessions on the node.", _NODE, _nodes(lambda row: row.sessions)),
    Metric(
        "cxfr_node_logins_waiting",
        _GAUGE,
        "Logins that wait for their turn (logins-per-second), or for the node to accept them.",
        _NODE,
        _nodes(lambda row: row.waiting),
    ),
    Metric(
        "cxfr_node_asked_total",
        _COUNTER,
        "Clients told to move away, each once a transfer.",
        _NODE,
        _nodes(lambda row: row.asked),
    ),
    Metric("cxfr_node_moved_total", _COUNTER, "Of them: moved.", _NODE, _nodes(lambda row: row.moved_away)),
    Metric(
        "cxfr_node_returned_total",
        _COUNTER,
        "Of those that moved: back, on whichever node.",
        _NODE,
        _nodes(lambda row: row.returned),
    ),
    Metric("cxfr_node_refused_total", _COUNTER, "Rungs that a client refused.", _NODE, _nodes(lambda row: row.refused)),
    Metric(
        "cxfr_node_silent_total",
        _COUNTER,
        "Rungs that a client did not follow in time.",
        _NODE,
        _nodes(lambda row: row.silent),
    ),
    Metric(
        "cxfr_node_failed_total",
        _COUNTER,
        "Transfers that ended without the client having moved.",
        _NODE,
        _nodes(lambda row: row.failed),
    ),
    Metric(
        "cxfr_node_connect_failures_total",
        _COUNTER,
        "Times that a client's connection to the node failed.",
        _NODE,
        _nodes(lambda row: row.connect_failures),
    ),
    Metric(
        "cxfr_node_forged_total",
        _COUNTER,
        "Connection transfers that came by this node from somebody else than the proxy, and were kept from its "
        "clients.",
        _NODE,
        _nodes(lambda row: row.forged),
    ),
    # --- drains
    Metric(
        "cxfr_drain_stage",
        _GAUGE,
        "Of each node that is, or was, to be emptied: 1 for how far its drain is, 0 for all else.",
        ("node", "stage"),
        _stages,
    ),
    Metric(
        "cxfr_drain_remaining_sessions",
        _GAUGE,
        "Sessions that are still on a node that is drained.",
        _NODE,
        _drains(lambda drain: drain.left),
    ),
    Metric(
        "cxfr_drain_waiting",
        _GAUGE,
        "1 if nobody can be moved off the node at the moment; the log says why.",
        _NODE,
        _drains(lambda drain: drain.waits),
    ),
    # --- files
    Metric(
        "cxfr_source_well",
        _GAUGE,
        "1 if the list of nodes can be read and is good; at 0 everything stays as it was read last.",
        (),
        _one(lambda snapshot: snapshot.source_well),
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
    Metric("cxfr_workers", _GAUGE, "Processes that serve clients, by state.", ("state",), _worker_states),
    Metric("cxfr_worker_sessions", _GAUGE, "A worker's sessions.", _WORKER, _workers(lambda row: row.sessions)),
    Metric(
        "cxfr_worker_connections",
        _GAUGE,
        "A worker's connections, logged in or not.",
        _WORKER,
        _workers(lambda row: row.connections),
    ),
    Metric(
        "cxfr_worker_deaths_total",
        _COUNTER,
        "Workers of that number that died, those that hung among them.",
        _WORKER,
        _slots(lambda row: row.deaths),
    ),
    Metric(
        "cxfr_worker_hangs_total",
        _COUNTER,
        "Workers of that number that were killed because they did nothing any more.",
        _WORKER,
        _slots(lambda row: row.hung),
    ),
    Metric(
        "cxfr_worker_replacements_total",
        _COUNTER,
        "Workers of that number that were replaced as ordered.",
        _WORKER,
        _slots(lambda row: row.replaced),
    ),
    # --- under the names that all programs use
    Metric(
        "process_start_time_seconds",
        _GAUGE,
        "When the main process began, in seconds since 1970.",
        (),
        _one(lambda snapshot: snapshot.process.started),
    ),
    Metric(
        "process_cpu_seconds_total",
        _COUNTER,
        "CPU time of the main process.",
        (),
        _one(lambda snapshot: snapshot.process.cpu_seconds),
    ),
    Metric(
        "process_resident_memory_bytes",
        _GAUGE,
        "Memory of the main process.",
        (),
        lambda snapshot: [((), snapshot.process.resident_bytes)] if snapshot.process.resident_bytes is not None else [],
    ),
)


# --- the exposition


@dataclass(frozen=True, slots=True)
class Exposition:
    """What a scrape is answered with."""

    content_type: str
    body: bytes


_PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text"


_OPENMETRICS_END: Final = b"# EOF\n"


def expose(snapshot: Snapshot, accept: str = "") -> Exposition:
    """``accept`` is the request's header of that name; who does not name OpenMetrics in it gets Prometheus' text."""
    content_type, parts = in_parts(snapshot, accept)
    return Exposition(content_type, b"".join(parts))


def in_parts(snapshot: Snapshot, accept: str = "") -> tuple[str, Iterator[bytes]]:
    """The content type, and the page metric by metric: with ten thousand nodes one is some fiftieth of a second's
    work, and there are as many."""
    if any(each.partition(";")[0].strip().lower() == _OPENMETRICS for each in accept.split(",")):
        return openmetrics.CONTENT_TYPE_LATEST, _openmetrics(snapshot)
    return _PLAIN, (exposition.generate_latest(_Collected(snapshot, metric)) for metric in METRICS)


def _openmetrics(snapshot: Snapshot) -> Iterator[bytes]:
    """Its last line says that it is the last."""
    for metric in METRICS:
        part: bytes = openmetrics.generate_latest(_Collected(snapshot, metric))  # type: ignore[no-untyped-call]
        yield part.removesuffix(_OPENMETRICS_END)
    yield _OPENMETRICS_END


class _Collected(Collector):
    def __init__(self, snapshot: Snapshot, metric: Metric) -> None:
        self._snapshot = snapshot
        self._metric = metric

    def collect(self) -> Iterator[Family]:
        yield _family(self._metric, self._snapshot)


def _family(metric: Metric, snapshot: Snapshot) -> Family:
    if metric.type is Type.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in metric.samples(snapshot):
            assert isinstance(value, Durations)
            histogram.add_metric(labels, list(_cumulative(value)), value.seconds)
        return histogram
    kind = CounterMetricFamily if metric.type is Type.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in metric.samples(snapshot):
        assert not isinstance(value, Durations)
        family.add_metric(labels, value)
    return family


def _cumulative(durations: Durations) -> Iterator[tuple[str, float]]:
    """Each bucket holds all that are below its bound."""
    total = 0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), durations.counts, strict=True):
        total += count
        yield bound, total


# --- the documentation


_MARKDOWN_HEAD: Final = """# Metrics

Drawn from the table in `cxfr_proxy/admin/metrics.py`; a test fails when the two differ.

With `--http ADDRESS:PORT` the proxy answers `GET /metrics` in Prometheus' text format, or in OpenMetrics where the
request's `Accept` says so. Counters go on over the whole life of the proxy, whatever becomes of its workers; they begin
again at 0 when the proxy itself is started anew. What a worker that is killed had not told yet, a few milliseconds'
worth, is lost. Of a node that is forgotten (its line is gone, and nobody is on it) the series `cxfr_node_*` end.

No label holds a user, an address or anything else that a client said: `software` is a name from the table of what was
measured (docs/connection-transfer.md), `other`, or `unknown` for a client that has not said what it is.

The main process, of which `process_*` tell, is with more than one worker the supervisor, which serves no client.
"""


def render_markdown() -> str:
    rows = [
        f"| `{metric.name}` | {metric.type} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in METRICS
    ]
    return "\n".join([_MARKDOWN_HEAD, "| Metric | Type | Labels | Help |", "|---|---|---|---|", *rows, ""])
