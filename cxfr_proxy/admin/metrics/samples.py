"""The functions that get a metric's values out of a snapshot: what the last column of the table is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from cxfr_proxy.admin.metrics.snapshot import DrainFigures, MetricsSnapshot
from cxfr_proxy.admin.rows.rows import NodeRow, WorkerRow
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.net.tls_failures import TlsFailure
from cxfr_proxy.process_figures import ProcessCost
from cxfr_proxy.session.commands import Reason
from cxfr_proxy.session.tables import State
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.statistics import WORKER_DIED, Durations
from cxfr_proxy.xmpp.names import StreamCondition

Measured = float | Durations
Samples = Iterable[tuple[Sequence[str], Measured]]
"""The labels' values, each time with what was measured."""

_ADMIN_STATES: Final = (*AdminState, "removed")
_WORKER_STATES: Final = ("starting", "up", "leaving", "stopping", "waiting", "gone")


def single(value: Callable[[MetricsSnapshot], Measured]) -> Callable[[MetricsSnapshot], Samples]:
    return lambda snapshot: [((), value(snapshot))]


def by_node(value: Callable[[NodeRow], float]) -> Callable[[MetricsSnapshot], Samples]:
    return lambda snapshot: [((row.name,), value(row)) for row in snapshot.nodes]


def by_drain(value: Callable[[DrainFigures], float]) -> Callable[[MetricsSnapshot], Samples]:
    return lambda snapshot: [((drain.node,), value(drain)) for drain in snapshot.drains]


def by_slot(value: Callable[[WorkerRow], float]) -> Callable[[MetricsSnapshot], Samples]:
    """Return what is counted for a slot, whichever workers are in it. The slots of a proxy that was replaced were
    counted on."""

    def samples(snapshot: MetricsSnapshot) -> Samples:
        own = [row for row in snapshot.workers if row.main_pid is None]
        return {(str(row.number),): value(row) for row in own}.items()

    return samples


def of_process(value: Callable[[ProcessCost], float | None]) -> Callable[[MetricsSnapshot], Samples]:
    """Return a figure of the main process, if it is known."""

    def samples(snapshot: MetricsSnapshot) -> Samples:
        figure = value(snapshot.process.cost)
        return [((), figure)] if figure is not None else []

    return samples


def by_worker(value: Callable[[WorkerRow], int | None]) -> Callable[[MetricsSnapshot], Samples]:
    """Return what is counted for a worker; where two are in a slot, their sum. A worker of which it is not known has no
    part in that."""

    def samples(snapshot: MetricsSnapshot) -> Samples:
        sums: dict[tuple[str], float] = {}
        for row in snapshot.workers:
            figure = value(row)
            if figure is not None:
                sums[(str(row.number),)] = sums.get((str(row.number),), 0) + figure
        return sums.items()

    return samples


def _one_of(name: str, states: Iterable[str], state: str) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield 1 for the current state and 0 for all others, so that each can be asked for."""
    for each in states:
        yield (name, str(each)), float(each == state)


def admin_states(snapshot: MetricsSnapshot) -> Samples:
    return [sample for row in snapshot.nodes for sample in _one_of(row.name, _ADMIN_STATES, row.admin_state)]


def healths(snapshot: MetricsSnapshot) -> Samples:
    return [sample for row in snapshot.nodes for sample in _one_of(row.name, Health, row.health)]


def stages(snapshot: MetricsSnapshot) -> Samples:
    return [sample for drain in snapshot.drains for sample in _one_of(drain.node, Stage, drain.stage)]


def session_states(snapshot: MetricsSnapshot) -> Samples:
    return [((state.value,), snapshot.states.get(state.value, 0)) for state in State if state is not State.CLOSED]


def worker_states(snapshot: MetricsSnapshot) -> Samples:
    states = [row.state for row in snapshot.workers]
    return [((state,), states.count(state)) for state in _WORKER_STATES]


def ends(snapshot: MetricsSnapshot) -> Samples:
    reasons = {str(reason): 0 for reason in Reason} | {WORKER_DIED: 0} | snapshot.totals.ended
    return [((reason,), count) for reason, count in reasons.items()]


def transfers(snapshot: MetricsSnapshot) -> Samples:
    for node, kind, count in snapshot.statistics.transfers():
        yield (node, kind.software, kind.trigger, kind.rung, kind.outcome), count


def resumptions(snapshot: MetricsSnapshot) -> Samples:
    for node, kind, count in snapshot.statistics.resumptions():
        yield (node, kind.software, kind.trigger, kind.rung), count


def refusals(snapshot: MetricsSnapshot) -> Samples:
    """Return those for which an alert waits from the beginning: of a series that begins with its first refusals,
    nobody sees that it has grown."""
    reasons = {str(StreamCondition.REMOTE_CONNECTION_FAILED): 0} | snapshot.totals.refused
    return [((reason,), count) for reason, count in reasons.items()]


def failed_handshakes(snapshot: MetricsSnapshot) -> Samples:
    reasons = {str(failure): 0 for failure in TlsFailure} | snapshot.totals.failed_handshakes
    return [((reason,), count) for reason, count in reasons.items()]


def returns(snapshot: MetricsSnapshot) -> Samples:
    for node, kind, count in snapshot.statistics.returns():
        yield (node, kind.software, kind.trigger, kind.rung), count


def attempts(snapshot: MetricsSnapshot) -> Samples:
    for (software, attempt), count in snapshot.statistics.attempts.items():
        yield (software, attempt.rung, attempt.outcome), count


def durations(snapshot: MetricsSnapshot) -> Samples:
    return [((rung,), durations) for rung, durations in snapshot.statistics.durations.items()]
