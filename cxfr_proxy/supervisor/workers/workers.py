"""All workers as the supervisor sees them: the slots, the workers in them, and sums over all.

A slot has one worker; two while one is being replaced, and none while its workers die at once. The counts of a worker
that is gone are added to the past, so that totals never go back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final, TypeVar

import trio

from cxfr_proxy.admin.rows.filters import FoundSessions, SessionFilter
from cxfr_proxy.admin.rows.rows import EventRow, SessionDetailsRow, TransferRow, WorkerRow
from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.cluster.plan import DrainForecast
from cxfr_proxy.cluster.rebalance import RebalanceForecast
from cxfr_proxy.ipc.channel import StreamChannel
from cxfr_proxy.ipc.codec import encode_part
from cxfr_proxy.ipc.messages import NOBODY, Ask, Elsewhere, WorkerCounts
from cxfr_proxy.ipc.questions import (
    CountStates,
    FindPinned,
    FindSessions,
    KickUser,
    ListEvents,
    ListTransfers,
    MoveUser,
    PlanDrain,
    PlanRebalance,
    ReportCounts,
    ShowSession,
    TakeSettings,
    WorkerQuestion,
    WorkerReply,
)
from cxfr_proxy.supervisor.upgrading.handover import HandoverMessage, PredecessorCounts
from cxfr_proxy.supervisor.upgrading.relaying import PredecessorQuestions, RelayedRequest
from cxfr_proxy.supervisor.workers.absences import Absences
from cxfr_proxy.supervisor.workers.link import Answerer, Link, LinkState, Request
from cxfr_proxy.supervisor.workers.slot import WorkerSlot
from cxfr_proxy.transfers.counts import RECENT_TRANSFERS, NodeCounts
from cxfr_proxy.transfers.move_window import WindowState, sum_of
from cxfr_proxy.transfers.rebalances import RebalanceCounts, total
from cxfr_proxy.transfers.statistics import MAX_NODES, WORKER_DIED, PastTransfer, Totals, TransferStatistics

_NONE: Final = NodeCounts()

R = TypeVar("R", bound=WorkerReply)
A = TypeVar("A", bound=Answerer)


class Workers:
    """All slots; iterating yields the workers. The console's :class:`~cxfr_proxy.admin.console.parts.Sessions`."""

    def __init__(self, workers: int) -> None:
        self.slots = [WorkerSlot(number) for number in range(1, workers + 1)]
        self.predecessor = PredecessorCounts()
        """The counts of the proxy whose place this one has taken, which may have clients still."""
        self._predecessor_rows: Sequence[WorkerRow] = ()
        self._others: list[PredecessorQuestions] = []  # who is asked beside the workers
        self._past: dict[str, NodeCounts] = {}
        self._past_totals = Totals()
        self.statistics = TransferStatistics()
        self.absences = Absences(self.statistics)
        self._last_moves: BoundedDict[str, float] = BoundedDict(MAX_NODES)
        self._past_rebalance = RebalanceCounts()
        self._counted: dict[str, None] = {}  # nodes whose numbers have changed in a worker
        self._informed: set[Link] = set()  # workers that know the numbers of all other nodes

    def __iter__(self) -> Iterator[Link]:
        return iter([link for slot in self.slots for link in slot.links])

    def all_serve(self) -> bool:
        """Return whether each slot has a worker that serves."""
        return all(any(link.state is LinkState.UP and not link.gone for link in slot.links) for slot in self.slots)

    @property
    def sessions(self) -> int:
        return self.predecessor.sessions + sum(link.counts.sessions for link in self)

    def of_node(self, name: str) -> NodeCounts:
        total = NodeCounts()
        for nodes in (self.predecessor.nodes, self._past, *(link.counts.nodes or {} for link in self)):
            if name in nodes:
                total.include(nodes[name])
        # The one before says so until what it has counted is taken over, and may count some that this one counts too.
        before = self.predecessor.nodes.get(name, _NONE).returned
        total.returned = max(before, self.absences.returned_from(name))
        return total

    def totals(self) -> Totals:
        """Return the totals of all workers there ever were."""
        total = Totals()
        total.include(self.predecessor.totals)
        total.include(self._past_totals)
        for link in self:
            total.include(link.counts.totals)
        return total

    def own_counts(self) -> PredecessorCounts:
        """Return all counts, for a proxy that takes the place of this one."""
        now = trio.current_time()
        names = {*self._past, *self.predecessor.nodes, *(name for link in self for name in link.counts.nodes or {})}
        awaited = {*self.predecessor.awaited, *(name for link in self for name in link.counts.awaited or {})}
        return PredecessorCounts(
            sessions=self.sessions,
            connections=self.predecessor.connections + sum(link.counts.connections for link in self),
            nodes={name: self.of_node(name) for name in names},
            awaited={name: self.awaited(name) for name in awaited},
            totals=self.totals(),
            last_moves={node: now - at for node, at in self._last_moves.items()},
            workers=tuple(map(encode_part, self.worker_rows())),
        )

    def note_predecessor(self, counts: PredecessorCounts, workers: Sequence[WorkerRow] = ()) -> None:
        """Note the latest counts of the proxy whose place this one has taken, and its workers of now."""
        self.predecessor = counts
        self._predecessor_rows = workers
        now = trio.current_time()
        for node, seconds_ago in counts.last_moves.items():
            self._note_move(node, now - seconds_ago)

    def pasts(self) -> dict[int, tuple[int, int, int, float]]:
        """Return of each slot: workers that died, hung, and were replaced, and the seconds of CPU of all."""
        return {
            slot.number: (
                slot.deaths,
                slot.hung,
                slot.replaced,
                slot.cpu_seconds + sum(link.counts.process.cpu_seconds for link in slot.links),
            )
            for slot in self.slots
        }

    def take_over_pasts(self, pasts: Mapping[int, tuple[int, int, int, float]]) -> None:
        """Count on from those of another proxy. The first slot gets what is left over."""
        for number, (deaths, hung, replaced, cpu_seconds) in pasts.items():
            slot = self.slots[number - 1] if 0 < number <= len(self.slots) else self.slots[0]
            slot.deaths += deaths
            slot.hung += hung
            slot.replaced += replaced
            slot.cpu_seconds += cpu_seconds

    def last_id(self) -> int:
        """Return the highest session id that was given."""
        return max(slot.last_id for slot in self.slots)

    def begin_behind(self, last_id: int) -> None:
        """Give no session an id that the proxy whose place this one takes may have given, or still gives."""
        for slot in self.slots:
            slot.begin_behind(last_id, len(self.slots))

    def awaited(self, node: str) -> int:
        """Return how many clients that were cut may still fetch their session from that node, over all workers; see
        :class:`~cxfr_proxy.transfers.awaited.Awaited`."""
        own = sum((link.counts.awaited or {}).get(node, 0) for link in self)
        return own + self.predecessor.awaited.get(node, 0)

    def note_transfer(self, session: int, full_jid: str | None, transfer: PastTransfer) -> None:
        """Note that the transfer of that session is over."""
        self.statistics.add(transfer)
        self.absences.note_transfer(session, full_jid, transfer)
        self._note_move(transfer.node, trio.current_time())

    def _note_move(self, node: str, at: float) -> None:
        self._last_moves[node] = max(at, self.last_move(node))

    def last_move(self, node: str) -> float:
        """Return when the last session moved away from that node, by trio's clock; minus infinity: none has."""
        return self._last_moves.get(node, -math.inf)

    def bury(self, slot: WorkerSlot, link: Link) -> None:
        """Note that a worker is gone, and its sessions with it."""
        slot.links.remove(link)
        self._informed.discard(link)
        self.note_counts(link.counts)
        slot.note_last_id(link.counts)
        for name, counts in (link.counts.nodes or {}).items():
            # These are levels and not counts: they have ended with the worker.
            counts.sessions = counts.logins_waiting = 0
            self._past.setdefault(name, NodeCounts()).include(counts)
        self._past_totals.include(link.counts.totals)
        rebalance = replace(link.counts.rebalance, planning=False, left=0, held=0)
        latest = max(rebalance.number, self._past_rebalance.number)
        self._past_rebalance = total(latest, [rebalance, self._past_rebalance])
        slot.hung += link.hung
        slot.cpu_seconds += link.counts.process.cpu_seconds
        if link.died:
            slot.deaths += 1
            self._past_totals.count_ended(WORKER_DIED, link.counts.sessions)

    def note_counts(self, counts: WorkerCounts) -> None:
        """Note that a worker's counts have changed: the other workers have to know."""
        self._counted.update(dict.fromkeys(counts.nodes or {}))

    def send_elsewhere(self) -> None:
        """Tell each worker how many sessions the others have, for nodes whose number has changed."""
        if len(self.slots) == 1:
            return  # a worker that is alone, and stays so, has no others
        links = list(self)
        counted, self._counted = self._counted, {}
        news = _sums(links, counted)
        all_of_them = (
            _sums(links, {name for link in links for name in link.counts.nodes or {}})
            if (any(link not in self._informed for link in links))
            else news
        )
        addresses: Counter[str] = Counter()
        for link in links:
            addresses.update(link.counts.addresses or {})
        for number, link in enumerate(links):
            sums = news if link in self._informed else all_of_them
            own = Counter(link.counts.addresses or {})
            link.post(
                Elsewhere(
                    {name: each[-1] - (each[number + 1] - each[number]) for name, each in sums.items()},
                    dict(addresses - own),
                    {name: each[number] for name, each in sums.items()},
                )
            )
            self._informed.add(link)

    def rebalance_counts(self, number: int) -> RebalanceCounts | None:
        """Return the outcome of that rebalance; ``None``: not all workers have planned for it yet."""
        # A worker that has not planned for this number yet would count as having nothing to move.
        if any(link.greeted and link.counts.rebalance.number != number for link in self):
            return None
        return total(number, [self._past_rebalance, *(link.counts.rebalance for link in self)])

    def moves(self) -> WindowState:
        """Return how it stands with the sessions that the proxy takes to other nodes itself."""
        return sum_of(link.counts.moves for link in self)

    def waiting_reason(self, node: str) -> str | None:
        """Return why the drain of that node does not go on in any of the workers that have sessions on it."""
        having = [link.counts for link in self if (link.counts.nodes or {}).get(node, NodeCounts()).sessions]
        reasons = [(counts.waiting or {}).get(node) for counts in having]
        return reasons[0] if reasons and None not in reasons else None

    # --- for the operator

    def also_ask(self, predecessor: PredecessorQuestions) -> None:
        """Ask the proxy whose place this one has taken as well, as long as it has clients."""
        self._others = [predecessor]

    async def ask(self, question: WorkerQuestion[R]) -> R:
        """Ask all workers; return their replies as one."""
        total = question.nothing()
        requests = {answerer: Request(question) for answerer in (*self, *self._others)}
        await _carry_all(requests)
        for request in requests.values():
            total.include(request.reply)
        return total

    async def relay(self, question: WorkerQuestion[R], number: int, channel: StreamChannel[HandoverMessage]) -> bool:
        """Ask all workers, for the proxy that has taken the place of this one; the parts of their replies go on by that
        channel, under that number. Return whether some had to be left out."""
        requests = {link: RelayedRequest(question, number, channel) for link in self}
        await _carry_all(requests)
        for request in requests.values():
            request.end()
        return any(request.cut for request in requests.values())

    async def refresh(self) -> None:
        await self.ask(ReportCounts())

    async def states(self) -> dict[str, int]:
        return (await self.ask(CountStates())).states

    async def find_sessions(self, filters: Sequence[SessionFilter]) -> list[FoundSessions]:
        found = await self.ask(FindSessions(tuple(filters)))
        # Each worker has listed its own in this order, as many as may be needed.
        order = sorted(range(len(found.rows)), key=lambda at: found.began[at])
        lists = []
        for number, wanted in enumerate(filters):
            shown = [found.rows[at] for at in order if found.shown_by[at] >> number & 1]
            matching = found.matching[number] if found.matching else 0  # nobody has answered
            lists.append(FoundSessions(shown[: wanted.limit], matching))
            await trio.lowlevel.checkpoint()
        return lists

    async def session_details(self, session_id: int) -> SessionDetailsRow | None:
        return (await self.ask(ShowSession(session_id))).row

    async def pinned_sessions(self) -> Mapping[str, Mapping[str, int]]:
        return (await self.ask(FindPinned())).nodes

    async def transfer_rows(self) -> list[TransferRow]:
        rows = self.absences.complete((await self.ask(ListTransfers())).rows)
        ended = [row for row in rows if row.outcome is not None]
        ended.sort(key=lambda row: row.duration_seconds - row.seconds_ago)
        return ended[-RECENT_TRANSFERS:] + [row for row in rows if row.outcome is None]

    async def plan(self, node: str) -> DrainForecast:
        return (await self.ask(PlanDrain(node))).forecast

    async def plan_rebalance(self, max_share: float | None) -> RebalanceForecast:
        return (await self.ask(PlanRebalance(max_share))).forecast

    async def move(self, jid: str, node: str) -> int:
        return (await self.ask(MoveUser(jid, node))).clients

    async def kick(self, jid: str) -> int:
        return (await self.ask(KickUser(jid))).sessions

    async def event_rows(self) -> list[EventRow]:
        """Return the latest events of the workers' processes that are worth showing."""
        return (await self.ask(ListEvents())).rows

    def omissions(self) -> list[str]:
        """Return which workers owe an answer, a sentence each."""
        now = trio.current_time()
        return [
            f"worker {link.number} (pid {link.pid}) has not answered for {now - link.overdue_since:.0f} s: what it has "
            "is missing here, or as old as that"
            for link in self
            if link.overdue_since is not None
        ] + [omission for other in self._others for omission in other.omissions()]

    def worker_rows(self) -> list[WorkerRow]:
        """Return the workers by number, leaving ones before their successors; first those of the proxy whose place
        this one has taken."""
        return [*self._predecessor_rows, *(row for slot in self.slots for row in slot.rows())]

    def send_settings(self, taking: TakeSettings) -> None:
        """Have all workers use these, without waiting; errors are logged by the workers."""
        for link in self:
            link.post(Ask(NOBODY, taking))

    async def take_settings(self, taking: TakeSettings) -> list[str]:
        """Have all workers use, or try, these. Return the errors, if there were some."""
        for link in self:
            # It has been told of others by now, and is not asked before it serves.
            if link.state is LinkState.STARTING and not taking.only_try:
                link.post(Ask(NOBODY, taking))
        requests = {link: Request(taking) for link in self}
        await _carry_all(requests)
        return [each.error for each in requests.values() if each.error is not None]


async def _carry_all(requests: Mapping[A, Request[R]]) -> None:
    """Ask all at once: one that hangs costs its time once, and not each one's in turn."""
    async with trio.open_nursery() as asking:
        for answerer, request in requests.items():
            asking.start_soon(answerer.carry, request)


def _sums(links: Sequence[Link], names: Iterable[str]) -> dict[str, list[int]]:
    """Return by node: its sessions in all workers before the first one, before the second, ..., and in all."""
    return {
        name: [0, *accumulate((link.counts.nodes or {}).get(name, _NONE).sessions for link in links)] for name in names
    }
