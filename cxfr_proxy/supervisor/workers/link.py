"""One worker as the supervisor sees it: its process, its end of the channel, and what it has reported.

::

STARTING -> UP -> LEAVING -> STOPPING (and from each to its end)

A worker is UP when it has greeted, LEAVING when it was told that another one has taken over, STOPPING when it has
reported that all clients are gone.

A worker is alive if it is heard from. At intervals it is asked for its counts, which it answers as soon as it reads the
question. A worker from which nothing comes for :data:`SILENCE_SECONDS` serves no client either, and is killed. That
time is counted in turns of waiting and not read from a clock: if this process itself was held up (stopped, or the
machine slept), the workers are not to blame. Before the greeting nothing counts, so a worker that never comes up is
killed too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final, Generic, Protocol, TypeVar, cast

import msgspec
import trio

from cxfr_proxy.events import emit
from cxfr_proxy.ipc.channel import Channel
from cxfr_proxy.ipc.launch import Launched
from cxfr_proxy.ipc.messages import (
    NOBODY,
    VERSION,
    AnswerPart,
    Ask,
    BadMessage,
    Gone,
    Hello,
    Leave,
    Message,
    News,
    Present,
    SessionsChanged,
    Setup,
    Stopped,
    Want,
    WorkerCounts,
    WorkerReport,
)
from cxfr_proxy.ipc.questions import ReportCounts, WorkerQuestion, WorkerReply
from cxfr_proxy.supervisor.workers.node_states import NodeUpdates
from cxfr_proxy.tasks import Task, isolated, start
from cxfr_proxy.transfers.client_news import Lost, SessionResumable

SILENCE_SECONDS: Final = 30.0
"""Seconds of silence after which a worker is killed: even on a machine that swaps, nothing keeps a healthy worker from
answering for so long."""
SILENCE_TURNS: Final = 6
NODES_SECONDS: Final = 0.005
"""Seconds between two batches of changes to the nodes; the first one after a pause is sent at once."""

_log = logging.getLogger(__name__)

R = TypeVar("R", bound=WorkerReply)


@dataclass(frozen=True, slots=True)
class FirstMessages:
    """The first messages to a worker: the settings, what it needs before it serves, then the nodes; and ``more``
    meanwhile."""

    setup: Setup
    before: Iterable[Message]
    nodes: NodeUpdates
    more: Iterable[Message]


class LinkState(StrEnum):
    STARTING = "starting"
    UP = "up"
    LEAVING = "leaving"
    STOPPING = "stopping"


class Request(Generic[R]):
    """A question to one worker, and as much of the answer as has come. ``error``: why there is none, or not all of it.
    ``seconds``: how long the next part may take."""

    def __init__(self, question: WorkerQuestion[R]) -> None:
        self.question = question
        self.seconds = question.seconds
        self.reply = question.nothing()
        self.error: str | None = None
        self.answered = trio.Event()
        self.limit = trio.CancelScope()
        self.heard_at = trio.current_time()
        """When the last part has come; before the first, when it was asked."""

    def heard(self) -> None:
        """Wait for the next part from now on."""
        self.heard_at = trio.current_time()
        self.limit.deadline = self.heard_at + self.seconds

    def include(self, part: R) -> None:
        """Take the next part of the answer."""
        self.reply.include(part)


class LastReplies:
    """One answerer's latest replies to questions where the last will do."""

    def __init__(self) -> None:
        self._replies: dict[type, WorkerReply] = {}

    def fill_in(self, request: Request[R]) -> None:
        """Have the request, for which nothing more will come, hold the last reply if its own is not complete."""
        kind = type(request.question)
        if not request.question.last_will_do:
            return
        # The first time there is no earlier reply, so an incomplete one has to do.
        self._replies.setdefault(kind, request.reply)
        if request.answered.is_set():
            self._replies[kind] = request.reply
        request.reply = cast("R", self._replies[kind])


class Answerer(Protocol):
    """A worker, or the proxy whose place this one has taken: one who can be asked."""

    async def carry(self, request: Request[R]) -> None:
        """Ask, and wait for the answer, which lacks what did not come in time."""


class LinkListener(Protocol):
    """Acts on the messages of workers."""

    def on_message(self, link: Link, message: Message) -> None:
        """Act on a message of that worker; :class:`Link` has noted it before. Raises :class:`BadMessage`."""


class Link:
    """One worker. ``number`` is its slot's. ``parting_seconds``: how long it may take to end once it was told to
    leave."""

    def __init__(self, number: int, listener: LinkListener, parting_seconds: float) -> None:
        self.number = number
        self.state = LinkState.STARTING
        self.began = trio.current_time()
        self.pid: int | None = None
        self.greeted = False
        """It has served; stays true after its end."""
        self.gone = False
        self.hung = False
        self.overdue_since: float | None = None
        """The time of the question that it did not answer in time; ``None`` again as soon as anything comes from it."""
        self.cut = False
        """It has reported that it had to cut clients when it ended."""
        self.code: int | None = None
        """Its exit code, once it is gone; ``None`` if it could not even be started."""
        self.counts = WorkerCounts()
        self.want = Want(0, 0, 0)
        self.at_stake: dict[str, Lost] = {}
        """Clients that would be lost, and may come back, if it were killed now; by the id to resume with."""
        self.present: dict[int, tuple[Present, float]] = {}
        """Its sessions by id, each with the time of the report. Empty for a worker that can't end without a report."""
        self.granted = 0
        self._listener = listener
        self.parting_seconds = parting_seconds
        self._keeps_present = True
        self._channel: Channel | None = None
        self._life = trio.CancelScope()
        self._silent_turns = 0
        self._updates: NodeUpdates | None = None
        self._news_of_nodes = trio.Event()
        self._nodes_sent = trio.lowlevel.ParkingLot()
        self._requests: dict[int, Request[WorkerReply]] = {}
        self._last_replies = LastReplies()
        self._last_request = NOBODY

    @property
    def died(self) -> bool:
        """Return whether it is gone, and not because it was told to. One that could not be started has not died."""
        return self.gone and self.pid is not None and (self.state is not LinkState.STOPPING or self.code != 0)

    # --- its life

    async def live(self, worker: Launched, first: FirstMessages) -> None:
        """Serve the channel until the worker has ended; it gets the ``first`` messages at once. Cancelling kills it."""
        self.pid = worker.pid
        self._keeps_present = worker.ends_unheard
        self._channel = worker.channel
        self._channel.post(first.setup)
        self._updates = first.nodes
        try:
            with self._life:
                await self._talk(worker, self._channel, first)
                self._end_within(self.parting_seconds)  # a worker whose channel has ended leaves by itself
                await worker.wait()
        finally:
            worker.kill()
            with trio.CancelScope(shield=True):  # short: SIGKILL cannot be refused
                self.code = await worker.wait()
            self._leave_unanswered()

    async def _talk(self, worker: Launched, channel: Channel, first: FirstMessages) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            start(nursery, Task.TELLING, partial(self._send_nodes, first), worker=self.number)
            nursery.start_soon(self.send_all, first.more)
            try:
                await channel.run(self._receive)
            except BadMessage as exc:
                emit(_log, "channel-fault", level=logging.ERROR, worker=self.number, reason=str(exc))
                worker.kill()
            nursery.cancel_scope.cancel()

    async def _watch(self) -> None:
        while self._silent_turns < SILENCE_TURNS:
            # Counted in turns and not by the clock; see the module.
            self._silent_turns += 1
            self.post(Ask(NOBODY, ReportCounts()))
            await trio.sleep(SILENCE_SECONDS / SILENCE_TURNS)
        self.hung = True
        emit(_log, "worker-hung", level=logging.ERROR, worker=self.number, pid=self.pid, seconds=SILENCE_SECONDS)
        self._life.cancel()

    def leave(self) -> None:
        """Let it move its clients and end: another one has taken over."""
        if self.state is LinkState.UP:
            self.state = LinkState.LEAVING
            self.post(Leave())
            self._end_within(self.parting_seconds)

    def _end_within(self, seconds: float) -> None:
        self._life.deadline = min(self._life.deadline, trio.current_time() + seconds)

    # --- what it is told, and says

    def post(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.post(message)

    async def send_all(self, messages: Iterable[Message]) -> None:
        """Send messages one at a time: all of them may be more than the channel holds."""
        for message in messages:
            self.post(message)
            if self._channel is not None:
                await self._channel.flush()

    async def _send_nodes(self, first: FirstMessages) -> None:
        await self.send_all(first.before)
        while True:
            await self.send_all(first.nodes.batch())
            self._nodes_sent.unpark_all()
            await trio.sleep(NODES_SECONDS)
            await self._news_of_nodes.wait()
            self._news_of_nodes = trio.Event()

    def node_changed(self, name: str) -> None:
        """Have it told of that node again, soon."""
        if self._updates is not None:
            self._updates.changed(name)
            self._news_of_nodes.set()

    def rebalance_changed(self) -> None:
        """Have it told of the rebalance that is running."""
        self._news_of_nodes.set()

    async def _until_it_knows_the_nodes(self) -> None:
        while self._updates is not None and not self._updates.up_to_date and not self.gone:
            await self._nodes_sent.park()

    def _receive(self, message: Message) -> None:
        name = type(message).__name__
        self.overdue_since = None
        with isolated(Task.MESSAGE, (BadMessage,), worker=self.number, message=name):
            self._note(message)
            self._listener.on_message(self, message)

    def _note(self, message: Message) -> None:
        match message:
            case Hello(version):
                if version != VERSION or self.state is not LinkState.STARTING:
                    raise BadMessage(f"a worker of version {version}, in state {self.state}")
                self.state = LinkState.UP
                self.greeted = True
            case WorkerReport(counts):
                # A report has only the nodes whose counts have changed; the others stay as they were.
                nodes = self.counts.nodes if self.counts.nodes is not None else {}
                nodes.update(counts.nodes or {})
                self.counts = msgspec.structs.replace(counts, nodes=nodes)
            # Kept only for a worker that can be killed: its sessions' ends have to be logged from here.
            case SessionsChanged(present, over) if self._keeps_present:
                now = trio.current_time()
                self.present.update((each.session, (each, now)) for each in present)
                for session in over:
                    self.present.pop(session, None)
            case Want():
                self.want = message
            case AnswerPart():
                self._note_answer(message)
            case News(SessionResumable(stream_management_id) as news):
                self.at_stake.pop(stream_management_id, None)
                if news.lost is not None:
                    self.at_stake[stream_management_id] = news.lost
            case Gone(stream_management_id):
                self.at_stake.pop(stream_management_id, None)
            case Stopped(cut):
                self.state = LinkState.STOPPING
                self.cut = cut
            case _:
                pass
        # Before the greeting a worker that talks but never serves would live for ever.
        if self.greeted:
            self._silent_turns = 0

    async def carry(self, request: Request[R]) -> None:
        """Ask, and wait for the answer, which lacks what did not come in time: of a long one, each part has its own.
        While an answer is overdue already, only actions are asked for at all."""
        overdue = self.overdue_since is not None and not request.question.is_action
        if self.gone or self.state is LinkState.STARTING or overdue:
            await trio.lowlevel.checkpoint()
        else:
            await self._wait_for_answer(request)
        self._last_replies.fill_in(request)

    async def _wait_for_answer(self, request: Request[R]) -> None:
        self._last_request += 1
        number = self._last_request
        self._requests[number] = cast("Request[WorkerReply]", request)
        try:
            with request.limit:
                request.heard()
                await self._until_it_knows_the_nodes()  # the question may be about a node that is new
                self.post(Ask(number, request.question))
                await request.answered.wait()
        finally:
            self._requests.pop(number, None)
        # The first overdue question counts: later ones say nothing of how long it has been silent.
        if request.limit.cancelled_caught and self.overdue_since is None:
            self.overdue_since = request.heard_at

    def _note_answer(self, part: AnswerPart) -> None:
        request = self._requests.get(part.request)
        if request is not None:
            request.heard()
            if part.reply is not None:
                request.include(part.reply)
            request.error = request.error or part.error
            if part.last:
                request.answered.set()

    def _leave_unanswered(self) -> None:
        # Nobody will answer them any more; those that wait go on with what has come.
        for request in self._requests.values():
            request.answered.set()
        self._requests.clear()
        self._nodes_sent.unpark_all()

    # --- pace

    @property
    def tokens_kept(self) -> int:
        """Return how many of its tokens it has neither used nor put back."""
        return self.granted - self.want.used

    @property
    def wanted(self) -> tuple[int, int, int, int]:
        """Return the tokens that it still needs: for sessions whose node is gone, for those in a hurry as well, for
        those that have to go as well, and for all."""
        want, under_way = self.want, self.tokens_kept
        have_to_go = want.lost + want.leaving
        needs = (want.lost, want.lost + want.hurried, have_to_go, have_to_go + want.misplaced)
        lost, hurried, going, all_of_them = (max(0, need - under_way) for need in needs)
        return lost, hurried, going, all_of_them
