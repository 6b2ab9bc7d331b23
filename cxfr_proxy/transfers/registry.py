"""The live sessions, and what has become of those that were: counts, recent transfers, who may resume as whom.

Bookkeeping only. :meth:`Registry.note` takes each event a session reports; everything else answers questions.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.cluster.plan import Placed
from cxfr_proxy.session.client_software import ClientSoftware, Software
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
    Redirected,
    Resumable,
    Transferred,
)
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.session.session import Session
from cxfr_proxy.spellings import user_key
from cxfr_proxy.transfers.awaited import Awaited
from cxfr_proxy.transfers.loop_guard import LoopGuard
from cxfr_proxy.transfers.returning_clients import ReturningClients
from cxfr_proxy.transfers.statistics import Totals, TransferStatistics, past_transfer
from cxfr_proxy.xmpp import jid
from cxfr_proxy.xmpp.opening.attempt import FailedLogin
from cxfr_proxy.xmpp.stream_management import Resumption

RECENT_TRANSFERS: Final = 1000
"""As many as ``show transfers`` lists: the last ten seconds at the default rate."""
REMEMBERED: Final = 100_000
"""Entries kept of whom was redirected and of what can be resumed; the oldest go first. Some 30 MB when full."""
BOUND_LATELY_SECONDS: Final = 5.0
"""How long it is known, at least, when a session was bound."""
RESUMABLE_SECONDS: Final = 600.0
"""How long a lost client's session is looked for on its node: Prosody keeps one for 600 seconds, ejabberd for 300."""
AWAITED_SECONDS: Final = 12.0
"""How long a client that was cut is waited for: the slowest that was seen to come back (QXmpp) took 10 s."""
EXPECTED_SECONDS: Final = 90.0
"""How long a client is led to the node that it is sent to. Asking may take 30 seconds; then nearly all come within ten.
One that was sent to an address that leads elsewhere does not come, and another from the same address must not be taken
for it for long."""
_LEAVES_RESUMABLE: Final = frozenset((Reason.CLIENT_LOST, Reason.TRANSFERRED, Reason.STALLED, Reason.STOPPED))
"""A client whose session ended so may come back for it."""


class Relayed(Protocol):
    """A live session as its relay offers it. Times are the relay's clock, in seconds."""

    id: int
    session: Session
    client_address: str
    client_port: int | None
    opened: float

    @property
    def last_active(self) -> float: ...

    @property
    def tls_version(self) -> str | None: ...

    def transfer(self, order: Order) -> None: ...

    def recall(self) -> None: ...

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
    """What happened to the sessions of one node; only ever grows, but ``sessions`` and ``logins_waiting``."""

    sessions: int = 0
    asked: int = 0
    moved: int = 0
    refused: int = 0
    silent: int = 0
    failed: int = 0
    connect_failures: int = 0
    forged: int = 0
    returned: int = 0
    """Of those that moved, who has logged in again; counted by whoever sees all logins."""
    logins_waiting: int = 0
    """Logins that wait for their turn, or for the node to accept them."""


class Registry:
    """``redirect_window`` in seconds: how long a redirect is remembered against the next one. ``client_software`` is
    what is known of clients' programs; it goes on learning.

    Where several processes serve, each has a registry of its own. Their ids begin at ``first_id`` and are ``id_step``
    apart; :meth:`note_elsewhere` and ``addresses_elsewhere`` have what the others were last known to have.
    """

    def __init__(
        self,
        *,
        redirect_window: float,
        client_software: ClientSoftware | None = None,
        first_id: int = 1,
        id_step: int = 1,
    ) -> None:
        self.client_software = client_software if client_software is not None else ClientSoftware()
        self._live: dict[int, Relayed] = {}
        self._logging_in: dict[int, Relayed] = {}
        self._on_node: dict[str, dict[int, Relayed]] = {}
        self._redirect_window = redirect_window
        self._redirected: BoundedDict[str, float] = BoundedDict(REMEMBERED)
        self._resumable: BoundedDict[str, Resumption] = BoundedDict(REMEMBERED)
        self._awaited = Awaited(REMEMBERED)
        self.returning_clients = ReturningClients()
        self.guard = LoopGuard(redirect_window)
        self._returned: dict[int, float] = {}  # when sessions were bound whose clients had been moved, by id
        self._bound: OrderedDict[int, float] = OrderedDict()  # when those were that began lately, by id
        self._evening: set[int] = set()  # sessions whose clients were asked to move to even the load
        self._sent: set[int] = set()  # sessions whose clients have left for a certain node
        self._addresses: Counter[str] = Counter()
        self.connections = 0
        """Bound or not."""
        self.last_id = first_id - id_step
        self._id_step = id_step
        self.changed: Callable[[], object] = _nothing
        """SessionsChanged when sessions and connections come and go."""
        self.added: Callable[[Relayed], object] = _nobody
        self.removed: Callable[[Relayed], object] = _nobody
        self._everywhere: Counter[str] = Counter()  # sessions by node, in all processes, with those that are to begin
        self._elsewhere: dict[str, int] = {}  # of these, the others'
        self.addresses_elsewhere: dict[str, int] = {}
        self.sessions_before: dict[str, int] = {}
        """Those of other processes that are in one whose number is lower than this one's."""
        self.nodes: dict[str, NodeCounts] = {}
        self._touched: set[str] = set()  # nodes whose counts may have changed
        self.rebalanced = NodeCounts()
        """Transfers to even the load, of all nodes; without ``sessions``."""
        self.transfers: Counter[tuple[Rung, Outcome]] = Counter()
        self.recent: deque[TransferRecord] = deque(maxlen=RECENT_TRANSFERS)
        self.totals = Totals()
        self.statistics = TransferStatistics()

    # --- coming and going

    def new_id(self) -> int:
        self.last_id += self._id_step
        return self.last_id

    def add(self, relayed: Relayed) -> None:
        name = relayed.session.node
        self._live[relayed.id] = self._logging_in[relayed.id] = relayed
        self._on_node.setdefault(name, {})[relayed.id] = relayed
        self.of_node(name).sessions += 1
        self._everywhere[name] += 1
        self.added(relayed)
        self.changed()

    def remove(self, relayed: Relayed) -> None:
        self._logging_in.pop(relayed.id, None)
        self._returned.pop(relayed.id, None)
        self._sent.discard(relayed.id)
        self._evening.discard(relayed.id)
        if self._live.pop(relayed.id, None) is not None:
            name = relayed.session.node
            there = self._on_node[name]
            del there[relayed.id]
            if not there:
                del self._on_node[name]
            self.of_node(name).sessions -= 1
            self._everywhere[name] -= 1
            self.removed(relayed)
            self.changed()

    def get(self, session_id: int) -> Relayed | None:
        return self._live.get(session_id)

    def __iter__(self) -> Iterator[Relayed]:
        return iter(list(self._live.values()))

    def logging_in(self, node: str | None = None) -> list[Relayed]:
        """Those that have not reported a resource yet, of all nodes or of one."""
        if node is None:
            return list(self._logging_in.values())
        few, many = sorted((self._on_node.get(node, {}), self._logging_in), key=len)
        return [relayed for number, relayed in few.items() if number in many]

    def __len__(self) -> int:
        return len(self._live)

    def on_node(self, name: str) -> list[Relayed]:
        """The sessions of that node, here."""
        return list(self._on_node.get(name, {}).values())

    def of_node(self, name: str) -> NodeCounts:
        """Its counts, to look at and to change."""
        self._touched.add(name)
        return self.nodes.setdefault(name, NodeCounts())

    def take_touched(self) -> dict[str, NodeCounts]:
        """The counts of the nodes of which they may have changed since this was asked last."""
        touched, self._touched = self._touched, set()
        return {name: self.nodes[name] for name in touched}

    def sessions_by_node(self) -> Counter[str]:
        """In all processes, as far as is known here; with those that are about to begin. To look at: it stays true."""
        return self._everywhere

    def note_elsewhere(self, sessions: Mapping[str, int]) -> None:
        """What the other processes have by now on each of these nodes; on others as before."""
        for name, number in sessions.items():
            self._everywhere[name] += number - self._elsewhere.pop(name, 0)
            if number:
                self._elsewhere[name] = number

    @contextmanager
    def expecting(self, node: str) -> Iterator[None]:
        """A session is about to begin there: a burst of logins must not all take the node that was empty before."""
        self.of_node(node).logins_waiting += 1
        self._everywhere[node] += 1
        try:
            yield
        finally:
            self.of_node(node).logins_waiting -= 1
            self._everywhere[node] -= 1

    def snapshot(self, now: float, node: str | None = None) -> list[Placed]:
        """All sessions, or those of one node, for a plan."""
        sessions = self._live if node is None else self._on_node.get(node, {})
        return [
            Placed(
                relayed.id,
                user_of(relayed.session),
                relayed.session.node,
                now - relayed.last_active,
                relayed.session.inactive,
                relayed.session.domain,
                relayed.session.stays_down,
            )
            for relayed in sessions.values()
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
        self._redirected[key] = max(now, self._redirected.get(key, now))

    def remember_resumable(self, stream_management_id: str, resumption: Resumption) -> None:
        """A client has a session that it can resume by that id. If it was cut, it has come for it."""
        self._resumable[stream_management_id] = resumption
        self._awaited.has_come(stream_management_id)

    def resumption(self, stream_management_id: str) -> Resumption | None:
        """What is known of the session that a client can resume by that id (XEP-0198), if it was seen here."""
        return self._resumable.get(stream_management_id)

    def node_of_resumable(self, stream_management_id: str) -> str | None:
        """The node that holds that session, or held it last."""
        known = self._resumable.get(stream_management_id)
        return known.node if known is not None else None

    def about_to_be_asked(self, full_jid: str, address: str, node: str, at: float) -> None:
        """Remember that the client at that address is to be asked, as of ``at``, to move to that node, where it
        belongs."""
        seconds = max(EXPECTED_SECONDS, self._redirect_window)
        self.returning_clients.leaves(jid.bare(full_jid), address, node, at=at, seconds=seconds)
        self.guard.about_to_be_asked(full_jid, at)

    def stayed(self, full_jid: str, address: str, node: str) -> None:
        """A client that was to move there has not: it has refused and is let be, or was cut off."""
        self.returning_clients.stays(jid.bare(full_jid), address, node)
        self.guard.stayed(full_jid)

    def returned(self, full_jid: str, address: str, node: str | None, now: float) -> bool:
        """A client has logged in from that address, to that node, or (``None``) with another process; whether it was
        moved lately, or is taken for one that was."""
        lately = self.guard.returned(full_jid, now)
        if lately:
            self.returning_clients.is_back(jid.bare(full_jid), address, node)
        return lately

    def held_until(self, session_id: int, now: float) -> float | None:
        """Its client was moved to where it is, so lately that it must not be moved again before that time; ``None``: it
        may be."""
        at = self._returned.get(session_id)
        return at + self._redirect_window if at is not None and now - at < self._redirect_window else None

    def bound_lately(self, session_id: int) -> float | None:
        """When it was bound, or resumed; ``None``: longer ago than a few seconds, or not yet."""
        return self._bound.get(session_id)

    def _note_bound(self, session_id: int, now: float) -> None:
        while self._bound and now - next(iter(self._bound.values())) >= BOUND_LATELY_SECONDS:
            self._bound.popitem(last=False)
        self._bound[session_id] = now

    def was_sent(self, session_id: int) -> bool:
        """Whether its client has left for a certain node, and is looked for there and nowhere else."""
        return session_id in self._sent

    def has_returned(self, session_id: int) -> bool:
        """Whether its client was moved before this session began, or is taken for one that was."""
        return session_id in self._returned

    def awaited(self, now: float) -> Counter[str]:
        """How many were cut from each node that are to resume elsewhere, and may still come."""
        return self._awaited.by_node(now)

    def redirected_lately(self, user: str | None, now: float) -> bool:
        at = self._redirected.get(user_key(user)) if user is not None else None
        return at is not None and now - at < self._redirect_window

    # --- events

    def note(self, relayed: Relayed, event: Event, now: float) -> None:
        """Count what happened to a session."""
        session = relayed.session
        counts = self.of_node(session.node)
        match event:
            case BoundTo(full_jid):
                self._logging_in.pop(relayed.id, None)
                self._note_bound(relayed.id, now)
                self.totals.logins += 1
                if full_jid is not None and self.returned(full_jid, relayed.client_address, session.node, now):
                    self._returned[relayed.id] = now
            case Asked(_, order, first):
                if first and order.trigger is Trigger.REBALANCE:
                    self._evening.add(relayed.id)
                for each in self._counted(relayed):
                    each.asked += first
            case Redirected():
                user = user_of(session)
                if user is not None:
                    self.remember_redirected(user, now)
            case Answered(rung, order, outcome):
                self._count(self._counted(relayed), rung, outcome)
            case Transferred(order, tried, seconds):
                if tried[-1] == (Rung.CUT, Outcome.MOVED) and order.trigger is Trigger.DRAIN and order.resumes:
                    self._await_resumption(session, now + AWAITED_SECONDS)
                self.statistics.add(past_transfer(session, event))
                self._count(self._counted(relayed), *tried[-1])
                self._evening.discard(relayed.id)
                if (target := sent_to(event)) is not None:
                    self._send(relayed, target)
                elif order.place is not None and session.full_jid is not None:
                    self.stayed(session.full_jid, relayed.client_address, order.place)
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
                self.client_software.learn(caps, knows_cxfr)
            case Forged():
                counts.forged += 1
            case FailedLogin(condition=condition):
                self.totals.count_failed_login(condition)
            case Ended(reason, _, late, _):
                self.totals.count_ended(reason)
                self.totals.late += late
                self._keep_counts(session.resumable_id)
                if may_come_back(session, reason) and not self.was_sent(relayed.id):
                    self.returning_clients.leaves(
                        user_of(session), relayed.client_address, session.node, at=now, seconds=RESUMABLE_SECONDS
                    )
            case _:
                pass

    def _count(self, where: Iterable[NodeCounts], rung: Rung, outcome: Outcome) -> None:
        self.transfers[rung, outcome] += 1
        for counts in where:
            counts.moved += outcome is Outcome.MOVED
            counts.refused += outcome is Outcome.REFUSED
            counts.silent += outcome in (Outcome.SILENT, Outcome.STAYED)
            counts.failed += outcome is Outcome.CUT_OFF

    def _counted(self, relayed: Relayed) -> tuple[NodeCounts, ...]:
        """Who was asked to even the load is counted there too, also if something more urgent moves it in the end."""
        counts = self.of_node(relayed.session.node)
        return (counts, self.rebalanced) if relayed.id in self._evening else (counts,)

    def _send(self, relayed: Relayed, target: str) -> None:
        """Its client has left for that node, by way of this proxy perhaps. It is led there also if it wants to resume:
        elsewhere it would only come back to where it was."""
        session = relayed.session
        known = self._resumable.get(session.resumable_id) if session.resumable_id is not None else None
        if session.resumable_id is not None and known is not None:
            self._resumable[session.resumable_id] = replace(known, node=target)
        self._sent.add(relayed.id)

    def _await_resumption(self, session: Session, until: float) -> None:
        if session.resumable_id is not None and session.can_be_resumed:
            self._awaited.cut(session.resumable_id, session.node, until)

    def _keep_counts(self, stream_management_id: str | None) -> None:
        known = self._resumable.get(stream_management_id) if stream_management_id is not None else None
        if stream_management_id is not None and known is not None:
            self._resumable[stream_management_id] = known.without_equal_counts()


def _nothing() -> None:
    pass


def _nobody(relayed: Relayed) -> None:
    pass


def may_come_back(session: Session, reason: Reason) -> bool:
    """Whether the client of a session that ended so may want to resume it."""
    return reason in _LEAVES_RESUMABLE and session.can_be_resumed


def sent_to(transfer: Transferred) -> str | None:
    """The one node that its client has left for; ``None``: any that placement chooses."""
    return transfer.order.place if transfer.tried[-1][1] is Outcome.MOVED else None


def user_of(session: Session) -> str | None:
    """The bare JID, once it is known for certain."""
    return jid.bare(session.full_jid) if session.full_jid is not None else None
