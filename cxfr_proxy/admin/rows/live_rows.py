"""Rows that are told live, beside those that are shown as well (:mod:`.rows`)."""

from __future__ import annotations

from cxfr_proxy.admin.rows.rows import OperatorRow


class SummaryRow(OperatorRow, frozen=True):
    """The proxy as a whole, in numbers. Counts are over all workers, and those that only grow begin with the proxy."""

    state: str
    """``starting``, ``serving`` or ``stopping``."""
    nodes: int
    nodes_usable: int
    workers: int
    sessions: int
    predecessor_sessions: int
    """Those of them that are still with the process whose place this one has taken."""
    connections: int
    """Bound or not."""
    capacity: int
    """How many sessions fit."""
    logins: int
    logins_failed: int
    moved: int
    """Transfers that have ended well."""
    returned: int
    """Clients that moved and have logged in again."""
    rate: float
    """Clients per second that this proxy may move."""
