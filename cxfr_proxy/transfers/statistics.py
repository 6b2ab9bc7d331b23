"""Counts since the proxy began: numbers that only grow, for monitoring over months.

Nothing here names a user. The labels of a number have few values: a node's name, a software's by the table of what was
measured (:mod:`cxfr_proxy.session.client_software`), a member of an enumeration.

:class:`Totals` are small, and can be sent and added up at any time. :class:`TransferStatistics` keeps a number for each
combination that occurred. So if several processes serve, they do not send numbers but each :class:`PastTransfer` as it
ends, and one process counts for all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.session.client_software import name_of
from cxfr_proxy.session.commands import Outcome, Reason, Side, Transferred
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.session.session import Session
from cxfr_proxy.xmpp.names import SaslCondition, StreamCondition

BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
"""Upper bounds in seconds. A client that knows the request has left within a round trip or two; one that never answers
takes the timeouts, 10 and 5 seconds by default."""
WORKER_DIED: Final = "worker-died"
"""A reason for the end of sessions: the worker that had them can't report it any more."""
LOGIN_FAILURES: Final = frozenset(map(str, (*SaslCondition, *StreamCondition, *Reason)))
OTHER_FAILURE: Final = "other"
MAX_NODES: Final = 1000
"""Most nodes that are counted. Nodes may come and go under ever new names; those with the oldest last transfer are
forgotten."""


LOGIN_WAYS: Final = tuple((transport, tls) for transport in ("tcp", "websocket") for tls in (False, True))
"""How a client that logs in may have come: its transport, and whether it has TLS."""


@dataclass(slots=True)
class Durations:
    """A histogram. ``counts[i]`` are the durations within ``BUCKETS[i]`` and above the one before; the last one has the
    rest."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def include(self, other: Durations) -> None:
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


@dataclass(slots=True)
class Totals:
    """``logins``: by the way of the client, in the order of :data:`LOGIN_WAYS`. ``ended``: sessions, by reason.
    ``refused``: connections that never had one, by reason. ``failed_logins``: by a member of :data:`LOGIN_FAILURES`, or
    :data:`OTHER_FAILURE`. ``late``: see :class:`~cxfr_proxy.session.commands.Ended`. ``waited``: connections that found
    no room at first. ``regained``: sessions that were resumed when the connection to their node had broken.
    ``login_seconds``: from the accepted connection to the bound or resumed stream. ``failed_handshakes``: by
    :class:`~cxfr_proxy.net.tls_failures.TlsFailure`. ``received``: bytes that sessions have read, by
    :class:`~cxfr_proxy.session.commands.Side`."""

    logins: list[int] = field(default_factory=lambda: [0] * len(LOGIN_WAYS))
    late: int = 0
    waited: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    failed_logins: dict[str, int] = field(default_factory=dict)
    regained: int = 0
    login_seconds: Durations = field(default_factory=Durations)
    failed_handshakes: dict[str, int] = field(default_factory=dict)
    received: list[int] = field(default_factory=lambda: [0] * len(Side))

    def include(self, other: Totals) -> None:
        self.logins = [own + more for own, more in zip(self.logins, other.logins, strict=True)]
        self.late += other.late
        self.regained += other.regained
        self.waited += other.waited
        for reason, count in other.ended.items():
            self.count_ended(reason, count)
        for reason, count in other.refused.items():
            self.count_refused(reason, count)
        for reason, count in other.failed_logins.items():
            self.count_failed_login(reason, count)
        self.login_seconds.include(other.login_seconds)
        for reason, count in other.failed_handshakes.items():
            self.count_failed_handshake(reason, count)
        self.received = [own + more for own, more in zip(self.received, other.received, strict=True)]

    def count_login(self, transport: str, seconds: float, *, tls: bool) -> None:
        self.logins[LOGIN_WAYS.index((transport, tls))] += 1
        # In steps of 1/1024 s, whose sums are exact. The order in which workers' sums are added up changes when one of
        # them is gone, and a sum that a rounding error makes lower looks like a counter that has begun anew.
        self.login_seconds.add(round(seconds * 1024) / 1024)

    def count_ended(self, reason: str, count: int = 1) -> None:
        self.ended[reason] = self.ended.get(reason, 0) + count

    def count_refused(self, reason: str, count: int = 1) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + count

    def count_failed_handshake(self, failure: str, count: int = 1) -> None:
        self.failed_handshakes[failure] = self.failed_handshakes.get(failure, 0) + count

    def count_failed_login(self, condition: str, count: int = 1) -> None:
        """Count by the condition of a :class:`~cxfr_proxy.xmpp.opening.attempt.FailedLogin`, which may be any word of a
        node's."""
        reason = condition if condition in LOGIN_FAILURES else OTHER_FAILURE
        self.failed_logins[reason] = self.failed_logins.get(reason, 0) + count


@dataclass(frozen=True, slots=True)
class TriedRung:
    """A rung that was tried, and its outcome."""

    rung: Rung
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class PastTransfer:
    """A transfer that is over, without anything about its user. ``tried`` is never empty."""

    node: str
    trigger: Trigger
    software: str
    tried: tuple[TriedRung, ...]
    seconds: float


def past_transfer(session: Session, event: Transferred) -> PastTransfer:
    return PastTransfer(
        event.source,
        event.order.trigger,
        name_of(session.software),
        tuple(TriedRung(rung, outcome) for rung, outcome in event.tried),
        event.seconds,
    )


@dataclass(frozen=True, slots=True)
class TransferKind:
    """The labels by which transfers off a node are counted; rung and outcome are the last ones."""

    trigger: Trigger
    software: str
    rung: Rung
    outcome: Outcome


@dataclass(slots=True)
class OutcomeCounts:
    """Transfers by how the last rung that was tried ended. ``silent``: the client has not answered, or not left;
    ``failed``: its session ended before it could. ``returned``: clients that have moved and logged in again."""

    moved: int = 0
    refused: int = 0
    silent: int = 0
    failed: int = 0
    returned: int = 0

    def include(self, other: OutcomeCounts) -> None:
        self.moved += other.moved
        self.refused += other.refused
        self.silent += other.silent
        self.failed += other.failed
        self.returned += other.returned


class CountsOutcomes(Protocol):
    moved: int
    refused: int
    silent: int
    failed: int


def count_outcome(counts: CountsOutcomes, outcome: Outcome, count: int = 1) -> None:
    match outcome:
        case Outcome.MOVED:
            counts.moved += count
        case Outcome.REFUSED:
            counts.refused += count
        case Outcome.SILENT | Outcome.STAYED:
            counts.silent += count
        case Outcome.CUT_OFF:
            counts.failed += count


@dataclass(slots=True)
class StatisticsRecord:
    """The counts of :class:`TransferStatistics`, as they can be written and read."""

    transfers: list[tuple[str, TransferKind, int]] = field(default_factory=list)
    returns: list[tuple[str, TransferKind, int]] = field(default_factory=list)
    resumptions: list[tuple[str, TransferKind, int]] = field(default_factory=list)
    attempts: list[tuple[str, TriedRung, int]] = field(default_factory=list)
    tried: list[tuple[str, TriedRung, int]] = field(default_factory=list)
    by_software: dict[str, OutcomeCounts] = field(default_factory=dict)
    durations: dict[Rung, Durations] = field(default_factory=dict)
    absences: dict[Rung, Durations] = field(default_factory=dict)


class TransferStatistics:
    """All transfers that are over, and each rung that was tried. ``nodes``: most nodes for which they are kept."""

    def __init__(self, nodes: int = MAX_NODES) -> None:
        self._by_node: BoundedDict[str, Counter[TransferKind]] = BoundedDict(nodes)
        self.attempts: Counter[tuple[str, TriedRung]] = Counter()
        """By software."""
        self._tried: BoundedDict[str, Counter[TriedRung]] = BoundedDict(nodes)
        self.by_software: dict[str, OutcomeCounts] = {}
        self.durations: dict[Rung, Durations] = {}
        """By the last rung."""
        self._returned: BoundedDict[str, Counter[TransferKind]] = BoundedDict(nodes)
        self._resumed: BoundedDict[str, Counter[TransferKind]] = BoundedDict(nodes)
        self.absences: dict[Rung, Durations] = {}
        """How long clients that have returned were away, by the rung by which they had left."""

    def add(self, transfer: PastTransfer) -> None:
        last = transfer.tried[-1]
        _of_node(self._by_node, transfer.node)[_kind(transfer)] += 1
        count_outcome(self._of_software(transfer), last.outcome)
        tried = self._tried[transfer.node] = self.tried_on(transfer.node)
        tried.update(transfer.tried)
        self.attempts.update((transfer.software, attempt) for attempt in transfer.tried)
        self.durations.setdefault(last.rung, Durations()).add(transfer.seconds)

    def add_return(self, transfer: PastTransfer, seconds: float, *, resumed: bool) -> None:
        """Count that the client of a transfer has logged in again, so many seconds later; ``resumed``: its session has
        gone on."""
        _of_node(self._returned, transfer.node)[_kind(transfer)] += 1
        self._of_software(transfer).returned += 1
        if resumed:
            _of_node(self._resumed, transfer.node)[_kind(transfer)] += 1
        self.absences.setdefault(transfer.tried[-1].rung, Durations()).add(seconds)

    def record(self) -> StatisticsRecord:
        """Return all counts."""
        return StatisticsRecord(
            transfers=list(self.transfers()),
            returns=list(self.returns()),
            resumptions=list(self.resumptions()),
            attempts=[(software, tried, count) for (software, tried), count in self.attempts.items()],
            tried=[(node, tried, count) for node, counts in self._tried.items() for tried, count in counts.items()],
            by_software=dict(self.by_software),
            durations=dict(self.durations),
            absences=dict(self.absences),
        )

    def take_over(self, record: StatisticsRecord) -> None:
        """Add the counts of a proxy whose place this one takes. Raises :class:`ValueError` for other buckets."""
        for rows, by_node in (
            (record.transfers, self._by_node),
            (record.returns, self._returned),
            (record.resumptions, self._resumed),
        ):
            for node, kind, count in rows:
                _of_node(by_node, node)[kind] += count
        for software, tried, count in record.attempts:
            self.attempts[software, tried] += count
        for node, tried, count in record.tried:
            counts = self._tried[node] = self.tried_on(node)
            counts[tried] += count
        for software, outcomes in record.by_software.items():
            self.by_software.setdefault(software, OutcomeCounts()).include(outcomes)
        for rung, durations in record.durations.items():
            self.durations.setdefault(rung, Durations()).include(durations)
        for rung, durations in record.absences.items():
            self.absences.setdefault(rung, Durations()).include(durations)

    def tried_on(self, node: str) -> Counter[TriedRung]:
        """Return how often which rung was tried on clients of that node, and how that ended."""
        return self._tried.get(node, Counter())

    def _of_software(self, transfer: PastTransfer) -> OutcomeCounts:
        return self.by_software.setdefault(transfer.software, OutcomeCounts())

    def transfers(self) -> Iterator[tuple[str, TransferKind, int]]:
        """Yield each count with its node and labels."""
        return _each(self._by_node)

    def returns(self) -> Iterator[tuple[str, TransferKind, int]]:
        """Yield those counts of :meth:`transfers` whose clients have returned."""
        return _each(self._returned)

    def returned_from(self, node: str) -> int:
        """Return how many clients have returned that had left that node."""
        return self._returned.get(node, Counter()).total()

    def resumptions(self) -> Iterator[tuple[str, TransferKind, int]]:
        """Yield those counts of :meth:`returns` whose clients' sessions have gone on."""
        return _each(self._resumed)


def _each(by_node: BoundedDict[str, Counter[TransferKind]]) -> Iterator[tuple[str, TransferKind, int]]:
    for node, kinds in by_node.items():
        for kind, count in kinds.items():
            yield node, kind, count


def _kind(transfer: PastTransfer) -> TransferKind:
    last = transfer.tried[-1]
    return TransferKind(transfer.trigger, transfer.software, last.rung, last.outcome)


def _of_node(by_node: BoundedDict[str, Counter[TransferKind]], node: str) -> Counter[TransferKind]:
    kinds = by_node[node] = by_node.get(node, Counter())
    return kinds
