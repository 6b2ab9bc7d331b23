"""The parts of this proxy that are handed over to the one that takes its place, or were by the one before it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import msgspec
import trio

from cxfr_proxy.admin.rows.rows import EventRow, WorkerRow
from cxfr_proxy.cluster.kept_state import KeptState, read_state
from cxfr_proxy.ipc.channel import StreamChannel
from cxfr_proxy.ipc.codec import decode_question, encode_part
from cxfr_proxy.ipc.messages import Announced, BadMessage, EarlierNews, News, Remembered, TransferEnded
from cxfr_proxy.ipc.questions import CountStates, ListEvents, ReportCounts
from cxfr_proxy.service_manager import ServiceManager
from cxfr_proxy.supervisor.management import Management
from cxfr_proxy.supervisor.orders.state_keeper import StateKeeper
from cxfr_proxy.supervisor.upgrading.handover import (
    HANDOVER_VERSION,
    HandedOver,
    HandoverBegins,
    HandoverMessage,
    PredecessorAnswered,
    PredecessorAsked,
    PredecessorCounts,
    PredecessorEvents,
)
from cxfr_proxy.supervisor.upgrading.predecessor import Predecessor
from cxfr_proxy.supervisor.upgrading.relaying import only_in_part
from cxfr_proxy.supervisor.upgrading.successor import UpgradeRun
from cxfr_proxy.supervisor.workers.catch_up import CatchUp
from cxfr_proxy.supervisor.workers.client_sockets import ClientSockets
from cxfr_proxy.supervisor.workers.link import Link
from cxfr_proxy.supervisor.workers.worker_slots import WorkerSlots
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.transfers.client_news import AnyClientNews, Moved


class Succession:
    """An :class:`~.successor.UpgradeHost`, and an :class:`~.predecessor.SuccessorHost`."""

    def __init__(
        self,
        workers: Workers,
        catch_up: CatchUp,
        kept: StateKeeper,
        sockets: ClientSockets,
        slots: WorkerSlots,
        manager: ServiceManager,
        predecessor: Predecessor | None,
    ) -> None:
        self._workers = workers
        self._catch_up = catch_up
        self._kept = kept
        self._sockets = sockets
        self._slots = slots
        self._manager = manager
        self._predecessor = predecessor
        self._parted_by = math.inf  # when this proxy has to have ended
        self._management: Management | None = None
        self._announcing: dict[int, Link] = {}
        self._manager_told = False
        self.given_away = False
        """Another process is the proxy."""

    def manages(self, management: Management) -> None:
        """Hand over these, too."""
        self._management = management

    # --- to the next one

    @property
    def sessions(self) -> int:
        return self._workers.sessions

    @property
    def stopping(self) -> bool:
        return self._slots.stopping and not self.given_away

    async def until_left(self) -> None:
        if self._predecessor is not None:
            await self._predecessor.left.wait()

    @property
    def follows(self) -> bool:
        return self._predecessor is not None and not self._predecessor.gone.is_set()

    def handover_begins(self) -> HandoverBegins:
        assert self._management is not None
        self._sockets.share()
        return HandoverBegins(
            version=HANDOVER_VERSION,
            pid=os.getpid(),
            for_clients=tuple(self._sockets.given()),
            for_operators=tuple(self._management.given()),
            state=self._kept.content().decode(),
            last_id=self._workers.last_id(),
            counts=self._workers.own_counts(),
            state_lock=self._kept.lock_descriptor,
        )

    def earlier_news(self) -> Sequence[EarlierNews]:
        return [each for piece in self._catch_up.pieces(trio.current_time()) for each in piece.news]

    def goes_on(self) -> None:
        self._sockets.share_no_more()
        self._kept.take_back()

    def hurry(self) -> None:
        self._slots.stop()

    async def settle(self) -> None:
        await self._kept.settle()
        await self._kept.quiet()

    def offer(self) -> HandedOver:
        assert self._management is not None
        return HandedOver(
            state=self._kept.offer().decode(),
            statistics=msgspec.Raw(msgspec.json.encode(self._workers.statistics.record())),
            workers=self._workers.pasts(),
            checks_failed=self._management.checks_failed(),
            history=tuple(map(encode_part, self._management.history.hand_over())),
        )

    def hand_over(self) -> None:
        assert self._management is not None
        self.given_away = True
        self._manager_told = False
        # In this order: no order is taken that nobody writes down, and no client is accepted by workers that leave.
        self._management.give_away()
        self._kept.give_away()
        self._sockets.give_away()
        self._slots.leave()

    def tell_manager(self, pid: int) -> bool:
        self._manager_told = self._manager_told or self._manager.replaced_by(pid)
        return self._manager_told

    def predecessor_counts(self) -> PredecessorCounts:
        return self._workers.own_counts()

    def predecessor_events(self) -> PredecessorEvents:
        assert self._management is not None
        return PredecessorEvents(tuple(map(encode_part, self._management.about.known_events())))

    async def answer(self, asked: PredecessorAsked, channel: StreamChannel[HandoverMessage]) -> None:
        assert self._management is not None
        try:
            question = decode_question(asked.question)
        except BadMessage:
            unknown = f"process {os.getpid()} is of a version that does not know how to answer this"
            channel.post(PredecessorAnswered(asked.request, (unknown,)))
            return
        cut = False
        if isinstance(question, ListEvents):
            events = await self._management.about.events()
            channel.post(PredecessorEvents(tuple(map(encode_part, events))))
        else:
            cut = await self._workers.relay(question, asked.request, channel)
        if isinstance(question, ReportCounts | CountStates):
            channel.post(self._workers.own_counts())
        omissions = [*self._workers.omissions(), *((only_in_part(),) if cut else ())]
        channel.post(PredecessorAnswered(asked.request, tuple(omissions)))

    def pass_on(self, link: Link, news: AnyClientNews, upgrade: UpgradeRun | None) -> None:
        """Pass on what a worker has said. It is told when all know that a client is about to be asked to move."""
        awaited = upgrade is not None and upgrade.note_news(EarlierNews(0.0, news))
        if isinstance(news, Moved):
            if awaited:
                self._announcing[news.session] = link
            else:
                link.post(Announced(news.session))

    def announced(self, session: int) -> None:
        link = self._announcing.pop(session, None)
        if link is not None:
            link.post(Announced(session))

    def announce_rest(self) -> None:
        for session in list(self._announcing):
            self.announced(session)

    # --- from the one before

    def stop_predecessor(self) -> None:
        """Have it hurry, since this proxy stops; a service manager would kill what is left of it."""
        self._parted_by = trio.current_time() + self._slots.parting_seconds
        if self._predecessor is not None:
            self._predecessor.stop()

    async def until_alone(self) -> None:
        """Wait until it has ended, for as long as this proxy may take to stop."""
        if self._predecessor is not None:
            with trio.move_on_at(self._parted_by):
                await self._predecessor.gone.wait()

    def note_predecessor_counts(self, counts: PredecessorCounts, workers: Sequence[WorkerRow]) -> None:
        self._workers.note_predecessor(counts, workers)

    def note_predecessor_events(self, events: Sequence[EventRow]) -> None:
        assert self._management is not None
        self._management.about.note_earlier_events(events)

    def note_predecessor_news(self, news: EarlierNews) -> None:
        self._catch_up.note(news.news, trio.current_time() - news.seconds_ago)
        message = News(news.news) if not news.seconds_ago else Remembered((news,))
        for link in self._workers:
            link.post(message)

    def note_predecessor_transfer(self, ended: TransferEnded) -> None:
        self._workers.note_transfer(ended.session, ended.full_jid, ended.transfer)

    def take_over(self, predecessor: Predecessor, handed_over: HandedOver) -> None:
        """Be the proxy from now on. Raises :class:`ConfigError`."""
        assert self._management is not None
        state: KeptState = read_state(handed_over.state.encode())
        statistics = predecessor.statistics(handed_over)
        if statistics is not None:
            self._workers.statistics.take_over(statistics)
        self._workers.take_over_pasts(handed_over.workers)
        self._workers.also_ask(predecessor.questions)
        self._kept.take_over(state)
        self._management.take_over(predecessor.state, handed_over.checks_failed)
        self._management.history.take_over(predecessor.history(handed_over))
