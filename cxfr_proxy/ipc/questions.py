"""The questions that the supervisor asks all workers, a row each: what it says, and how the replies become one.

To ask something new, add its question and its reply here, and how a worker answers to :mod:`cxfr_proxy.worker.queries`.
Nothing between the two knows it: :meth:`cxfr_proxy.supervisor.workers.workers.Workers.ask` sends any question to all
workers, and includes their replies, as they come, in a reply that is empty at first.
"""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from typing import TYPE_CHECKING, ClassVar, Final, Generic, Self, TypeVar, Union, cast

import msgspec

from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.admin.rows.rows import EventRow, SessionDetailsRow, TransferRow
from cxfr_proxy.cluster.plan import DrainForecast
from cxfr_proxy.cluster.rebalance import RebalanceForecast
from cxfr_proxy.config.table import Config
from cxfr_proxy.net.pem import CertificateFile, Pem

ANSWER_SECONDS: Final = 2.0
"""Seconds for a worker to answer. One that takes longer is left out of what an operator is shown, and named. A
program that scrapes the metrics waits ten seconds or so for all there is."""
ACTION_SECONDS: Final = 10.0
"""Seconds for a question that changes something, which may take work."""


# --- replies


class WorkerReply(msgspec.Struct, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """The reply of one worker, or a part of it; and the reply of all, once theirs are included."""

    def include(self, other: Self) -> None:
        """Add the next part, or another worker's."""


class Done(WorkerReply):
    """The action was carried out."""


class StateCounts(WorkerReply):
    """How many sessions are in which state."""

    states: dict[str, int] = {}

    def include(self, other: Self) -> None:
        self.states = dict(Counter(self.states) + Counter(other.states))


class SessionRows(WorkerReply):
    """Sessions that one of the filters shows: when each began, the JSON of its
    :class:`~cxfr_proxy.admin.rows.rows.SessionRow`, which only passes through, and by which filters it is shown, a bit
    for each: 1 for the first. ``matching``: how many match each filter, shown or not.

    The times are the machine's clock, :func:`time.monotonic`: workers answer at different moments, so ages would not
    tell the order.
    """

    began: list[float] = []
    rows: list[msgspec.Raw] = []
    shown_by: list[int] = []
    matching: list[int] = []

    def include(self, other: Self) -> None:
        self.began += other.began
        self.rows += other.rows
        self.shown_by += other.shown_by
        self.matching = [sum(each) for each in zip_longest(self.matching, other.matching, fillvalue=0)]


class SessionShown(WorkerReply):
    """The session that was asked for; ``None``: it is not here."""

    row: SessionDetailsRow | None = None

    def include(self, other: Self) -> None:
        self.row = self.row or other.row


class PinnedUsers(WorkerReply):
    """How many sessions pinned users have on which node, by the user's key; users without any are left out."""

    nodes: dict[str, dict[str, int]] = {}

    def include(self, other: Self) -> None:
        for user, there in other.nodes.items():
            self.nodes[user] = dict(Counter(self.nodes.get(user, {})) + Counter(there))


class EventRows(WorkerReply):
    rows: list[EventRow] = []

    def include(self, other: Self) -> None:
        self.rows += other.rows


class TransferRows(WorkerReply):
    rows: list[TransferRow] = []

    def include(self, other: Self) -> None:
        self.rows += other.rows


class DrainPlanned(WorkerReply):
    forecast: DrainForecast = msgspec.field(default_factory=DrainForecast)

    def include(self, other: Self) -> None:
        self.forecast.include(other.forecast)


class RebalancePlanned(WorkerReply):
    forecast: RebalanceForecast = msgspec.field(default_factory=RebalanceForecast)

    def include(self, other: Self) -> None:
        self.forecast.include(other.forecast)


class ClientsMoved(WorkerReply):
    """How many clients were asked to move."""

    clients: int = 0

    def include(self, other: Self) -> None:
        self.clients += other.clients


class SessionsEnded(WorkerReply):
    """How many sessions were ended."""

    sessions: int = 0

    def include(self, other: Self) -> None:
        self.sessions += other.sessions


# --- questions

R = TypeVar("R", bound=WorkerReply, covariant=True)


class WorkerQuestion(msgspec.Struct, Generic[R], frozen=True, tag=True, forbid_unknown_fields=True, omit_defaults=True):
    """``reply`` is the type of the answer. ``is_action``: it changes something, and may take longer.
    ``last_will_do``: the last answer counts for a worker that does not answer in time."""

    reply: ClassVar[type[WorkerReply]] = Done
    is_action: ClassVar[bool] = False
    last_will_do: ClassVar[bool] = False

    @property
    def seconds(self) -> float:
        """How long a worker may take."""
        return ACTION_SECONDS if self.is_action else ANSWER_SECONDS

    def nothing(self) -> R:
        """Return what nobody has answered yet."""
        return cast("R", self.reply())


class ReportCounts(WorkerQuestion[Done], frozen=True):
    """Report counts without waiting for the next report."""


class CountStates(WorkerQuestion[StateCounts], frozen=True):
    """How many sessions are in which state? Counts are reported, too."""

    reply = StateCounts
    last_will_do = True


class FindSessions(WorkerQuestion[SessionRows], frozen=True):
    """Which sessions match? Each of the ``filters`` is a question of its own; there are
    :data:`~cxfr_proxy.admin.rows.filters.MOST_AT_ONCE` at most."""

    reply = SessionRows
    filters: tuple[SessionFilter, ...]


class ShowSession(WorkerQuestion[SessionShown], frozen=True):
    """Ask for everything that is known of that session."""

    reply = SessionShown
    session: int


class FindPinned(WorkerQuestion[PinnedUsers], frozen=True):
    """Where are the users who are pinned?"""

    reply = PinnedUsers


class ListEvents(WorkerQuestion[EventRows], frozen=True):
    """Which events that are worth showing were logged last?"""

    reply = EventRows


class ListTransfers(WorkerQuestion[TransferRows], frozen=True):
    """Which transfers run, and which were the last ones?"""

    reply = TransferRows


class PlanDrain(WorkerQuestion[DrainPlanned], frozen=True):
    """Ask what a drain of that node would do."""

    reply = DrainPlanned
    node: str


class PlanRebalance(WorkerQuestion[RebalancePlanned], frozen=True):
    """Ask what a rebalance would do. ``max_share`` in percent; ``None``: all that have to are moved."""

    reply = RebalancePlanned
    max_share: float | None = None


class MoveUser(WorkerQuestion[ClientsMoved], frozen=True):
    """Send the clients of that JID to the node, at once."""

    reply = ClientsMoved
    is_action = True
    jid: str
    node: str


class KickUser(WorkerQuestion[SessionsEnded], frozen=True):
    """End the sessions of that JID's clients, at once."""

    reply = SessionsEnded
    is_action = True
    jid: str


class Files(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files that the supervisor has read last and found good: certificates, each with its key, in the order in
    which they are looked through, the nodes' CA certificates by path, and the certificate for nodes (``None``: there is
    none). ``development`` is the self-signed certificate in PEM form, ``None`` if there are real ones. So all workers
    serve the same, whatever is in the files when they begin."""

    certificates: tuple[CertificateFile, ...]
    authorities: dict[str, str]
    node_certificate: Pem | None = None
    development: str | None = None


class TakeSettings(WorkerQuestion[Done], frozen=True):
    """Use these settings and files from now on: all of it, or nothing where something is wrong. Older ones than those
    in use, by their ``version``, are ignored. ``only_try``: say whether something is wrong, and use nothing."""

    is_action = True
    version: int
    config: Config
    files: Files
    only_try: bool = False


if TYPE_CHECKING:
    AnyQuestion = WorkerQuestion[WorkerReply]
    AnyReply = WorkerReply
else:
    AnyQuestion = Union[tuple(WorkerQuestion.__subclasses__())]  # noqa: UP007 - | joins no tuple
    AnyReply = Union[tuple(WorkerReply.__subclasses__())]  # noqa: UP007 - | joins no tuple
