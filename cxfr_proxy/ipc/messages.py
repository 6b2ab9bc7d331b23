"""What the supervisor and its workers tell each other.

A message is an object that never changes. :mod:`.codec` writes it as a line where the two are processes of their own;
in one process it is handed over as it is. Both ends are of one version, for a worker is started from the supervisor's
own code; where that isn't so (the program was replaced on disk while it ran), :class:`Hello` says it.

Counts are totals since the worker began, never differences: a message can be left out when a newer one follows.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cxfr_proxy.cluster.nodes import AdminState, Health, NodeSpec, SessionOutlook
from cxfr_proxy.config.table import Config
from cxfr_proxy.ipc.questions import AnyQuestion, AnyReply, Files
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.rebalances import RebalanceCounts, Rebalancing
from cxfr_proxy.transfers.statistics import PastTransfer, Totals
from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.stream_management import Resumption

VERSION: Final = 12
"""Of this language. To be raised with every change."""
NOBODY: Final = 0
"""Asks: the number of a request whose answer nobody waits for."""


class BadMessage(Exception):
    """Something was said that is no message of this version, or not at this point, or not by that end."""


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message. Its class is told by name; see :data:`~cxfr_proxy.ipc.codec.KINDS`."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What several messages hold."""


# --- from the supervisor


class NodeState(Part, frozen=True):
    """A node as the supervisor has it. ``stage``: that of its drain, if it is leaving. ``features``: the hashes of the
    stream features that it greets clients with, by domain."""

    spec: NodeSpec
    admin_state: AdminState
    health: Health
    removed: bool
    stage: Stage
    session_outlook: SessionOutlook = SessionOutlook.GOOD
    warm_up: float = 1.0
    features: dict[str, str] = {}


class Nodes(Message, frozen=True):
    """Those that have changed, or a part of them: all count once the ``last`` part is there (:mod:`.telling`). Also an
    order: the sessions of those that are leaving are to be moved, as their stage has it, and those that are elsewhere
    than they belong as ``rebalance`` has it; ``None``: none goes on.

    ``forgotten`` are the names of those that are gone, ``order`` has all names in the source's order where that is
    another one now, and ``features`` those of the nodes by hash, as text, that were not told before.
    """

    states: tuple[NodeState, ...] = ()
    forgotten: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    features: dict[str, str] = {}
    rebalance: Rebalancing | None = None
    last: bool = True


class Setup(Message, frozen=True):
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


class PinnedBefore(Message, frozen=True):
    """A part of the pins there were when the worker began: the nodes' names by users' keys."""

    nodes: dict[str, str]


class Pinned(Message, frozen=True):
    """The operator wants that user, by his key, on that node; ``None``: wherever he belongs."""

    user: str
    node: str | None


class Listed(Message, frozen=True):
    """A part of the user map; all of a version together are the map that counts. ``digests`` and ``places`` are those
    of :class:`~cxfr_proxy.cluster.user_map.UserMap`, as their arrays' bytes."""

    version: int
    nodes: tuple[str, ...]
    digests: bytes
    places: bytes
    last: bool


class Grant(Message, frozen=True):
    """The worker may move so many sessions more."""

    tokens: int


class Elsewhere(Message, frozen=True):
    """What the other workers have: sessions by node, connections by client address (where there are many), and the
    sessions by node of those that come before it. Of nodes, those of which it is another number now."""

    sessions: dict[str, int]
    addresses: dict[str, int]
    sessions_before: dict[str, int] = {}


class Ask(Message, frozen=True):
    """Answered by :class:`AnswerPart`. ``request`` is :data:`NOBODY` where nobody waits for the answer."""

    request: int
    question: AnyQuestion


class Leave(Message, frozen=True):
    """Another worker has taken over: accept nobody any more, move everybody at the proxy's pace, and end."""


class Stop(Message, frozen=True):
    """The proxy stops: accept nobody any more, move everybody, and end."""


class Remembered(Message, frozen=True):
    """What others saw before this worker began, a part of it. ``redirected``: how many seconds ago, by bare JID;
    ``resumable``: by the id that the client has; ``learned``: by capabilities, whether connection transfer is known.
    """

    redirected: dict[str, float] = {}
    resumable: dict[str, Resumption] = {}
    lost: tuple[Lost, ...] = ()
    moved: tuple[Moved, ...] = ()
    learned: dict[str, bool] = {}


class Announced(Message, frozen=True):
    """All others have been told of the :class:`Moved` of that session."""

    session: int


# --- from a worker


class Hello(Message, frozen=True):
    """It serves."""

    version: int
    pid: int


class Want(Message, frozen=True):
    """How many sessions wait for being moved, those without a node first, and how many tokens have come so far.
    ``misplaced``: those that are only not where they belong."""

    lost: int
    leaving: int
    received: int
    misplaced: int = 0


class PutBack(Message, frozen=True):
    """Tokens nobody needed: who was to be moved has left, or can't be moved now."""

    tokens: int


class WorkerCounts(Part, frozen=True):
    """``nodes`` are those whose counts are others than when they were said last. ``awaited``: by node, who was cut from
    it and may still come for its session. ``waiting``: by node, why its drain does not go on."""

    sessions: int = 0
    connections: int = 0
    last_id: int = 0
    nodes: dict[str, NodeCounts] | None = None
    awaited: dict[str, int] | None = None
    waiting: dict[str, str] | None = None
    addresses: dict[str, int] | None = None
    totals: Totals = msgspec.field(default_factory=Totals)
    rebalance: RebalanceCounts = msgspec.field(default_factory=RebalanceCounts)


class WorkerReport(Message, frozen=True):
    counts: WorkerCounts


class Present(Part, frozen=True):
    """A session. ``full_jid`` is ``None`` before it is bound, ``port`` where the client's is a unix socket;
    ``seconds``: for so long it has been there."""

    session: int
    full_jid: str | None
    node: str
    address: str
    port: int | None
    seconds: float


class SessionsChanged(Message, frozen=True):
    """Sessions that have begun or were bound since this was said last, and those that are over."""

    present: tuple[Present, ...]
    over: tuple[int, ...]


class TransferEnded(Message, frozen=True):
    """One more transfer is over, of that session and client. Told one by one: there are too many numbers of them to
    tell all with each."""

    transfer: PastTransfer
    session: int
    full_jid: str | None


class NodeDown(Message, frozen=True):
    """A connection to it failed."""

    node: str
    reason: str


class NodeGoing(Message, frozen=True):
    """One of its sessions was told that it is going away."""

    node: str


class NodeFailsLogins(Message, frozen=True):
    """It has ended a login by a fault of its own."""

    node: str
    reason: str


class NodeServes(Message, frozen=True):
    """A client has logged in there for that domain: the worker's first one for it, or behind one that failed."""

    node: str
    domain: str


class AnswerPart(Message, frozen=True):
    """The next part of an answer; the ``last`` has none. ``error``: why there is no answer, or not all of it."""

    request: int
    reply: AnyReply | None = None
    last: bool = False
    error: str | None = None


class Stopped(Message, frozen=True):
    """Everybody has gone; ``cut``: not all by themselves."""

    cut: bool


class Gone(Message, frozen=True):
    """The session that could be resumed by that id is over; :class:`Lost` says so if its client may come back."""

    stream_management_id: str


# --- both ways: what one worker saw of a user, or of a software, that another may meet


class UserRedirected(Message, frozen=True):
    """``user`` (bare JID) was sent to another address just now."""

    user: str


class SessionResumable(Message, frozen=True):
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


class Lost(Message, frozen=True):
    """A client that may resume its session on that node has left ``address``. ``user`` is a bare JID, where it is
    known."""

    user: str | None
    address: str
    node: str
    seconds_ago: float = 0.0


class Moved(Message, frozen=True):
    """That client, which is connected from ``address``, is about to be asked to move to ``node``, where it belongs; its
    worker waits for :class:`Announced`. ``session`` is its id."""

    session: int
    full_jid: str
    address: str
    node: str
    seconds_ago: float = 0.0


class Stayed(Message, frozen=True):
    """That client has not moved to that node, or not yet, although it was asked or about to be."""

    full_jid: str
    address: str
    node: str


class Returned(Message, frozen=True):
    """That client, which was moved or is taken for one that was, has logged in from ``address``; ``wrong``: on a wrong
    node again."""

    full_jid: str
    address: str
    wrong: bool


class SoftwareLearned(Message, frozen=True):
    """Whether clients with these capabilities know the connection transfer, as one of them has shown; ``None``: it was
    silent."""

    caps: str
    knows_cxfr: bool | None
