"""What the supervisor and its workers tell each other, and how it is written: a line of JSON each.

A message is a dataclass; on the wire it is ``{"Grant": {"tokens": 1}}``. What may stand in a field is what its type
says, and a line is read against these types: unknown messages, missing and additional fields and values of another
type are a :class:`BadMessage`. Both ends are of one version, for a worker is started from the supervisor's own code;
where that isn't so (the program was replaced on disk while it ran), :class:`Hello` says it.

Counts are totals since the worker began, never differences: a message can be left out when a newer one follows.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Final, Union, cast

from cxfr_proxy.admin.rows import SessionRow, TransferRow
from cxfr_proxy.cluster.nodes import AdminState, Health, NodeSpec, SessionOutlook
from cxfr_proxy.cluster.plan import DrainForecast
from cxfr_proxy.cluster.rebalance import RebalanceForecast
from cxfr_proxy.config.table import Config
from cxfr_proxy.net.tls import Pem
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.rebalances import RebalanceCounts, Rebalancing
from cxfr_proxy.transfers.registry import NodeCounts
from cxfr_proxy.transfers.statistics import PastTransfer, Totals
from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.stream_management import Resumption

VERSION: Final = 10
"""Of this language. To be raised with every change."""


class BadMessage(Exception):
    """The line is no message of this version."""


# --- from the supervisor


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as the supervisor has it. ``stage``: that of its drain, if it is leaving. ``features``: the hashes of the
    stream features that it greets clients with, by domain."""

    spec: NodeSpec
    admin_state: AdminState
    health: Health
    removed: bool
    stage: Stage
    session_outlook: SessionOutlook = SessionOutlook.GOOD
    warm_up: float = 1.0
    features: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Those that have changed, or a part of them: all count once the ``last`` part is there (:mod:`.telling`). Also an
    order: the sessions of those that are leaving are to be moved, as their stage has it, and those that are elsewhere
    than they belong as ``rebalance`` has it; ``None``: none goes on.

    ``forgotten`` are the names of those that are gone, ``order`` has all names in the source's order where that is
    another one now, and ``features`` those of the nodes by hash, as text, that were not told before.
    """

    states: tuple[NodeState, ...] = ()
    forgotten: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    features: dict[str, str] = field(default_factory=dict)
    rebalance: Rebalancing | None = None
    last: bool = True


@dataclass(frozen=True, slots=True)
class Files:
    """What the supervisor has read last, and found good: certificates and keys in the settings' order, and the nodes'
    CA certificates by path. So all workers serve the same, whatever is in the files when they begin."""

    certificates: tuple[Pem, ...]
    authorities: dict[str, str]


@dataclass(frozen=True, slots=True)
class Setup:
    """The first thing a worker hears; pins and nodes follow, and it serves when it has heard of all. Its session ids
    are ``first_id``, ``first_id + workers`` and so on, so that no two workers give the same;
    ``development_certificate`` is PEM, ``None`` where there are real ones."""

    version: int
    config: Config
    number: int
    workers: int
    first_id: int
    development_certificate: str | None
    files: Files


@dataclass(frozen=True, slots=True)
class PinnedBefore:
    """A part of the pins there were when the worker began: the nodes' names by users' keys."""

    nodes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Pinned:
    """The operator wants that user, by his key, on that node; ``None``: wherever he belongs."""

    user: str
    node: str | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A part of the user map; all of a version together are the map that counts. ``digests`` and ``places`` are those
    of :class:`~cxfr_proxy.cluster.user_map.UserMap`, in base64."""

    version: int
    nodes: tuple[str, ...]
    digests: str
    places: str
    last: bool


@dataclass(frozen=True, slots=True)
class Grant:
    """The worker may move so many sessions more."""

    tokens: int


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What the other workers have: sessions by node, connections by client address (where there are many), and the
    sessions by node of those that come before it. Of nodes, those of which it is another number now."""

    sessions: dict[str, int]
    addresses: dict[str, int]
    sessions_before: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TakeFiles:
    """Use these from now on."""

    request: int
    files: Files


class Listing(StrEnum):
    """What a worker can be asked for."""

    COUNTS = "counts"
    SESSIONS = "sessions"
    TRANSFERS = "transfers"
    PLAN = "plan"
    """What a drain of a node would come to."""
    STATES = "states"
    """How many sessions are in which state."""
    REBALANCE = "rebalance"
    """What a rebalance would come to."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Answered by :class:`Report` where it is about counts or states, and always by :class:`Answer`. ``node``: which,
    where it is about one; ``max_share`` as of a rebalance."""

    request: int
    what: Listing
    node: str | None = None
    max_share: float | None = None


@dataclass(frozen=True, slots=True)
class MoveUser:
    """Send the clients of that JID to the node, at once; answered by :class:`Answer`."""

    request: int
    jid: str
    node: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Another worker has taken over: accept nobody any more, move everybody at the proxy's pace, and end."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The proxy stops: accept nobody any more, move everybody, and end."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What others saw before this worker began, a part of it. ``redirected``: how many seconds ago, by bare JID;
    ``resumable``: by the id that the client has; ``learned``: by capabilities, whether connection transfer is known.
    """

    redirected: dict[str, float] = field(default_factory=dict)
    resumable: dict[str, Resumption] = field(default_factory=dict)
    lost: tuple[Lost, ...] = ()
    moved: tuple[Moved, ...] = ()
    learned: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Announced:
    """All others have been told of the :class:`Moved` of that session."""

    session: int


# --- from a worker


@dataclass(frozen=True, slots=True)
class Hello:
    """It serves."""

    version: int
    pid: int


@dataclass(frozen=True, slots=True)
class Want:
    """How many sessions wait for being moved, those without a node first, and how many tokens have come so far.
    ``misplaced``: those that are only not where they belong."""

    lost: int
    leaving: int
    received: int
    misplaced: int = 0


@dataclass(frozen=True, slots=True)
class PutBack:
    """Tokens nobody needed: who was to be moved has left, or can't be moved now."""

    tokens: int


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """``nodes`` are those whose counts are others than when they were said last. ``awaited``: by node, who was cut from
    it and may still come for its session. ``waiting``: by node, why its drain does not go on."""

    sessions: int = 0
    connections: int = 0
    last_id: int = 0
    nodes: dict[str, NodeCounts] | None = None
    awaited: dict[str, int] | None = None
    waiting: dict[str, str] | None = None
    addresses: dict[str, int] | None = None
    totals: Totals = field(default_factory=Totals)
    rebalance: RebalanceCounts = field(default_factory=RebalanceCounts)


@dataclass(frozen=True, slots=True)
class Report:
    counts: WorkerCounts


@dataclass(frozen=True, slots=True)
class Present:
    """A session. ``full_jid`` is ``None`` before it is bound, ``port`` where the client's is a unix socket;
    ``seconds``: for so long it has been there."""

    session: int
    full_jid: str | None
    node: str
    address: str
    port: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Called:
    """Sessions that have begun or were bound since this was said last, and those that are over."""

    present: tuple[Present, ...]
    over: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transferred:
    """One more transfer is over, of that session and client. Told one by one: there are too many numbers of them to
    tell all with each."""

    transfer: PastTransfer
    session: int
    full_jid: str | None


@dataclass(frozen=True, slots=True)
class NodeDown:
    """A connection to it failed."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeGoing:
    """One of its sessions was told that it is going away."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeFailsLogins:
    """It has ended a login by a fault of its own."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeServes:
    """A client has logged in there for that domain: the worker's first one for it, or behind one that failed."""

    node: str
    domain: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, some at a time; ``last`` closes the answer. ``moved``: clients that were asked to move."""

    request: int
    sessions: tuple[SessionRow, ...]
    transfers: tuple[TransferRow, ...]
    last: bool
    error: str | None
    plan: DrainForecast | None = None
    states: dict[str, int] | None = None
    rebalance: RebalanceForecast | None = None
    moved: int = 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """Everybody has gone; ``cut``: not all by themselves."""

    cut: bool


@dataclass(frozen=True, slots=True)
class Gone:
    """The session that could be resumed by that id is over; :class:`Lost` says so if its client may come back."""

    stream_management_id: str


# --- both ways: what one worker saw of a user, or of a software, that another may meet


@dataclass(frozen=True, slots=True)
class Redirected:
    """``user`` (bare JID) was sent to another address just now."""

    user: str


@dataclass(frozen=True, slots=True)
class Resumable:
    """A client can resume its session (XEP-0198) by that id, or its counts have shifted since that was said. It is
    connected from ``address``."""

    stream_management_id: str
    resumption: Resumption
    address: str

    @property
    def lost(self) -> Lost | None:
        """What would be to say if its worker were killed now; ``None`` where nobody should come back for it."""
        known = self.resumption
        even = known.counters is None or known.counters.even
        if not even and known.node_id == self.stream_management_id:
            return None
        user = jid.bare(known.full_jid) if known.full_jid is not None else None
        return Lost(user, self.address, known.node)


@dataclass(frozen=True, slots=True)
class Lost:
    """A client that may resume its session on that node has left ``address``. ``user`` is a bare JID, where it is
    known."""

    user: str | None
    address: str
    node: str
    seconds_ago: float = 0.0


@dataclass(frozen=True, slots=True)
class Moved:
    """That client, which is connected from ``address``, is about to be asked to move to ``node``, where it belongs; its
    worker waits for :class:`Announced`. ``session`` is its id."""

    session: int
    full_jid: str
    address: str
    node: str
    seconds_ago: float = 0.0


@dataclass(frozen=True, slots=True)
class Stayed:
    """That client has not moved to that node, or not yet, although it was asked or about to be."""

    full_jid: str
    address: str
    node: str


@dataclass(frozen=True, slots=True)
class Returned:
    """That client, which was moved or is taken for one that was, has logged in from ``address``; ``wrong``: on a wrong
    node again."""

    full_jid: str
    address: str
    wrong: bool


@dataclass(frozen=True, slots=True)
class Learned:
    """Whether clients with these capabilities know the connection transfer, as one of them has shown; ``None``: it was
    silent."""

    caps: str
    knows_cxfr: bool | None


Message = (
    Setup
    | PinnedBefore
    | Nodes
    | Pinned
    | Listed
    | Grant
    | Elsewhere
    | TakeFiles
    | Ask
    | MoveUser
    | Leave
    | Stop
    | Remembered
    | Announced
    | Hello
    | Want
    | PutBack
    | Report
    | Called
    | Transferred
    | NodeDown
    | NodeGoing
    | NodeFailsLogins
    | NodeServes
    | Answer
    | Stopped
    | Gone
    | Redirected
    | Resumable
    | Lost
    | Moved
    | Stayed
    | Returned
    | Learned
)

KINDS: Final[Mapping[str, type]] = {kind.__name__: kind for kind in typing.get_args(Message)}


# --- the codec


def encode(message: Message) -> bytes:
    """One line, its end included."""
    return json.dumps({type(message).__name__: _plain(message)}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Raises :class:`BadMessage`."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise BadMessage(f"no JSON: {line[:80]!r}") from exc
    if not isinstance(value, dict) or len(value) != 1:
        raise BadMessage(f"no message: {line[:80]!r}")
    ((name, body),) = value.items()
    if name not in KINDS:
        raise BadMessage(f"no message is called {name!r:.40}")
    return cast("Message", _read(KINDS[name], body, name))


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {
            name: _plain(each)
            for name, default in _defaults(cast("type", type(value))).items()
            if (each := getattr(value, name)) != default
        }
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value  # numbers, text, None; a StrEnum is text


@cache
def _defaults(kind: type) -> dict[str, object]:
    """By name; ``MISSING``, which is like nothing else, where there is none."""
    return {
        each.name: each.default_factory() if each.default_factory is not MISSING else each.default
        for each in fields(kind)
    }


@cache
def _hints(kind: type) -> dict[str, Any]:  # Any: whatever an annotation can be
    hints = typing.get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _read(kind: Any, value: object, where: str) -> object:
    """``value`` as a ``kind``. The kinds are those of this module's dataclasses, and of what they hold."""
    if kind in (int, float, str, bool, types.NoneType):
        return _read_scalar(kind, value, where)
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(typing.get_args(kind), value, where)
    if origin is tuple and isinstance(value, list):
        item = typing.get_args(kind)[0]
        return tuple(_read(item, each, where) for each in value)
    if origin is dict and isinstance(value, dict):
        item = typing.get_args(kind)[1]
        return {key: _read(item, each, f"{where}[]") for key, each in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _read_dataclass(cast("type", kind), value, where)
    if isinstance(kind, type) and isinstance(value, str) and issubclass(kind, StrEnum | Path):
        try:
            return kind(value)
        except ValueError:
            pass
    raise _unfit(kind, value, where)


def _read_scalar(kind: type, value: object, where: str) -> object:
    if kind is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise _unfit(kind, value, where) from None
    if type(value) is not kind:
        raise _unfit(kind, value, where)
    return value


def _read_union(kinds: tuple[Any, ...], value: object, where: str) -> object:
    for kind in kinds:
        try:
            return _read(kind, value, where)
        except BadMessage:
            continue
    raise _unfit(kinds, value, where)


def _read_dataclass(kind: type, value: dict[str, object], where: str) -> object:
    hints, defaults = _hints(kind), _defaults(kind)
    if not value.keys() <= hints.keys() or any(defaults[name] is MISSING for name in hints.keys() - value.keys()):
        raise _unfit(kind, value, where)
    return kind(**{name: _read(hints[name], each, f"{where}.{name}") for name, each in value.items()})


def _unfit(kind: object, value: object, where: str) -> BadMessage:
    return BadMessage(f"{where}: expected {kind}, found {repr(value)[:80]}")
