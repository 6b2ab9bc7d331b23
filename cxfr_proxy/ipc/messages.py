"""The messages between the supervisor and its workers.

A message is an object that never changes. :mod:`.codec` writes it as a line where the two are processes of their own;
in one process it is handed over as it is. Both ends are of one version, because a worker is started from the
supervisor's own code. If it isn't so (the program was replaced on disk while it ran), :class:`Hello` shows it.

Counts are totals since the worker began, never differences: a message can be left out when a newer one follows.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cxfr_proxy.cluster.nodes import AdminState, Health, NodeSpec, SessionOutlook
from cxfr_proxy.ipc.questions import AnyQuestion, AnyReply, TakeSettings
from cxfr_proxy.process_figures import ProcessCost
from cxfr_proxy.transfers.client_news import AnyClientNews
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.move_window import WindowState
from cxfr_proxy.transfers.rebalances import RebalanceCounts, RebalanceTerms
from cxfr_proxy.transfers.statistics import PastTransfer, Totals

VERSION: Final = 41
"""The version of these messages. Raise it with every change; tests/test_message_shapes.py notices one."""
NOBODY: Final = 0
"""The number of a request whose answer nobody waits for."""


class BadMessage(Exception):
    """A message that is none of this version, or not at this point, or not from that end."""


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message; it carries the name of its class, see :data:`~cxfr_proxy.ipc.codec.KINDS`."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of several messages."""


# --- from the supervisor


class NodeState(Part, frozen=True):
    """A node as the supervisor has it. ``stage``: that of its drain, if it is leaving. ``features``: the hashes of the
    stream features that it greets clients with, by domain. ``to_restart``: a roll has still to restart it. ``late``:
    its drain may not be over at its deadline."""

    spec: NodeSpec
    admin_state: AdminState
    health: Health
    removed: bool
    stage: Stage
    session_outlook: SessionOutlook = SessionOutlook.GOOD
    warm_up: float = 1.0
    features: dict[str, str] = {}
    to_restart: bool = False
    late: bool = False


class Nodes(Message, frozen=True):
    """Nodes that have changed, or a part of them: all count once the ``last`` part is there
    (:mod:`cxfr_proxy.supervisor.workers.node_states`).

    It also tells the worker to act: sessions of nodes that are leaving are to be moved, as the nodes' stage has it, and
    sessions that are elsewhere than they belong as ``rebalance`` has it; ``None``: none is running.

    ``forgotten`` are the names of nodes that are gone. ``names`` has all nodes in the source's order if that has
    changed, and ``features`` those of the nodes by hash, as text, that were not sent before.
    """

    states: tuple[NodeState, ...] = ()
    forgotten: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    features: dict[str, str] = {}
    rebalance: RebalanceTerms | None = None
    last: bool = True


class Setup(Message, frozen=True):
    """The first message to a worker; pins and nodes follow, and it serves when it has all of them.

    ``taking`` has the settings and files by which it begins. Its session ids are ``first_id``, ``first_id + workers``
    and so on, so that no two workers give the same. ``capacity`` is how many connections fit into its process.
    """

    version: int
    taking: TakeSettings
    number: int
    workers: int
    first_id: int
    capacity: int


class PinnedBefore(Message, frozen=True):
    """A part of the pins that there were when the worker began: the nodes' names by users' keys."""

    nodes: dict[str, str]


class Pinned(Message, frozen=True):
    """The operator has pinned that user, by key, to that node; ``None``: the pin is gone."""

    user: str
    node: str | None


class Listed(Message, frozen=True):
    """A part of the user map; all parts of a version are the map. ``digests`` and ``places`` are those of
    :class:`~cxfr_proxy.cluster.user_map.UserMap`, as their arrays' bytes."""

    version: int
    nodes: tuple[str, ...]
    digests: bytes
    places: bytes
    last: bool


class Grant(Message, frozen=True):
    """The worker may move that many more sessions."""

    tokens: int


class Elsewhere(Message, frozen=True):
    """The numbers of other workers: sessions by node, connections by client address (if there are many), and the
    sessions by node of workers that come before this one. Only nodes whose number has changed."""

    sessions: dict[str, int]
    addresses: dict[str, int]
    sessions_before: dict[str, int] = {}


class Ask(Message, frozen=True):
    """A question, answered by :class:`AnswerPart`. ``request`` is :data:`NOBODY` if nobody waits for the answer."""

    request: int
    question: AnyQuestion


class Leave(Message, frozen=True):
    """Another worker has taken over: accept nobody more, move all clients at the proxy's pace, and end."""


class Stop(Message, frozen=True):
    """The proxy stops: accept nobody more, move all clients, and end."""


class EarlierNews(Part, frozen=True):
    """News of so many seconds ago."""

    seconds_ago: float
    news: AnyClientNews


class Remembered(Message, frozen=True):
    """A part of the news that there were before this worker began, as far as they still matter."""

    news: tuple[EarlierNews, ...]


class Announced(Message, frozen=True):
    """All other workers know that the client of that session is about to be asked to move."""

    session: int


# --- from a worker


class Hello(Message, frozen=True):
    """The worker serves."""

    version: int
    pid: int


class Want(Message, frozen=True):
    """How many sessions wait to be moved, those without a node first, and how many tokens were used or put back so
    far. ``misplaced``: those that are merely elsewhere than they belong. ``hurried``: those of the ``leaving`` whose
    node is down, or whose drain is late."""

    lost: int
    leaving: int
    used: int
    misplaced: int = 0
    hurried: int = 0


class PutBack(Message, frozen=True):
    """Tokens that were not needed: the client has left, or can't be moved now."""

    tokens: int


class WorkerCounts(Part, frozen=True):
    """The worker's counts. ``nodes`` are those whose counts have changed since the last report. ``awaited``: by
    node, clients that were cut from it and may still fetch their session. ``waiting``: by node, why its drain does
    not go on. ``process``: what its process costs, a second ago at most. ``moves``: those by *migrate*."""

    sessions: int = 0
    connections: int = 0
    last_id: int = 0
    nodes: dict[str, NodeCounts] | None = None
    awaited: dict[str, int] | None = None
    waiting: dict[str, str] | None = None
    addresses: dict[str, int] | None = None
    totals: Totals = msgspec.field(default_factory=Totals)
    rebalance: RebalanceCounts = msgspec.field(default_factory=RebalanceCounts)
    process: ProcessCost = msgspec.field(default_factory=ProcessCost)
    moves: WindowState = WindowState()


class WorkerReport(Message, frozen=True):
    counts: WorkerCounts


class Present(Part, frozen=True):
    """A session. ``full_jid`` is ``None`` before it is bound, ``port`` if the client's is a unix socket; ``seconds``
    is its age. ``resumed``: its client has come back for a session that was there before (XEP-0198)."""

    session: int
    full_jid: str | None
    node: str
    address: str
    port: int | None
    seconds: float
    resumed: bool = False


class SessionsChanged(Message, frozen=True):
    """Sessions that have begun or were bound since the last report, and those that are over."""

    present: tuple[Present, ...]
    over: tuple[int, ...]


class TransferEnded(Message, frozen=True):
    """A transfer is over, of that session and client. Transfers are reported one by one: there are too many numbers
    to repeat all of them."""

    transfer: PastTransfer
    session: int
    full_jid: str | None


class NodeUnreachable(Message, frozen=True):
    """A connection to that node failed."""

    node: str
    reason: str


class NodeGoing(Message, frozen=True):
    """One of the node's sessions was told that it is going away."""

    node: str


class NodeFailsLogins(Message, frozen=True):
    """The node has ended a login by a fault of its own."""

    node: str
    reason: str


class NodeServes(Message, frozen=True):
    """A client has logged in on the node for that domain: the first one in a while, of a second at most, or one that
    comes after one that failed."""

    node: str
    domain: str


class AnswerPart(Message, frozen=True):
    """The next part of an answer; the ``last`` has none. ``error``: why there is no answer, or not all of it."""

    request: int
    reply: AnyReply | None = None
    last: bool = False
    error: str | None = None


class Stopped(Message, frozen=True):
    """All clients are gone; ``cut``: not all by themselves."""

    cut: bool


class Gone(Message, frozen=True):
    """The session that could be resumed by that id is over; news of it say so if its client may come back."""

    stream_management_id: str


# --- both ways


class News(Message, frozen=True):
    """A worker's news of a client; the supervisor passes it on to the others. Of a client that is about to be
    asked to move, :class:`Announced` says when they know."""

    news: AnyClientNews
