"""The latest warnings and errors of a process, as an operator is shown them."""

from __future__ import annotations

from cxfr_proxy import events
from cxfr_proxy.admin.rows import ErrorRow


def error_rows(process: str) -> list[ErrorRow]:
    """Return those of this process, the newest last."""
    return [
        ErrorRow(events.timestamp(each.at), each.level, each.event, each.total, process, each.details)
        for each in events.latest_errors.entries()
    ]
