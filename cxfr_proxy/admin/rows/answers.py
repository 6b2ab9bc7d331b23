"""Answers to commands: of what kinds they are, and the rows for those that are a few words."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Raw

from cxfr_proxy.admin.rows.order_rows import DrainPlan, Progress, RebalancePlan, RollPlan
from cxfr_proxy.admin.rows.rows import OperatorRow


class ReloadFaults(OperatorRow, frozen=True):
    """The faults for which a reload has changed nothing."""

    faults: list[str]


class Note(OperatorRow, frozen=True):
    """A remark on an answer: what is missing from it, for example."""

    note: str


class MessageRow(OperatorRow, frozen=True):
    """The answer of a command that has no rows."""

    message: str


SingleAnswer = Progress | DrainPlan | RebalancePlan | RollPlan | MessageRow | ReloadFaults
"""An answer that is put into words."""

CommandAnswer = SingleAnswer | OperatorRow | Sequence[OperatorRow] | Sequence[Raw]
"""The answer to a command. :class:`msgspec.Raw` is the JSON of rows that their workers have written."""
