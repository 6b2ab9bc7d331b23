"""The latest events of a process that are worth showing, as an operator is shown them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from cxfr_proxy import events
from cxfr_proxy.admin.rows.rows import ErrorRow, EventRow

_OF: Final = " of "
SUPERVISOR: Final = "supervisor"
"""The name of the main process among the processes."""


def event_rows(process: str) -> list[EventRow]:
    """Return those of this process, the newest last."""
    return [
        EventRow(
            events.timestamp(each.at), logging.getLevelName(each.level), each.event, each.total, process, each.details
        )
        for each in events.latest.entries()
    ]


def of_earlier_proxy(rows: Iterable[EventRow], pid: int) -> list[EventRow]:
    """Return these rows with processes that say whose they were: those of the proxy whose main process had that id."""
    return [
        row if _OF in row.process else msgspec.structs.replace(row, process=f"{row.process}{_OF}{pid}") for row in rows
    ]


def error_rows(rows: Iterable[EventRow]) -> list[ErrorRow]:
    """Return the warnings and errors among these."""
    return [
        ErrorRow(row.time, row.level, row.event, row.count, row.process, row.details)
        for row in rows
        if logging.getLevelNamesMapping()[row.level] >= logging.WARNING
    ]
