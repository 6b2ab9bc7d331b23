"""The state of the proxy at one moment: the only source of the metrics' values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cxfr_proxy.admin.console.reloads import ReloadOutcome, ReloadPart
from cxfr_proxy.admin.rows.rows import NodeRow, WorkerRow
from cxfr_proxy.process_figures import ProcessCost
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.move_window import WindowState
from cxfr_proxy.transfers.statistics import Totals, TransferStatistics


@dataclass(frozen=True, slots=True)
class DrainFigures:
    """A drain that was ordered, and not called off since. ``left``: sessions; ``waits``: nobody can be moved now."""

    node: str
    stage: Stage
    left: int
    waits: bool


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """The main process. ``started`` in seconds since 1970."""

    started: float
    cost: ProcessCost


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """The state at one moment. ``build`` has the words of ``--version``; ``states`` counts sessions by state;
    ``capacity`` is how many connections fit, ``rate`` how many clients a second are told to move at most; ``reloads``
    are by part, ``certificate_expiries`` in seconds since 1970 by the certificate's file."""

    build: Mapping[str, str]
    nodes: Sequence[NodeRow]
    workers: Sequence[WorkerRow]
    drains: Sequence[DrainFigures]
    states: Mapping[str, int]
    totals: Totals
    statistics: TransferStatistics
    capacity: int
    rate: float
    process: ProcessFigures
    source_well: bool = True
    certificate_expiries: Mapping[str, float] = field(default_factory=dict)
    moves: WindowState = field(default_factory=WindowState)
    reloads: Mapping[ReloadPart, ReloadOutcome] = field(default_factory=dict)
