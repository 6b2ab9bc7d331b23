"""Ask the proxy whose place this one has taken whatever is asked of all workers.

Until it has moved its clients, an operator sees one proxy: a client is found, kicked or moved wherever its session is.
So the old one is one more answerer beside the workers. Its workers' replies come as they are, part by part, and nothing
between knows the question.
"""

from __future__ import annotations

import os
from typing import Final, TypeVar

import msgspec
import trio

from cxfr_proxy.ipc.channel import StreamChannel
from cxfr_proxy.ipc.codec import decode_reply, encode_part
from cxfr_proxy.ipc.messages import BadMessage
from cxfr_proxy.ipc.questions import WorkerQuestion, WorkerReply
from cxfr_proxy.supervisor.upgrading.handover import (
    HandoverMessage,
    PredecessorAnswered,
    PredecessorAsked,
    PredecessorReply,
)
from cxfr_proxy.supervisor.workers.link import LastReplies, Request

_WAY_SECONDS: Final = 1.0
"""Seconds beyond those of a worker: the old one says what its workers have said by then."""
_MOST_UNSENT_BYTES: Final = 64 << 20
"""Replies that come while so much waits for the new one are left out, and it is told so."""

R = TypeVar("R", bound=WorkerReply)


# --- in the old one


class RelayedRequest(Request[R]):
    """A question of the new one to one worker; the parts of the answer go on as they come, in place of being kept."""

    def __init__(self, question: WorkerQuestion[R], number: int, channel: StreamChannel[HandoverMessage]) -> None:
        super().__init__(question)
        self._number = number
        self._channel = channel
        self.cut = False
        """Parts were left out."""

    def include(self, part: R) -> None:
        if self.question.last_will_do:
            super().include(part)  # which reply it is to be is known at the end
        else:
            self._pass_on(part)

    def end(self) -> None:
        """Note that the worker will say nothing more."""
        if self.question.last_will_do:
            self._pass_on(self.reply)

    def _pass_on(self, reply: R) -> None:
        if self._channel.unsent_bytes > _MOST_UNSENT_BYTES:
            self.cut = True
        else:
            self._channel.post(PredecessorReply(self._number, encode_part(reply)))


def only_in_part() -> str:
    """Say that this process has left out something."""
    return f"process {os.getpid()} had more to say than could be taken: some of it is missing here"


# --- in the new one


class PredecessorQuestions:
    """The old one, process ``pid``, as an :class:`~cxfr_proxy.supervisor.workers.link.Answerer`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._channel: StreamChannel[HandoverMessage] | None = None
        self._requests: dict[int, Request[WorkerReply]] = {}
        self._last_request = 0
        self._last_replies = LastReplies()
        self._overdue_since: float | None = None
        self._omissions: tuple[str, ...] = ()

    def begin(self, channel: StreamChannel[HandoverMessage]) -> None:
        """Ask by that channel from now on."""
        self._channel = channel

    def end(self) -> None:
        """Ask no more: it has ended. Those that wait go on with what has come."""
        self._channel, self._overdue_since, self._omissions = None, None, ()
        for request in self._requests.values():
            request.answered.set()

    async def carry(self, request: Request[R]) -> None:
        overdue = self._overdue_since is not None and not request.question.is_action
        if self._channel is None or overdue:
            await trio.lowlevel.checkpoint()
        else:
            await self._wait_for_answer(self._channel, request)
        if self._channel is not None:  # else its last reply is of clients that are gone
            self._last_replies.fill_in(request)

    async def _wait_for_answer(self, channel: StreamChannel[HandoverMessage], request: Request[R]) -> None:
        self._last_request += 1
        number = self._last_request
        self._requests[number] = request  # type: ignore[assignment]  # its reply is of the kind that is asked for
        request.seconds += _WAY_SECONDS
        try:
            with request.limit:
                request.heard()
                channel.post(PredecessorAsked(number, encode_part(request.question)))
                await request.answered.wait()
        finally:
            del self._requests[number]
        if request.limit.cancelled_caught and self._overdue_since is None:
            self._overdue_since = request.heard_at

    def omissions(self) -> list[str]:
        """Return what is missing from the answers that were given last, a sentence each."""
        if self._overdue_since is None:
            return list(self._omissions)
        seconds = trio.current_time() - self._overdue_since
        return [
            f"process {self._pid}, which still moves its clients, has not answered for {seconds:.0f} s: what it has is "
            "missing here"
        ]

    # --- what it says

    def note(self, message: PredecessorReply | PredecessorAnswered) -> None:
        """Note a part of an answer, or its end. Raises :class:`BadMessage` for a reply that can't be read."""
        self._overdue_since = None
        request = self._requests.get(message.request)
        if isinstance(message, PredecessorAnswered):
            self._omissions = message.omissions
            if request is not None:
                request.answered.set()
        elif request is not None:
            request.heard()
            reply = decode_reply(message.reply)
            if not isinstance(reply, request.question.reply):
                raise BadMessage(f"a {type(reply).__name__} where a {request.question.reply.__name__} was asked for")
            try:
                request.include(reply)
            except (ValueError, msgspec.MsgspecError) as exc:
                raise BadMessage(str(exc)) from exc
