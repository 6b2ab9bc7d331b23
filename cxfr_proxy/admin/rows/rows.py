"""Rows: what the proxy tells its operator, flat, the same for people's tables and for programs.

A row is made for one answer and thrown away. In JSON it is an object that says its ``kind`` first; field names are an
interface for programs, so they are added to and not renamed. Strings that came from outside (JIDs, resources, reasons)
are as they came: whoever shows them to a terminal cleans them (:mod:`cxfr_proxy.admin.text`).
"""

from __future__ import annotations

import re

from msgspec import Struct


def _kind(name: str) -> str:
    """Return the kind of a row: ``drain-plan`` for ``DrainPlan``, ``node`` for ``NodeRow``."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "-", name.removesuffix("Row")).lower()


class OperatorRow(Struct, frozen=True, tag=_kind, tag_field="kind"):
    """One thing that an operator is told."""


class NodeRow(OperatorRow, frozen=True):
    """One node. ``admin_state`` is what the operator wants, ``health`` what checks see."""

    name: str
    address: str
    public: str | None
    """Where its clients are sent; ``None``: to the domain, which leads back to a proxy."""
    admin_state: str
    health: str
    weight: int
    sessions: int
    moved: int
    connect_failures: int
    forged: int
    """Connection transfers that did not come from the proxy, and were kept from its clients."""
    asked: int = 0
    """Clients that were asked to move away; the next three are how that ended on the rungs that were tried."""
    refused: int = 0
    silent: int = 0
    failed: int = 0
    usable: bool = True
    """Clients are placed there now."""
    waiting: int = 0
    """Logins that wait for their turn (``logins-per-second``), or for the node to accept them."""
    health_seconds: float | None = None
    """How long it has been up or down; ``None``: as long as it is known."""
    check: str | None = None
    """The result of the last check: ``ok 3 ms``, or the fault; ``None``: there was no check yet."""
    check_seconds_ago: float | None = None
    warm_up: float = 1.0
    """How much of its weight counts at the moment, 0 to 1: a node that has come back is filled slowly."""
    returned: int = 0
    """Those that moved away and have logged in again, on whichever node."""
    drain: str | None = None
    """How far its drain is: a stage (``grace``, ``awake``, ``all``, ``rest``, ``aborted``), ``settling`` (it is empty,
    and sessions that have left it lately could die with it), or ``done``; ``None``: it is not drained."""
    drain_reason: str | None = None
    """Why no client can be moved off it at that stage; ``None``: some can."""
    priority: int = 0
    """Nodes of the lowest number of which one can be used take users."""
    public_ws: str | None = None
    """Where its clients on WebSocket are sent; ``None``: back to where they were."""
    check_duration_seconds: float | None = None
    """How long the last check took; ``None``: there was no check yet."""
    checks_failed: int = 0
    entered: int = 0
    """Sessions that have come so far, by a login or from another node; those that are not there now have left."""


class SessionRow(OperatorRow, frozen=True):
    """One client. ``jid`` is ``None`` until a resource is bound, ``node`` until one was chosen."""

    id: int
    jid: str | None
    node: str | None
    state: str
    tls: str | None
    """Protocol version; ``None`` for a plain connection."""
    stream_management: bool
    client_address: str
    age_seconds: float
    idle_seconds: float
    transfer: str | None
    """The rung that is being tried; ``None`` while the session isn't being moved."""
    inactive: bool = False
    """The client has said that nobody looks at it (XEP-0352)."""
    transport: str = "tcp"
    """How the client is connected: ``tcp`` or ``websocket``, either with or without ``tls``."""
    leaving: int | None = None
    """The process that serves it, by its id, if another one has taken over (workers are being replaced, or the proxy
    was upgraded); ``None``: none has."""


class SessionDetailsRow(OperatorRow, frozen=True):
    """Everything that is known of one client. Fields that :class:`SessionRow` has too mean the same."""

    id: int
    jid: str | None
    state: str
    node: str
    home: str | None
    """The node where its user belongs; ``None``: any will do, or the user is not known yet."""
    worker: int
    """The number of the worker that serves it."""
    client_address: str
    client_port: int | None
    """``None``: it has none, by a unix socket."""
    via: str | None
    """The balancer that has told whose connection it is; ``None``: the client has connected itself."""
    unique_id: str | None
    """The balancer's name for the connection."""
    domain: str
    """The domain that the client has asked for."""
    server_name: str | None
    """The name that it has asked for by SNI."""
    transport: str
    tls: str | None
    age_seconds: float
    idle_seconds: float
    inactive: bool
    software: str
    caps: str | None
    agent: str | None
    """Its software, as its user agent says (XEP-0388)."""
    stays_down: bool
    """It is known not to come back, however it is told to move."""
    stream_management: bool
    resumable: bool
    """Its client can resume it (XEP-0198)."""
    transfer: str | None
    """The rung that is being tried; ``None`` while it isn't being moved, as the next three."""
    transfer_target: str | None
    transfer_trigger: str | None
    transfer_seconds: float | None
    held_seconds: float | None
    """Seconds for which it is not moved again, since its client was moved lately; ``None``: it may be."""
    unsent_to_client: int
    """Bytes that wait for it to read."""
    unsent_to_node: int
    leaving: int | None = None


class TransferRow(OperatorRow, frozen=True):
    """One transfer, running or recent. ``seconds_ago`` counts from its start."""

    session: int
    jid: str
    source: str
    target: str | None
    """``None``: whichever node placement chooses when the client is back."""
    rung: str
    outcome: str | None
    """``None`` while it runs."""
    seconds_ago: float
    duration_seconds: float
    """Until now, while it runs."""
    trigger: str
    """The trigger: ``drain``, ``node-down``, ``rebalance`` ..."""
    software: str = "unknown"
    """The client's, by its name in the table of what was measured; else ``other``, or ``unknown`` if it is silent."""
    returned_seconds: float | None = None
    """How long the client was away; ``None``: it has not moved, or has not returned yet."""
    caps: str | None = None
    """``node#ver`` of its capabilities (XEP-0115)."""
    leaving: int | None = None
    """As a :class:`SessionRow` has it."""


class PinRow(OperatorRow, frozen=True):
    """A pinned user. ``user`` is a bare JID in its canonical spelling."""

    user: str
    node: str
    here: int
    """The user's sessions on that node."""
    elsewhere: list[str]
    """The other nodes that the user has sessions on: a pin alone moves nobody."""


class RollRow(OperatorRow, frozen=True):
    """One node of a roll."""

    node: str
    step: str
    """``waits`` (its turn comes), a step as :class:`.order_rows.RollProgress` has them, or ``done``."""
    sessions: int
    moved: int
    """Clients that have moved away from it, since the roll or the proxy began."""
    reason: str | None = None
    """Why it does not go on, or has stopped there; ``None``: it goes on."""
    stopped: bool = False
    """The roll has stopped there."""


class WorkerRow(OperatorRow, frozen=True):
    """One process that serves clients."""

    number: int
    """The number of its slot, from 1 on; two workers have it while one leaves."""
    pid: int | None
    """``None`` while there is none."""
    state: str
    """``up``, ``starting``, ``leaving`` (another one has taken over), ``waiting`` (its last ones died at once; the next
    one comes later) or ``stopping``."""
    sessions: int
    connections: int
    """Bound or not."""
    deaths: int
    """How many workers of this slot died."""
    hung: int = 0
    """How many of them were killed because they did nothing any more."""
    replaced: int = 0
    """How many were replaced by command."""
    silent_seconds: float | None = None
    """How long it has owed an answer; ``None`` while it answers."""
    cpu_seconds: float = 0.0
    """CPU time of all workers of this slot there ever were."""
    resident_bytes: int | None = None
    """Memory of its process; ``None``: nobody can tell, or it has not reported yet."""
    open_descriptors: int | None = None
    """File descriptors that its process has open; ``None`` as above, and before Linux 6.2."""
    max_descriptors: int | None = None
    """How many it may have open; ``None``: there is no limit, or it has not reported yet."""
    main_pid: int | None = None
    """The process whose worker it is, by its id, if the proxy was upgraded and that one still moves its clients.
    ``None``: it is the present proxy's."""


class SourceRow(OperatorRow, frozen=True):
    """Where the nodes come from. ``state`` is ``well``, ``lost`` while it can't be reached (or the file is gone), or
    ``faulty`` while its content is no good; then the nodes stay as they were."""

    source: str
    state: str
    lost_seconds: float | None
    """How long it has been lost or faulty; ``None`` while it is well."""
    reason: str | None
    """Why it is lost or faulty; ``None`` while it is well."""
    nodes: int
    proxies: int | None
    """Proxies that share it, this one included; ``None`` where nothing is shared."""
    rate: float
    """Clients per second that this proxy may move: its share, where several proxies have one rate."""
    pending: int
    """Commands that the peer proxies haven't heard of yet."""


class ProxyRow(OperatorRow, frozen=True):
    """One of the proxies that share the node list, as it describes itself. ``to_move``: its clients that are to be
    moved now."""

    name: str
    own: bool
    """It is the one that answers."""
    sessions: int
    to_move: int


class SettingRow(OperatorRow, frozen=True):
    """A setting and its value, both as an operator writes them. ``source`` says where the value is from: ``default``,
    ``flag``, the settings file with the line, ``set`` by a command, or the ``program`` in which the proxy is embedded.
    ``changeable``: for whom another value counts while the proxy runs, or ``restart``."""

    name: str
    value: str
    default: str
    source: str
    changeable: str


class InfoRow(OperatorRow, frozen=True):
    """The proxy as a whole. Counts are over all workers."""

    version: str
    engine: str
    """The code that frames and passes on bytes: ``native`` or ``python``, each."""
    python: str
    openssl: str
    pid: int
    """The supervisor's."""
    started: str
    """The time, in UTC."""
    up_seconds: float
    state: str
    """``starting``, ``serving`` or ``stopping``."""
    listen: list[str]
    """The addresses on which clients connect; ``unix:`` and a path for a unix socket."""
    control: str
    http: str | None
    config_file: str | None
    """The file of the settings; ``None``: there is none."""
    state_file: str
    """The file in which drains, pins and a roll outlive the proxy."""
    source: str
    """Where the nodes come from."""
    nodes: int
    nodes_usable: int
    workers: int
    sessions: int
    connections: int
    """Bound or not."""
    capacity: int
    """How many sessions fit."""
    rate: float
    """Clients per second that this proxy may move."""
    certificates_until: str | None
    """When the first of the certificates expires, in UTC; ``None``: there are none but the proxy's own."""


class EventRow(OperatorRow, frozen=True):
    """One event of the log that is worth showing."""

    time: str
    """In UTC."""
    level: str
    """``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL``."""
    event: str
    count: int
    """How many of that event there were in that process, up to this one."""
    process: str
    """``supervisor``, or ``worker`` and its number; with ``of`` and a process id if it was the proxy before an
    upgrade."""
    details: str
    """The event's fields, as ``key=value``."""


class ErrorRow(EventRow, frozen=True):
    """One event that is a warning or an error."""


class SoftwareRow(OperatorRow, frozen=True):
    """The clients of one software that were asked to move since the proxy began, by how that ended on the last rung
    tried."""

    software: str
    """Its name in the table of what was measured; else ``other``, or ``unknown`` if it is silent."""
    transfers: int
    """All of them that are over: the sum of the next four."""
    moved: int
    refused: int
    silent: int
    failed: int
    returned: int
    """Those that moved and have logged in again."""


class HistoryRow(OperatorRow, frozen=True):
    """Some seconds of the last hour. ``sessions`` is a level, at their end; the other numbers are counts of what
    happened in them."""

    time: str
    """Their end, in UTC."""
    seconds: float
    """How many they are."""
    sessions: int
    logins: int
    logins_failed: int
    moved: int
    """Transfers that ended so; the next three likewise, as a :class:`SoftwareRow` has them."""
    refused: int
    silent: int
    failed: int
