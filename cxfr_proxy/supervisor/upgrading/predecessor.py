"""The proxy whose place this one takes, as this one sees it.

It hands over its sockets and what it keeps, and goes on until its clients have moved. Until then its sessions count as
this proxy's: a node is not empty while the old proxy has clients there. Its counters go on in this one's.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import msgspec
import trio

from cxfr_proxy import __version__
from cxfr_proxy.admin.latest_events import of_earlier_proxy
from cxfr_proxy.admin.rows.rows import EventRow, HistoryRow, OperatorRow, WorkerRow
from cxfr_proxy.cluster.kept_state import KeptState, read_state
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.channel import StreamChannel
from cxfr_proxy.ipc.messages import BadMessage, EarlierNews, TransferEnded
from cxfr_proxy.net.inherited import InheritedSocket, InheritedSockets
from cxfr_proxy.supervisor.upgrading.handover import (
    GivenSocket,
    HandedOver,
    HandoverBegins,
    HandoverMessage,
    NewsNoted,
    PredecessorAnswered,
    PredecessorCounts,
    PredecessorEvents,
    PredecessorLeaves,
    PredecessorNews,
    PredecessorReply,
    PredecessorTransfer,
    SuccessorReady,
    SuccessorServes,
    SuccessorStops,
    UnknownMessage,
    handover_channel,
    read_beginning,
)
from cxfr_proxy.supervisor.upgrading.relaying import PredecessorQuestions
from cxfr_proxy.transfers.client_news import Moved
from cxfr_proxy.transfers.statistics import StatisticsRecord, Totals, TransferStatistics

_log = logging.getLogger(__name__)

_LEAVING_SECONDS: Final = 15.0
"""More than the old one waits for the service manager."""

R = TypeVar("R", bound=OperatorRow)


class SuccessorHost(Protocol):
    """The supervisor of this proxy."""

    def note_predecessor_counts(self, counts: PredecessorCounts, workers: Sequence[WorkerRow]) -> None:
        """Count those of the old proxy as well, in place of those it said last; ``workers`` are those it has now."""

    def note_predecessor_events(self, events: Sequence[EventRow]) -> None:
        """Show these events of the old proxy, in place of those it told before."""

    def note_predecessor_news(self, news: EarlierNews) -> None:
        """Let all workers know of it, now and later."""

    def note_predecessor_transfer(self, ended: TransferEnded) -> None:
        """Count it."""


class Predecessor:
    """``end`` is the channel's. Raises :class:`ConfigError` where it can't be understood. Blocks for a moment."""

    def __init__(self, end: socket.socket) -> None:
        begins = read_beginning(end)
        self.begins: HandoverBegins = begins
        self.state: KeptState = read_state(begins.state.encode())
        self.for_clients = InheritedSockets(map(_adopt, begins.for_clients))
        self.for_operators = InheritedSockets(map(_adopt, begins.for_operators))
        self.questions = PredecessorQuestions(begins.pid)
        """It as one who can be asked."""
        self._channel_end = end
        self._channel: StreamChannel[HandoverMessage] | None = None
        self._unread = False
        self._last = self._readable(begins.counts)
        self._handed_over: HandedOver | None = None
        self._offered = trio.Event()
        self.left = trio.Event()
        """It is not the proxy any more, or has ended."""
        self.gone = trio.Event()
        """It has ended."""

    def tell_first_counts(self, host: SuccessorHost) -> None:
        """Tell what it has had at the beginning, before anything goes by the counts of nodes."""
        host.note_predecessor_counts(self._last, self._workers_of(self._last))

    async def run(self, host: SuccessorHost) -> None:
        """Take what it says, until it has ended."""
        ending = self._channel_end.dup()
        self._channel = handover_channel(self._channel_end)
        self.questions.begin(self._channel)
        try:
            await self._channel.run(lambda message: self._receive(host, message))
        except BadMessage as exc:
            emit(_log, "handover-fault", level=logging.ERROR, reason=str(exc))
            with contextlib.suppress(OSError):  # to close it says nothing: there is a copy for failures
                ending.shutdown(socket.SHUT_RDWR)
        finally:
            ending.close()
            # Nothing of it comes any more: whoever waits for a word of it goes on, and finds none.
            self._offered.set()
            self.left.set()
            self.gone.set()
            self.questions.end()
        # It has no sessions any more; what it has counted stays.
        nodes = {name: replace(each, sessions=0, logins_waiting=0) for name, each in self._last.nodes.items()}
        last = PredecessorCounts(nodes=nodes, totals=self._last.totals, last_moves=self._last.last_moves)
        host.note_predecessor_counts(last, ())
        emit(_log, "predecessor-gone", pid=self.begins.pid)

    async def hand_over(self) -> HandedOver:
        """Say that this proxy is ready; return what it gets, to be the proxy.

        Raises :class:`ConfigError` where the other one has ended instead.
        """
        while self._channel is None:  # run() was started just before, and its task may not have begun
            await trio.lowlevel.checkpoint()
        self._channel.post(SuccessorReady(__version__))
        await self._offered.wait()
        if self._handed_over is None:
            raise ConfigError("handover: the proxy that was to be replaced has ended")
        return self._handed_over

    async def leaves(self) -> None:
        """Say that this proxy serves, and wait until the other one leaves; not for ever, since this is the proxy
        whatever becomes of that one."""
        assert self._channel is not None
        self._channel.post(SuccessorServes())
        with trio.move_on_after(_LEAVING_SECONDS):
            await self.left.wait()
        self.left.set()  # also without its word: orders that wait for it are this proxy's now

    def stop(self) -> None:
        """Have it hurry: this proxy stops."""
        if self._channel is not None:
            self._channel.post(SuccessorStops())

    def _receive(self, host: SuccessorHost, message: HandoverMessage) -> None:
        match message:
            case HandedOver():
                self._handed_over = message
                self._offered.set()
            case PredecessorLeaves():
                self.left.set()
            case PredecessorCounts():
                self._last = self._readable(message)
                host.note_predecessor_counts(self._last, self._workers_of(self._last))
            case PredecessorEvents(events):
                host.note_predecessor_events(of_earlier_proxy(self._rows(EventRow, events), self.begins.pid))
            case PredecessorReply() | PredecessorAnswered():
                try:
                    self.questions.note(message)
                except BadMessage as exc:
                    self._note_unread(exc)
            case PredecessorNews(pieces):
                for piece in pieces:
                    self._take_news(host, piece)
            case PredecessorTransfer(ended):
                try:
                    host.note_predecessor_transfer(msgspec.json.decode(ended, type=TransferEnded))
                except msgspec.MsgspecError as exc:
                    self._note_unread(exc)
            case UnknownMessage(str(reason)):
                self._note_unread(BadMessage(reason))
            case _:
                pass

    def _take_news(self, host: SuccessorHost, piece: msgspec.Raw) -> None:
        try:
            earlier = msgspec.json.decode(piece, type=EarlierNews)
        except msgspec.MsgspecError as exc:
            self._note_unread(exc)
            return
        host.note_predecessor_news(earlier)
        if isinstance(earlier.news, Moved) and self._channel is not None:
            self._channel.post(NewsNoted(earlier.news.session))

    def _note_unread(self, exc: Exception) -> None:
        """Log once what this version can't read of another one's."""
        if not self._unread:
            self._unread = True
            emit(_log, "handover-unread", level=logging.WARNING, reason=str(exc))

    def _readable(self, counts: PredecessorCounts) -> PredecessorCounts:
        """Leave out totals that can't be added to this version's."""
        try:
            Totals().include(counts.totals)
        except ValueError as exc:
            self._note_unread(exc)
            return msgspec.structs.replace(counts, totals=Totals())
        return counts

    def _workers_of(self, counts: PredecessorCounts) -> list[WorkerRow]:
        rows = self._rows(WorkerRow, counts.workers)
        return [msgspec.structs.replace(row, main_pid=self.begins.pid) for row in rows]

    def history(self, handed_over: HandedOver) -> list[HistoryRow]:
        """Return its last hour, as far as this version can read it."""
        return self._rows(HistoryRow, handed_over.history)

    def _rows(self, kind: type[R], written: Sequence[msgspec.Raw]) -> list[R]:
        rows = []
        for each in written:
            try:
                rows.append(msgspec.json.decode(each, type=kind))
            except msgspec.MsgspecError as exc:
                self._note_unread(exc)
        return rows

    def statistics(self, handed_over: HandedOver) -> StatisticsRecord | None:
        """Return its counts of transfers; ``None``: this version can't read them."""
        try:
            record = msgspec.json.decode(handed_over.statistics, type=StatisticsRecord)
            TransferStatistics().take_over(record)  # which refuses other buckets: better now than half way
        except (msgspec.MsgspecError, ValueError) as exc:
            self._note_unread(exc)
            return None
        return record


def _adopt(given: GivenSocket) -> InheritedSocket:
    try:
        sock = socket.socket(fileno=given.descriptor)
    except OSError as exc:
        raise ConfigError(f"handover: descriptor {given.descriptor}: {exc.strerror or exc}") from exc
    sock.set_inheritable(False)
    sock.setblocking(False)
    return InheritedSocket(sock, lasting=given.lasting)
