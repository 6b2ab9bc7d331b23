"""THE table of what is told live: topics, each a list of rows that takes the place of the one before.

A look asks no worker: it puts together what workers have reported by themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cxfr_proxy.admin.latest_events import SUPERVISOR, event_rows
from cxfr_proxy.admin.rows.live_rows import SummaryRow
from cxfr_proxy.admin.rows.order_rows import DrainProgress, RebalanceProgress, RestartProgress
from cxfr_proxy.admin.rows.rows import (
    EventRow,
    HistoryRow,
    NodeRow,
    OperatorRow,
    RollRow,
    SoftwareRow,
    SourceRow,
    WorkerRow,
)

if TYPE_CHECKING:
    from cxfr_proxy.admin.console.console import Console


@dataclass(frozen=True, slots=True)
class LiveTopic:
    """Something that can be watched."""

    help: str
    row: type[OperatorRow]
    look: Callable[[Console], Awaitable[Sequence[OperatorRow]]]


async def _nodes(on: Console) -> Sequence[OperatorRow]:
    return await on.nodes.known_rows()


async def _workers(on: Console) -> Sequence[OperatorRow]:
    return on.workers.known_rows()


async def _summary(on: Console) -> Sequence[OperatorRow]:
    return [on.about.summary()]


async def _drains(on: Console) -> Sequence[OperatorRow]:
    return on.drains.progress_rows()


async def _roll(on: Console) -> Sequence[OperatorRow]:
    return on.rolls.rows()


async def _rebalance(on: Console) -> Sequence[OperatorRow]:
    return on.rebalances.progress_rows()


async def _restart(on: Console) -> Sequence[OperatorRow]:
    return on.workers.progress_rows()


async def _software(on: Console) -> Sequence[OperatorRow]:
    return on.history.software_rows()


async def _history(on: Console) -> Sequence[OperatorRow]:
    return on.history.rows()


async def _recent(on: Console) -> Sequence[OperatorRow]:
    return event_rows(SUPERVISOR)


async def _source(on: Console) -> Sequence[OperatorRow]:
    return [on.peers.source_row()]


TOPICS: Final[Mapping[str, LiveTopic]] = {
    "summary": LiveTopic("the proxy as a whole, in numbers", SummaryRow, _summary),
    "nodes": LiveTopic("the nodes, as show nodes has them", NodeRow, _nodes),
    "drains": LiveTopic("how far each drain is", DrainProgress, _drains),
    "roll": LiveTopic("the nodes of a rolling restart, as show roll has them", RollRow, _roll),
    "rebalance": LiveTopic("how far the rebalance is that goes on", RebalanceProgress, _rebalance),
    "restart": LiveTopic("how far the replacing of workers is", RestartProgress, _restart),
    "software": LiveTopic(
        "how transfers have ended, by the clients' software, as show software has it", SoftwareRow, _software
    ),
    "workers": LiveTopic("the processes that serve clients, as show workers has them", WorkerRow, _workers),
    "history": LiveTopic("the last hour in samples, as show history has it", HistoryRow, _history),
    "recent": LiveTopic(
        "the latest events of the main process that are worth showing; show events has those of workers, too",
        EventRow,
        _recent,
    ),
    "source": LiveTopic("where the nodes come from, as show source has it", SourceRow, _source),
}
"""By the name of their events."""
