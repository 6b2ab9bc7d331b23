"""Rows about orders: how each would go, and how far it is.

A forecast is made before anything is done (``drain --plan``), and progress is told while somebody waits, or watches.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field

from cxfr_proxy.admin.rows.rows import OperatorRow


class RungCounts(Struct, frozen=True):
    """How often a rung was tried, by how that ended."""

    rung: str
    moved: int
    refused: int
    silent: int
    failed: int


class DrainProgress(OperatorRow, frozen=True):
    """How far a drain has come. ``asked`` counts clients that were asked to move, each once; ``moved``, ``refused``,
    ``silent`` and ``failed`` how that ended on the last rung tried. ``left`` sessions are still on the node, those of
    peer proxies included, whose transfers are not among the counts."""

    node: str
    total: int
    asked: int
    moved: int
    refused: int
    silent: int
    failed: int
    left: int
    finished: bool
    """Nothing more will be tried: the node is empty (``left`` is 0) and has settled, or the deadline has passed."""
    waiting_reason: str | None
    """Why nothing moves at the moment; ``None`` while it does."""
    returned: int = 0
    """Those that moved and have logged in again by way of this proxy, on whichever node."""
    settling_seconds: float | None = None
    """The node is empty, and can be stopped in so many seconds: sessions that have left it lately could die with it.
    ``None``: it has sessions, or has settled."""
    rungs: list[RungCounts] = field(default_factory=list)
    """The rungs that were tried, in the ladder's order; transfers that are over, whatever their trigger."""
    per_second: float | None = None
    """How many clients have moved a second of late; ``None``: too little was seen."""
    paced_by: str | None = None
    """Why the proxy takes no more sessions to other nodes at once; ``None``: the rate is all that bounds it."""


class PlannedTarget(Struct, frozen=True):
    """How many sessions would go to a node."""

    node: str | None
    """``None``: they would stay, for no node can take them."""
    sessions: int


class DrainPlan(OperatorRow, frozen=True):
    """The forecast of a drain that began now. ``rate`` in clients per second."""

    node: str
    sessions: int
    inactive: int
    """Of them: their clients have said that nobody looks at them (XEP-0352)."""
    targets: list[PlannedTarget]
    rate: float
    seconds: float
    """About how long it takes from the command until all that can be moved were asked."""
    stay_down: int = 0
    """Of them: their clients are known not to come back, however they are told to move."""
    migrate: int = 0
    """Of them: the proxy can take them to another node itself, and their clients notice nothing. All others need
    another rung."""
    paced_rate: float | None = None
    """How many clients a second the proxy has taken to other nodes when the rate was not what bounded that; ``seconds``
    goes by it. ``None``: it always was."""
    refuses_logins: str | None = None
    """The logins that would be refused, since no other node takes them: ``every login``, or ``every login for`` some
    domains; then it takes ``force``. ``None``: no login."""


class Returning(Struct, frozen=True):
    """The effect of making a node ready again. ``to_move`` sessions are not where they belong by now, ``held`` of them
    were moved less than redirect-window ago."""

    node: str
    up: bool
    to_move: int
    held: int
    begins_in: float | None
    """Seconds until they are moved by themselves, if nothing changes; ``None``: they are not."""


class RestartProgress(OperatorRow, frozen=True):
    """How far the replacing of workers has come. Of ``total`` workers ``replaced`` are gone and have a successor that
    serves, and ``left`` are not; ``sessions`` are still with workers that leave."""

    total: int
    replaced: int
    left: int
    sessions: int
    cut: int
    """Workers that had clients left at the end of their time, and cut them."""
    finished: bool
    """Nothing more will be done: all are replaced (``left`` is 0), or one could not be."""
    failure: str | None
    """Why it ended before all were; ``None`` otherwise."""


class UpgradeStep(StrEnum):
    """A step of replacing the proxy itself."""

    START = "start"
    """The new process reads settings and nodes, and starts its workers."""
    MOVE = "move"
    """The new process is the proxy, and the old one moves its clients."""
    DONE = "done"


class UpgradeProgress(OperatorRow, frozen=True):
    """How far the replacement of the proxy by a new process has come. ``sessions`` are those that the old one has."""

    step: str
    """One of :class:`UpgradeStep`, of which two lead to the end: of ``total`` ``left`` are not done."""
    pid: int | None
    """The new process's; ``None`` before it was started. ``version``: likewise, before it is ready."""
    version: str | None
    total: int
    left: int
    sessions: int
    finished: bool
    failure: str | None
    """Why the new one has not taken over, and the old one goes on; or that it has ended behind that. ``None``
    otherwise."""


class RebalanceProgress(OperatorRow, frozen=True):
    """How far a rebalance has come. ``total`` sessions were to be moved when it began; those that had gone by their
    turn, or were where they belong, were not asked. The counts are as those of a drain. ``left`` are being asked,
    will be, or are ``held``: they were moved too lately to be moved again, and are looked at once more in
    ``held_seconds``."""

    total: int
    asked: int
    moved: int
    refused: int
    silent: int
    failed: int
    left: int
    finished: bool
    """Nothing more will be tried now: all but the held were asked, or it was stopped."""
    waiting_reason: str | None
    """Why nothing moves at the moment, or any more; ``None`` while it does, and if no session is left."""
    held: int = 0
    held_seconds: float | None = None
    """``None``: no session is held, or none will be looked at."""


class RollProgress(OperatorRow, frozen=True):
    """How far a rolling restart has come: of ``total`` nodes ``left`` are not done yet."""

    node: str | None
    """The node whose turn it is; ``None``: all are done."""
    step: str
    """``drain``, ``restart`` (it is for the command, or for an operator), ``return`` (checks have to find it up) or
    ``settle`` (it is up, and has to stay so)."""
    total: int
    left: int
    sessions: int
    """Those that are on the node whose turn it is."""
    moved: int
    """Clients that the nodes' drains have moved, since the roll or the proxy began."""
    finished: bool
    """Nothing more will be done: all nodes are (``left`` is 0), or it has stopped."""
    reason: str | None
    """Why it waits, or has stopped; ``None`` while it does not."""
    settling_seconds: float | None = None
    """Seconds until the node, which is empty, can be stopped; ``None``: it is not, or it can."""
    given_up: bool = False
    """It is finished for good, before all nodes were done: nobody can go on with it."""


class ForetoldRestart(Struct, frozen=True):
    """One node's part of the forecast of a roll. ``seconds``: about how long its drain takes, and settling."""

    node: str
    sessions: int
    seconds: float


class RollPlan(OperatorRow, frozen=True):
    """The forecast of a roll that began now. ``sessions`` are on the nodes now, and ``moves`` is how often one is moved
    in all. ``rate`` in clients per second; ``seconds`` without the time that the restarts take."""

    nodes: list[ForetoldRestart]
    sessions: int
    moves: int
    rate: float
    seconds: float
    migrate: int = 0
    """Of the sessions: the proxy can take them to another node itself, and their clients notice nothing."""
    refuses_logins: str | None = None
    """As in :class:`DrainPlan`, for the node of which this is true first; then the roll would stop there."""


class PlannedMove(Struct, frozen=True):
    """How many sessions would go from one node to another."""

    source: str
    target: str
    sessions: int


class RebalancePlan(OperatorRow, frozen=True):
    """The forecast of a rebalance that began now. ``rate`` in clients per second; ``seconds``: about how long it takes
    to ask all of them."""

    sessions: int
    inactive: int
    """Of them: their clients have said that nobody looks at them (XEP-0352)."""
    moves: list[PlannedMove]
    rate: float
    seconds: float
    stay_down: int = 0
    """Not among them: sessions that are left alone, since their clients are known not to come back."""
    held: int = 0
    """Of them: they were moved less than redirect-window ago, and are moved when it is over."""
    held_seconds: float = 0.0
    """Seconds until it is over for all of them."""


Progress = DrainProgress | RestartProgress | RebalanceProgress | RollProgress | UpgradeProgress
