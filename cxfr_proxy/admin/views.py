"""THE table of what an operator can see: each view's columns, and which part of the proxy gives its rows.

``show`` takes its choices from :data:`VIEWS` and the command line its tables; whatever else shows rows, on a page for
one, is drawn from it too. A column names a field of the row and says in which style its values are written, not how:
that is for :mod:`.text`, or for a browser.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from cxfr_proxy.admin.rows import (
    ForetoldRestart,
    NodeRow,
    OperatorRow,
    PinRow,
    PlannedMove,
    PlannedTarget,
    ProxyRow,
    RollRow,
    SessionRow,
    SettingRow,
    SourceRow,
    TransferRow,
    WorkerRow,
)

if TYPE_CHECKING:  # the command line needs the columns alone, and starts faster without the parts of a proxy
    from cxfr_proxy.admin.console import Console


class Style(StrEnum):
    """How a value is written."""

    TEXT = "text"
    NUMBER = "number"
    SECONDS = "seconds"
    """A number of seconds, as people say it."""
    SHARE = "share"
    """0 to 1, as a percentage."""
    RATE = "rate"
    """A number per second."""
    LIST = "list"
    """Several texts."""

    @property
    def is_numeric(self) -> bool:
        """Whether values are aligned at their ends."""
        return self not in (Style.TEXT, Style.LIST)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, the row's field, its style, and what stands there where the field is ``None``."""

    title: str
    field: str
    style: Style = Style.TEXT
    missing: str = "-"


@dataclass(frozen=True, slots=True)
class View:
    """One thing to see. ``rows`` gets them from the running proxy."""

    row: type[OperatorRow]
    columns: tuple[Column, ...]
    rows: Callable[[Console], Awaitable[Sequence[OperatorRow]]]


async def _roll(on: Console) -> Sequence[OperatorRow]:
    return on.rolls.rows()


async def _source(on: Console) -> Sequence[OperatorRow]:
    return [on.peers.source_row()]


async def _proxies(on: Console) -> Sequence[OperatorRow]:
    return on.peers.proxy_rows()


async def _settings(on: Console) -> Sequence[OperatorRow]:
    return on.settings.rows()


VIEWS: Final[Mapping[str, View]] = {
    "nodes": View(
        NodeRow,
        (
            Column("NODE", "name"),
            Column("ADDRESS", "address"),
            Column("PUBLIC", "public"),
            Column("ADMIN STATE", "admin_state"),
            Column("DRAIN", "drain"),
            Column("HEALTH", "health"),
            Column("SINCE", "health_seconds", Style.SECONDS),
            Column("CHECK", "check"),
            Column("WEIGHT", "weight", Style.NUMBER),
            Column("WARM-UP", "warm_up", Style.SHARE),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("WAITING", "waiting", Style.NUMBER),
            Column("MOVED", "moved", Style.NUMBER),
            Column("RETURNED", "returned", Style.NUMBER),
            Column("UNREACHED", "connect_failures", Style.NUMBER),
            Column("FORGED", "forged", Style.NUMBER),
        ),
        lambda on: on.nodes.rows(),
    ),
    "sessions": View(
        SessionRow,
        (
            Column("ID", "id", Style.NUMBER),
            Column("JID", "jid"),
            Column("NODE", "node"),
            Column("STATE", "state"),
            Column("TRANSPORT", "transport"),
            Column("TLS", "tls"),
            Column("SM", "stream_management"),
            Column("CLIENT", "client_address"),
            Column("AGE", "age_seconds", Style.SECONDS),
            Column("IDLE", "idle_seconds", Style.SECONDS),
            Column("INACTIVE", "inactive"),
            Column("TRANSFER", "transfer"),
        ),
        lambda on: on.sessions.session_rows(),
    ),
    "transfers": View(
        TransferRow,
        (
            Column("SESSION", "session", Style.NUMBER),
            Column("JID", "jid"),
            Column("FROM", "source"),
            Column("TO", "target"),
            Column("SOFTWARE", "software"),
            Column("RUNG", "rung"),
            Column("OUTCOME", "outcome", missing="running"),
            Column("AGO", "seconds_ago", Style.SECONDS),
            Column("TOOK", "duration_seconds", Style.SECONDS),
            Column("RETURNED", "returned_seconds", Style.SECONDS),
            Column("TRIGGER", "trigger"),
        ),
        lambda on: on.sessions.transfer_rows(),
    ),
    "pins": View(
        PinRow,
        (
            Column("USER", "user"),
            Column("NODE", "node"),
            Column("HERE", "here", Style.NUMBER),
            Column("ALSO ON", "elsewhere", Style.LIST),
        ),
        lambda on: on.pins.rows(),
    ),
    "workers": View(
        WorkerRow,
        (
            Column("WORKER", "number", Style.NUMBER),
            Column("PID", "pid", Style.NUMBER),
            Column("STATE", "state"),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("CONNECTIONS", "connections", Style.NUMBER),
            Column("DEATHS", "deaths", Style.NUMBER),
            Column("HUNG", "hung", Style.NUMBER),
            Column("SILENT", "silent_seconds", Style.SECONDS),
        ),
        lambda on: on.workers.rows(),
    ),
    "roll": View(
        RollRow,
        (
            Column("NODE", "node"),
            Column("STEP", "step"),
            Column("STOPPED", "stopped"),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("MOVED", "moved", Style.NUMBER),
            Column("REASON", "reason"),
        ),
        _roll,
    ),
    "source": View(
        SourceRow,
        (
            Column("SOURCE", "source"),
            Column("STATE", "state"),
            Column("SINCE", "lost_seconds", Style.SECONDS),
            Column("NODES", "nodes", Style.NUMBER),
            Column("PROXIES", "proxies", Style.NUMBER),
            Column("RATE", "rate", Style.RATE),
            Column("PENDING", "pending", Style.NUMBER),
            Column("REASON", "reason"),
        ),
        _source,
    ),
    "config": View(
        SettingRow,
        (
            Column("SETTING", "name"),
            Column("VALUE", "value"),
            Column("DEFAULT", "default"),
            Column("SOURCE", "source"),
            Column("CHANGEABLE", "changeable"),
        ),
        _settings,
    ),
    "proxies": View(
        ProxyRow,
        (
            Column("PROXY", "name"),
            Column("THIS", "own"),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("TO MOVE", "to_move", Style.NUMBER),
        ),
        _proxies,
    ),
}
"""The views that ``show`` can show, by name."""

COLUMNS_OF_PLANS: Final[Mapping[type, tuple[Column, ...]]] = {
    PlannedTarget: (Column("TO", "node", missing="none"), Column("SESSIONS", "sessions", Style.NUMBER)),
    ForetoldRestart: (
        Column("NODE", "node"),
        Column("SESSIONS", "sessions", Style.NUMBER),
        Column("TAKES", "seconds", Style.SECONDS),
    ),
    PlannedMove: (
        Column("FROM", "source"),
        Column("TO", "target"),
        Column("SESSIONS", "sessions", Style.NUMBER),
    ),
}
"""The columns of a plan."""
