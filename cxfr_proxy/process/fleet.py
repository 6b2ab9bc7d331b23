"""The workers as the supervisor sees them: one slot each, what it reported, and sums over all.

A slot stays when its worker dies; what that one had counted is added to the past, so that totals never go back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import trio

from cxfr_proxy.admin.rows import SessionRow, TransferRow, WorkerRow
from cxfr_proxy.process.channel import Channel
from cxfr_proxy.process.messages import (
    Answer,
    Ask,
    Grant,
    Listing,
    Message,
    Nodes,
    ReloadCertificates,
    Want,
    WorkerCounts,
)
from cxfr_proxy.session.mover_drains import OwnPace
from cxfr_proxy.session.registry import RECENT_TRANSFERS, NodeCounts

ANSWER_SECONDS: Final = 10.0
"""For a worker to answer; one that takes longer is left out of what an operator is shown."""
ID_MARGIN: Final = 10_000
"""Ids a replacement leaves out for each worker, for sessions of its predecessor that were not reported any more."""


class State(StrEnum):
    """Of a slot."""

    STARTING = "starting"
    UP = "up"
    WAITING = "waiting"
    """Its workers die at once: the next one comes later."""
    STOPPING = "stopping"
    GONE = "gone"


@dataclass(eq=False, slots=True)
class _Request:
    sessions: list[SessionRow] = field(default_factory=list)
    transfers: list[TransferRow] = field(default_factory=list)
    error: str | None = None
    answered: trio.Event = field(default_factory=trio.Event)


class Slot:
    """The place of one worker. ``number`` from 1 on."""

    def __init__(self, number: int, first_id: int) -> None:
        self.number = number
        self.state = State.STARTING
        self.deaths = 0
        self.next_first_id = first_id
        self.pid: int | None = None
        self.channel: Channel | None = None
        self.counts = WorkerCounts()
        self.want = Want(0, 0, 0)
        self.granted = 0
        self.sent_nodes: Nodes | None = None
        self._requests: dict[int, _Request] = {}
        self._last_request = 0

    def post(self, message: Message) -> None:
        if self.channel is not None:
            self.channel.post(message)

    def post_nodes(self, nodes: Nodes) -> None:
        """Unless it knows."""
        if self.channel is not None and nodes != self.sent_nodes:
            self.sent_nodes = nodes
            self.channel.post(nodes)

    async def ask(self, what: Listing | None) -> _Request:
        """Ask for a list; ``None``: to read certificates again. Empty where nobody answers."""
        request = _Request()
        if self.state not in (State.UP, State.STOPPING):
            await trio.lowlevel.checkpoint()
            return request
        self._last_request += 1
        number = self._last_request
        self._requests[number] = request
        self.post(Ask(number, what) if what is not None else ReloadCertificates(number))
        with trio.move_on_after(ANSWER_SECONDS):
            await request.answered.wait()
        self._requests.pop(number, None)
        return request

    def answer(self, answer: Answer) -> None:
        request = self._requests.get(answer.request)
        if request is not None:
            request.sessions += answer.sessions
            request.transfers += answer.transfers
            request.error = request.error or answer.error
            if answer.last:
                request.answered.set()

    def vacate(self, workers: int) -> None:
        """The worker is gone: nothing it was asked will be answered."""
        for request in self._requests.values():
            request.answered.set()
        self._requests.clear()
        self.next_first_id = max(self.next_first_id, self.counts.last_id) + workers * ID_MARGIN
        self.channel = self.pid = self.sent_nodes = None
        self.counts = WorkerCounts()
        self.want = Want(0, 0, 0)
        self.granted = 0

    # --- pace

    @property
    def wanted(self) -> tuple[int, int]:
        """Tokens it still needs: for sessions whose node is gone, and for all."""
        under_way = self.granted - self.want.received
        lost = max(0, self.want.lost - under_way)
        return lost, max(0, self.want.lost + self.want.leaving - under_way)


class Fleet:
    """All slots; :class:`~.operations.Sessions` for the operator."""

    def __init__(self, workers: int) -> None:
        self.slots = [Slot(number, number) for number in range(1, workers + 1)]
        self._past: dict[str, NodeCounts] = {}
        self.ended: Counter[str] = Counter()
        """How sessions ended whose worker is gone, by reason; ``worker-died`` are those it took along."""

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def sessions(self) -> int:
        return sum(slot.counts.sessions for slot in self.slots)

    def of_node(self, name: str) -> NodeCounts:
        total = NodeCounts()
        _add(total, self._past.get(name))
        for slot in self.slots:
            _add(total, (slot.counts.nodes or {}).get(name))
        return total

    def bury(self, slot: Slot, *, died: bool) -> None:
        """Its worker is gone, and its sessions with it."""
        for name, counts in (slot.counts.nodes or {}).items():
            counts.sessions = 0
            _add(self._past.setdefault(name, NodeCounts()), counts)
        self.ended.update(slot.counts.ended or {})
        if died:
            slot.deaths += 1
            self.ended["worker-died"] += slot.counts.sessions
        slot.vacate(len(self.slots))

    def elsewhere(self, than: Slot) -> tuple[dict[str, int], dict[str, int]]:
        """What the others have: sessions by node, connections by address."""
        sessions: Counter[str] = Counter()
        addresses: Counter[str] = Counter()
        for slot in self.slots:
            if slot is not than:
                sessions.update({name: counts.sessions for name, counts in (slot.counts.nodes or {}).items()})
                addresses.update(slot.counts.addresses or {})
        return dict(sessions), dict(addresses)

    def waiting_reason(self, node: str) -> str | None:
        """Why the drain of that node does not go on in some worker."""
        reasons = [(slot.counts.waiting or {}).get(node) for slot in self.slots]
        return next((reason for reason in reasons if reason is not None), None)

    # --- for the operator

    async def refresh(self) -> None:
        await self._ask(Listing.COUNTS)

    async def session_rows(self) -> list[SessionRow]:
        rows = [row for answer in await self._ask(Listing.SESSIONS) for row in answer.sessions]
        return sorted(rows, key=lambda row: -row.age_seconds)

    async def transfer_rows(self) -> list[TransferRow]:
        rows = [row for answer in await self._ask(Listing.TRANSFERS) for row in answer.transfers]
        ended = [row for row in rows if row.outcome is not None]
        ended.sort(key=lambda row: row.duration_seconds - row.seconds_ago)
        return ended[-RECENT_TRANSFERS:] + [row for row in rows if row.outcome is None]

    def worker_rows(self) -> list[WorkerRow]:
        return [
            WorkerRow(
                number=slot.number,
                pid=slot.pid,
                state=str(slot.state),
                sessions=slot.counts.sessions,
                connections=slot.counts.connections,
                deaths=slot.deaths,
            )
            for slot in self.slots
        ]

    def tell_to_reload(self) -> None:
        """Certificates, without waiting; errors are logged by the workers."""
        for slot in self.slots:
            slot.post(ReloadCertificates(0))

    async def reload_certificates(self) -> list[str]:
        """Errors, if there were some."""
        return [answer.error for answer in await self._ask(None) if answer.error is not None]

    async def _ask(self, what: Listing | None) -> list[_Request]:
        answers: list[_Request] = []

        async def ask(slot: Slot) -> None:
            answers.append(await slot.ask(what))

        async with trio.open_nursery() as asking:
            for slot in self.slots:
                asking.start_soon(ask, slot)
        return answers


def _add(total: NodeCounts, counts: NodeCounts | None) -> None:
    if counts is not None:
        total.sessions += counts.sessions
        total.asked += counts.asked
        total.moved += counts.moved
        total.refused += counts.refused
        total.silent += counts.silent
        total.failed += counts.failed
        total.connect_failures += counts.connect_failures
        total.forged += counts.forged


class Grants:
    """The proxy's one token bucket, and who gets the next token: workers with sessions whose node is gone before
    others, and the one with the most to move first, so that all are done at the same time."""

    def __init__(self, slots: Iterable[Slot], pace: OwnPace) -> None:
        self._slots = tuple(slots)
        self._pace = pace
        self._work = trio.Event()

    def wanted(self, slot: Slot, want: Want) -> None:
        slot.want = want
        self._work.set()

    def put_back(self, tokens: int) -> None:
        for _ in range(tokens):
            self._pace.put_back()

    async def run(self) -> None:
        """Hand out tokens until cancelled."""
        while True:
            while self.next() is None:
                self._work = trio.Event()
                await self._work.wait()
            await self._pace.wait()
            slot = self.next()  # it may have changed while there was no token
            if slot is not None:
                self._pace.spend()
                slot.granted += 1
                slot.post(Grant(1))

    def next(self) -> Slot | None:
        slot = max(self._slots, key=lambda slot: slot.wanted)
        return slot if any(slot.wanted) else None
