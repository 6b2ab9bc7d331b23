"""The live sessions, and what has become of those that were: counts, recent transfers, who may resume as whom.

Bookkeeping only. :meth:`Registry.note` takes each event a session reports; everything else answers questions.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from cxfr_proxy.cluster.plan import Placed
from cxfr_proxy.cluster.users import user_key
from cxfr_proxy.session.commands import (
    Answered,
    Asked,
    BoundTo,
    Ended,
    Event,
    Forged,
    Learned,
    Outcome,
    Reason,
    Resumable,
    Transferred,
)
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.session.session import Session
from cxfr_proxy.session.support import Software, Support
from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.stream_management import Resumption

_V = TypeVar("_V")

RECENT_TRANSFERS: Final = 1000
"""As many as ``show transfers`` lists: the last ten seconds at the default rate."""
REMEMBERED: Final = 100_000
"""Entries kept of whom was redirected and of what can be resumed; the oldest go first. Some 30 MB when full."""
RESUMABLE_SECONDS: Final = 600.0
"""How long a lost client's session is looked for on its node: Prosody keeps one for 600 seconds, ejabberd for 300."""
AWAITED_SECONDS: Final = 12.0
"""How long a client that was cut is waited for: the slowest seen to resume took 9.5 s to come back."""
AWAITED_PER_ADDRESS: Final = 64
_LEAVES_RESUMABLE: Final = frozenset((Reason.CLIENT_LOST, Reason.TRANSFERRED, Reason.STALLED, Reason.STOPPED))
"""A client whose session ended so may come back for it."""


class Relayed(Protocol):
    """A live session as its relay offers it. Times are the relay's clock, in seconds."""

    id: int
    session: Session
    client_address: str
    opened: float

    @property
    def last_active(self) -> float: ...

    @property
    def tls_version(self) -> str | None: ...

    def transfer(self, order: Order) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """A transfer that is over. ``ended`` is the relay's clock."""

    session: int
    full_jid: str | None
    source: str
    target: str | None
    trigger: Trigger
    tried: tuple[tuple[Rung, Outcome], ...]
    ended: float
    seconds: float
    software: Software


@dataclass(slots=True)
class NodeCounts:
    """What happened to the sessions of one node; only ever grows, but ``sessions``."""

    sessions: int = 0
    asked: int = 0
    moved: int = 0
    refused: int = 0
    silent: int = 0
    failed: int = 0
    connect_failures: int = 0
    forged: int = 0


class Registry:
    """``redirect_window`` in seconds: how long a redirect is remembered against the next one. ``support`` is what is
    known of software; it goes on learning.

    Where several processes serve, each has a registry of its own. Their ids begin at ``first_id`` and are ``id_step``
    apart, and ``sessions_elsewhere`` and ``addresses_elsewhere`` are what the others were last known to have.
    """

    def __init__(
        self, *, redirect_window: float, support: Support | None = None, first_id: int = 1, id_step: int = 1
    ) -> None:
        self.support = support if support is not None else Support()
        self._live: dict[int, Relayed] = {}
        self._logging_in: dict[int, Relayed] = {}
        self._redirect_window = redirect_window
        self._redirected: OrderedDict[str, float] = OrderedDict()
        self._resumable: OrderedDict[str, Resumption] = OrderedDict()
        self._lost_users: OrderedDict[str, tuple[str, float]] = OrderedDict()  # node, and until when
        self._lost_addresses: OrderedDict[str, deque[tuple[str, float]]] = OrderedDict()
        self._awaited: OrderedDict[str, tuple[str, float]] = OrderedDict()  # by resumable id
        self._addresses: Counter[str] = Counter()
        self.connections = 0
        """Bound or not."""
        self.last_id = first_id - id_step
        self._id_step = id_step
        self.changed: Callable[[], object] = _nothing
        """Called when sessions and connections come and go."""
        self.sessions_elsewhere: dict[str, int] = {}
        self.addresses_elsewhere: dict[str, int] = {}
        self.nodes: dict[str, NodeCounts] = {}
        self._expected: Counter[str] = Counter()
        self.transfers: Counter[tuple[Rung, Outcome]] = Counter()
        self.ended: Counter[Reason] = Counter()
        self.recent: deque[TransferRecord] = deque(maxlen=RECENT_TRANSFERS)
        self.forged = 0
        self.late = 0
        """Stanzas that came after their stream was closed; see :class:`~cxfr_proxy.session.commands.Ended`."""

    # --- coming and going

    def new_id(self) -> int:
        self.last_id += self._id_step
        return self.last_id

    def add(self, relayed: Relayed) -> None:
        self._live[relayed.id] = self._logging_in[relayed.id] = relayed
        self.of_node(relayed.session.node).sessions += 1
        self.changed()

    def remove(self, relayed: Relayed) -> None:
        self._logging_in.pop(relayed.id, None)
        if self._live.pop(relayed.id, None) is not None:
            self.of_node(relayed.session.node).sessions -= 1
            self.changed()

    def get(self, session_id: int) -> Relayed | None:
        return self._live.get(session_id)

    def __iter__(self) -> Iterator[Relayed]:
        return iter(list(self._live.values()))

    def logging_in(self) -> list[Relayed]:
        """Those that have not reported a resource yet."""
        return list(self._logging_in.values())

    def __len__(self) -> int:
        return len(self._live)

    def of_node(self, name: str) -> NodeCounts:
        return self.nodes.setdefault(name, NodeCounts())

    def sessions_by_node(self) -> dict[str, int]:
        """In all processes, as far as is known here; with those that are about to begin."""
        total = self._expected + Counter(self.sessions_elsewhere)
        total.update({name: counts.sessions for name, counts in self.nodes.items()})
        return total

    @contextmanager
    def expecting(self, node: str) -> Iterator[None]:
        """A session is about to begin there: a burst of logins must not all take the node that was empty before."""
        self._expected[node] += 1
        try:
            yield
        finally:
            self._expected[node] -= 1

    def snapshot(self, now: float) -> list[Placed]:
        """All sessions, for a plan."""
        return [
            Placed(
                relayed.id,
                user_of(relayed.session),
                relayed.session.node,
                now - relayed.last_active,
                relayed.session.inactive,
                relayed.session.domain,
            )
            for relayed in self._live.values()
        ]

    # --- connections, bound or not

    def connected(self, address: str, limit: int | None) -> bool:
        """Count a connection from that address; False, uncounted, where it would be more than ``limit``."""
        others = self.addresses_elsewhere.get(address, 0)
        if limit is not None and self._addresses[address] + others >= limit:
            return False
        self._addresses[address] += 1
        self.connections += 1
        self.changed()
        return True

    def disconnected(self, address: str) -> None:
        self._addresses[address] -= 1
        self.connections -= 1
        if not self._addresses[address]:
            del self._addresses[address]
        self.changed()

    def busy_addresses(self, least: int) -> dict[str, int]:
        """The addresses with at least so many connections here."""
        return {address: count for address, count in self._addresses.items() if count >= least}

    # --- memory

    def remember_redirected(self, user: str, now: float) -> None:
        """That user (a bare JID) was sent to another address at that time; the last time counts."""
        key = user_key(user)
        _remember(self._redirected, key, max(now, self._redirected.get(key, now)))

    def remember_resumable(self, stream_management_id: str, resumption: Resumption) -> None:
        """A client has a session that it can resume by that id. If it was cut, it has come for it."""
        _remember(self._resumable, stream_management_id, resumption)
        self._awaited.pop(stream_management_id, None)

    def remember_lost(self, user: str | None, address: str, node: str, now: float) -> None:
        """A client that can resume its session on that node was lost at that time, which is the latest so far."""
        lost = (node, now + RESUMABLE_SECONDS)
        if user is not None:
            _remember(self._lost_users, user_key(user), lost)
        at_address = self._lost_addresses.get(address) or deque(maxlen=AWAITED_PER_ADDRESS)
        at_address.append(lost)
        _remember(self._lost_addresses, address, at_address)

    def resumption(self, stream_management_id: str) -> Resumption | None:
        """What is known of the session that a client can resume by that id (XEP-0198), if it was seen here."""
        return self._resumable.get(stream_management_id)

    def node_of_resumable(self, stream_management_id: str) -> str | None:
        """The node that holds that session, or held it last."""
        known = self._resumable.get(stream_management_id)
        return known.node if known is not None else None

    def holder(self, user: str | None, address: str, now: float) -> str | None:
        """The node that may hold the session which a client that connects now wants to resume.

        What it wants is not known yet: who was lost lately, as that user or from that address, is the best guess. By
        address each of the lost is guessed once, so that many behind one address don't all follow a few.
        """
        if user is not None:
            node, until = self._lost_users.get(user_key(user), (None, 0.0))
            return node if now < until else None
        lost = self._lost_addresses.get(address)
        if lost is None:
            return None
        node, until = lost.pop()
        if not lost or now >= until:  # the others were lost earlier
            del self._lost_addresses[address]
        return node if now < until else None

    def awaited(self, now: float) -> Counter[str]:
        """How many were cut from each node that are to resume elsewhere, and may still come."""
        while self._awaited and next(iter(self._awaited.values()))[1] <= now:
            self._awaited.popitem(last=False)
        return Counter(source for source, _ in self._awaited.values())

    def redirected_lately(self, user: str | None, now: float) -> bool:
        at = self._redirected.get(user_key(user)) if user is not None else None
        return at is not None and now - at < self._redirect_window

    # --- events

    def note(self, relayed: Relayed, event: Event, now: float) -> None:
        """Count what happened to a session."""
        session = relayed.session
        counts = self.of_node(session.node)
        match event:
            case BoundTo():
                self._logging_in.pop(relayed.id, None)
            case Asked(rung, _, first):
                counts.asked += first
                user = user_of(session)
                if rung is Rung.SEE_OTHER_HOST and user is not None:
                    self.remember_redirected(user, now)
            case Answered(rung, _, outcome):
                self.transfers[rung, outcome] += 1
                counts.refused += outcome is Outcome.REFUSED
                counts.silent += outcome is not Outcome.REFUSED
            case Transferred(order, tried, seconds):
                if tried[-1] == (Rung.CUT, Outcome.MOVED) and order.trigger is Trigger.DRAIN and order.resumes:
                    self._await_resumption(session, now + AWAITED_SECONDS)
                self.transfers[tried[-1]] += 1
                counts.moved += tried[-1][1] is Outcome.MOVED
                counts.failed += tried[-1][1] is not Outcome.MOVED
                self.recent.append(
                    TransferRecord(
                        relayed.id,
                        session.full_jid,
                        session.node,
                        order.target,
                        order.trigger,
                        tried,
                        now,
                        seconds,
                        session.software,
                    )
                )
            case Resumable(stream_management_id, node_id, counters):
                self.remember_resumable(
                    stream_management_id, Resumption(session.full_jid, session.node, node_id, counters)
                )
            case Learned(caps, knows_cxfr):
                self.support.learn(caps, knows_cxfr)
            case Forged():
                self.forged += 1
                counts.forged += 1
            case Ended(reason, _, late, _):
                self.ended[reason] += 1
                self.late += late
                self._keep_counts(session.resumable_id)
                if may_come_back(session, reason):
                    self.remember_lost(user_of(session), relayed.client_address, session.node, now)
            case _:
                pass

    def _await_resumption(self, session: Session, until: float) -> None:
        if session.resumable_id is not None and session.can_be_resumed:
            _remember(self._awaited, session.resumable_id, (session.node, until))

    def _keep_counts(self, stream_management_id: str | None) -> None:
        known = self._resumable.get(stream_management_id) if stream_management_id is not None else None
        if stream_management_id is not None and known is not None:
            self._resumable[stream_management_id] = known.without_equal_counts()


def _nothing() -> None:
    pass


def may_come_back(session: Session, reason: Reason) -> bool:
    """Whether the client of a session that ended so may want to resume it."""
    return reason in _LEAVES_RESUMABLE and session.can_be_resumed


def user_of(session: Session) -> str | None:
    """The bare JID, once it is known for certain."""
    return jid.bare(session.full_jid) if session.full_jid is not None else None


def _remember(memory: OrderedDict[str, _V], key: str, value: _V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)
