"""THE table of what an operator can see: each view's columns, and which part of the proxy gives its rows.

Each of :data:`VIEWS` is a command (``show nodes``), and the command line has its tables from here; whatever else shows
rows, on a page for one, is drawn from it too. A column names a field of the row and says in which style its values are
written, not how: that is for :mod:`cxfr_proxy.admin.text`, or for a browser.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from cxfr_proxy.admin.commands.actions import ReportProgress, list_errors, list_events, list_sessions
from cxfr_proxy.admin.commands.arguments import Argument, Arguments
from cxfr_proxy.admin.rows.answers import CommandAnswer
from cxfr_proxy.admin.rows.order_rows import ForetoldRestart, PlannedMove, PlannedTarget
from cxfr_proxy.admin.rows.rows import (
    ErrorRow,
    EventRow,
    HistoryRow,
    InfoRow,
    NodeRow,
    OperatorRow,
    PinRow,
    ProxyRow,
    RollRow,
    SessionDetailsRow,
    SessionRow,
    SettingRow,
    SoftwareRow,
    SourceRow,
    TransferRow,
    WorkerRow,
)
from cxfr_proxy.config import values
from cxfr_proxy.config.values import ValueType

if TYPE_CHECKING:  # the command line needs the columns alone, and starts faster without the parts of a proxy
    from cxfr_proxy.admin.console.console import Console


class Style(StrEnum):
    """How a value is written."""

    TEXT = "text"
    NUMBER = "number"
    SECONDS = "seconds"
    """A number of seconds, as people say it."""
    SIZE = "size"
    """A number of bytes."""
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
    """One column: its title, the row's field, its style, and what stands there where the field is ``None``.

    ``usual``: what nearly always stands there and says nothing. A column with nothing else in it is left out if a
    terminal is too narrow for all of them. ``None``: it is always shown.
    """

    title: str
    field: str
    style: Style = Style.TEXT
    missing: str = "-"
    usual: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """One thing to see, or many of a kind. ``answer`` gets the rows from the running proxy, as the ``arguments`` say:
    a list of them, or the one row where there ``is_single``."""

    help: str
    row: type[OperatorRow]
    columns: tuple[Column, ...]
    answer: Callable[[Console, Arguments, ReportProgress], Awaitable[CommandAnswer]]
    arguments: tuple[Argument, ...] = ()
    is_single: bool = False


async def _roll(on: Console) -> Sequence[OperatorRow]:
    return on.rolls.rows()


async def _source(on: Console) -> Sequence[OperatorRow]:
    return [on.peers.source_row()]


async def _proxies(on: Console) -> Sequence[OperatorRow]:
    return on.peers.proxy_rows()


async def _settings(on: Console) -> Sequence[OperatorRow]:
    return on.settings.rows()


async def _software(on: Console) -> Sequence[OperatorRow]:
    return on.history.software_rows()


async def _history(on: Console, limit: int | None) -> Sequence[OperatorRow]:
    return on.history.rows(limit)


_SESSION: Final = ValueType("the number of a session", "ID", values.whole(minimum=1, maximum=2**63 - 1).read)
_LIMIT: Final = Argument("limit", "show no more than so many", values.whole(minimum=1))
_EVENT_COLUMNS: Final = (
    Column("TIME", "time"),
    Column("LEVEL", "level"),
    Column("EVENT", "event"),
    Column("COUNT", "count", Style.NUMBER),
    Column("PROCESS", "process"),
    Column("DETAILS", "details"),
)

VIEWS: Final[Mapping[str, View]] = {
    "nodes": View(
        "the nodes: admin state, health and drain, and how many clients each has",
        NodeRow,
        (
            Column("NODE", "name"),
            Column("ADDRESS", "address"),
            Column("PUBLIC", "public", usual="-"),
            Column("ADMIN STATE", "admin_state"),
            Column("DRAIN", "drain", usual="-"),
            Column("HEALTH", "health"),
            Column("SINCE", "health_seconds", Style.SECONDS),
            Column("CHECK", "check"),
            Column("WEIGHT", "weight", Style.NUMBER, usual="1"),
            Column("WARM-UP", "warm_up", Style.SHARE, usual="100%"),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("WAITING", "waiting", Style.NUMBER, usual="0"),
            Column("MOVED", "moved", Style.NUMBER, usual="0"),
            Column("RETURNED", "returned", Style.NUMBER, usual="0"),
            Column("UNREACHED", "connect_failures", Style.NUMBER, usual="0"),
            Column("FORGED", "forged", Style.NUMBER, usual="0"),
        ),
        lambda on, given, report: on.nodes.rows(),
    ),
    "sessions": View(
        "clients, the oldest sessions first: all, or those that match",
        SessionRow,
        (
            Column("ID", "id", Style.NUMBER),
            Column("JID", "jid"),
            Column("NODE", "node"),
            Column("STATE", "state"),
            Column("TRANSPORT", "transport", usual="tcp"),
            Column("TLS", "tls"),
            Column("SM", "stream_management"),
            Column("CLIENT", "client_address"),
            Column("AGE", "age_seconds", Style.SECONDS),
            Column("IDLE", "idle_seconds", Style.SECONDS),
            Column("INACTIVE", "inactive", usual="no"),
            Column("TRANSFER", "transfer", usual="-"),
            Column("LEAVING", "leaving", Style.NUMBER, usual="-"),
        ),
        lambda on, given, report: list_sessions(on.clients, report, **given),
        (
            Argument("user", "only this user's; with a resource, this client", values.JID),
            Argument("node", "only those on this node", values.NODE_NAME),
            Argument("address", "only those from this address or network", values.PEER_NETWORK),
            _LIMIT,
        ),
    ),
    "session": View(
        "everything that is known of one session",
        SessionDetailsRow,
        (
            Column("ID", "id", Style.NUMBER),
            Column("JID", "jid"),
            Column("STATE", "state"),
            Column("AGE", "age_seconds", Style.SECONDS),
            Column("IDLE", "idle_seconds", Style.SECONDS),
            Column("INACTIVE", "inactive"),
            Column("NODE", "node"),
            Column("HOME", "home"),
            Column("CLIENT", "client_address"),
            Column("PORT", "client_port", Style.NUMBER),
            Column("VIA", "via"),
            Column("UNIQUE ID", "unique_id"),
            Column("DOMAIN", "domain"),
            Column("SERVER NAME", "server_name"),
            Column("TRANSPORT", "transport"),
            Column("TLS", "tls"),
            Column("SOFTWARE", "software"),
            Column("CAPS", "caps"),
            Column("AGENT", "agent"),
            Column("STAYS DOWN", "stays_down"),
            Column("SM", "stream_management"),
            Column("RESUMABLE", "resumable"),
            Column("TRANSFER", "transfer"),
            Column("TO", "transfer_target"),
            Column("TRIGGER", "transfer_trigger"),
            Column("ASKED", "transfer_seconds", Style.SECONDS),
            Column("NOT MOVED FOR", "held_seconds", Style.SECONDS),
            Column("UNSENT TO CLIENT", "unsent_to_client", Style.SIZE),
            Column("UNSENT TO NODE", "unsent_to_node", Style.SIZE),
            Column("WORKER", "worker", Style.NUMBER),
            Column("LEAVING", "leaving", Style.NUMBER),
        ),
        lambda on, given, report: on.clients.details(given["id"]),
        (Argument("id", "its number, as show sessions and the log have it", _SESSION, positional=True),),
        is_single=True,
    ),
    "transfers": View(
        "transfers that run, and the last ones that ended",
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
            Column("LEAVING", "leaving", Style.NUMBER, usual="-"),
        ),
        lambda on, given, report: on.sessions.transfer_rows(),
    ),
    "pins": View(
        "pinned users, and where their sessions are",
        PinRow,
        (
            Column("USER", "user"),
            Column("NODE", "node"),
            Column("HERE", "here", Style.NUMBER),
            Column("ALSO ON", "elsewhere", Style.LIST, usual="-"),
        ),
        lambda on, given, report: on.pins.rows(),
    ),
    "workers": View(
        "the processes that serve clients",
        WorkerRow,
        (
            Column("WORKER", "number", Style.NUMBER),
            Column("PID", "pid", Style.NUMBER),
            Column("STATE", "state"),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("CONNECTIONS", "connections", Style.NUMBER),
            Column("MEMORY", "resident_bytes", Style.SIZE),
            Column("DESCRIPTORS", "open_descriptors", Style.NUMBER, usual="-"),
            Column("DEATHS", "deaths", Style.NUMBER, usual="0"),
            Column("HUNG", "hung", Style.NUMBER, usual="0"),
            Column("SILENT", "silent_seconds", Style.SECONDS, usual="-"),
            Column("MAIN PID", "main_pid", Style.NUMBER, usual="-"),
        ),
        lambda on, given, report: on.workers.rows(),
    ),
    "roll": View(
        "the nodes of a rolling restart in their order, and how far each is",
        RollRow,
        (
            Column("NODE", "node"),
            Column("STEP", "step"),
            Column("STOPPED", "stopped"),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("MOVED", "moved", Style.NUMBER),
            Column("REASON", "reason", usual="-"),
        ),
        lambda on, given, report: _roll(on),
    ),
    "source": View(
        "where the nodes come from, and whether that works",
        SourceRow,
        (
            Column("SOURCE", "source"),
            Column("STATE", "state"),
            Column("SINCE", "lost_seconds", Style.SECONDS, usual="-"),
            Column("NODES", "nodes", Style.NUMBER),
            Column("PROXIES", "proxies", Style.NUMBER, usual="-"),
            Column("RATE", "rate", Style.RATE),
            Column("PENDING", "pending", Style.NUMBER, usual="0"),
            Column("REASON", "reason", usual="-"),
        ),
        lambda on, given, report: _source(on),
    ),
    "config": View(
        "each setting: its value, where that is from, and whether it can be changed",
        SettingRow,
        (
            Column("SETTING", "name"),
            Column("VALUE", "value"),
            Column("DEFAULT", "default"),
            Column("SOURCE", "source"),
            Column("CHANGEABLE", "changeable"),
        ),
        lambda on, given, report: _settings(on),
    ),
    "proxies": View(
        "the proxies that share etcd",
        ProxyRow,
        (
            Column("PROXY", "name"),
            Column("THIS", "own"),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("TO MOVE", "to_move", Style.NUMBER),
        ),
        lambda on, given, report: _proxies(on),
    ),
    "info": View(
        "the proxy as a whole: version, addresses, processes and totals",
        InfoRow,
        (
            Column("VERSION", "version"),
            Column("ENGINE", "engine"),
            Column("PYTHON", "python"),
            Column("OPENSSL", "openssl"),
            Column("PID", "pid", Style.NUMBER),
            Column("STARTED", "started"),
            Column("UP", "up_seconds", Style.SECONDS),
            Column("STATE", "state"),
            Column("LISTEN", "listen", Style.LIST),
            Column("CONTROL", "control"),
            Column("HTTP", "http"),
            Column("SETTINGS", "config_file"),
            Column("STATE FILE", "state_file"),
            Column("SOURCE", "source"),
            Column("NODES", "nodes", Style.NUMBER),
            Column("USABLE", "nodes_usable", Style.NUMBER),
            Column("WORKERS", "workers", Style.NUMBER),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("CONNECTIONS", "connections", Style.NUMBER),
            Column("CAPACITY", "capacity", Style.NUMBER),
            Column("RATE", "rate", Style.RATE),
            Column("CERTIFICATES UNTIL", "certificates_until"),
        ),
        lambda on, given, report: on.about.info(),
        is_single=True,
    ),
    "events": View(
        "the latest events of all processes that are worth showing, warnings and errors among them, the newest last",
        EventRow,
        _EVENT_COLUMNS,
        lambda on, given, report: list_events(on.about, **given),
        (_LIMIT,),
    ),
    "errors": View(
        "the latest warnings and errors of all processes, the newest last",
        ErrorRow,
        _EVENT_COLUMNS,
        lambda on, given, report: list_errors(on.about, **given),
        (_LIMIT,),
    ),
    "software": View(
        "the transfers since the proxy began, by the clients' software and how they ended",
        SoftwareRow,
        (
            Column("SOFTWARE", "software"),
            Column("TRANSFERS", "transfers", Style.NUMBER),
            Column("MOVED", "moved", Style.NUMBER),
            Column("REFUSED", "refused", Style.NUMBER),
            Column("SILENT", "silent", Style.NUMBER),
            Column("FAILED", "failed", Style.NUMBER),
            Column("RETURNED", "returned", Style.NUMBER),
        ),
        lambda on, given, report: _software(on),
    ),
    "history": View(
        "the last hour: sessions, logins, and transfers by how they ended, the latest last",
        HistoryRow,
        (
            Column("TIME", "time"),
            Column("SECONDS", "seconds", Style.NUMBER),
            Column("SESSIONS", "sessions", Style.NUMBER),
            Column("LOGINS", "logins", Style.NUMBER),
            Column("FAILED LOGINS", "logins_failed", Style.NUMBER),
            Column("MOVED", "moved", Style.NUMBER),
            Column("REFUSED", "refused", Style.NUMBER),
            Column("SILENT", "silent", Style.NUMBER),
            Column("FAILED", "failed", Style.NUMBER),
        ),
        lambda on, given, report: _history(on, given["limit"]),
        (_LIMIT,),
    ),
}
"""The views, by the word behind ``show``."""

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
