"""Answers that go on as server-sent events: the live view, and orders whose end is waited for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import trio

from cxfr_proxy import __version__
from cxfr_proxy.admin.commands.callers import Caller
from cxfr_proxy.admin.commands.table import Command, execute
from cxfr_proxy.admin.http.access import Access, Admitted
from cxfr_proxy.admin.http.exchange import EventSink, EventStream, HttpProblem
from cxfr_proxy.admin.http.live import LiveView
from cxfr_proxy.admin.http.refusals import refusal
from cxfr_proxy.admin.http.sse import BEGINNING, HEARTBEAT, RETRY_SECONDS, sse_event
from cxfr_proxy.admin.http.topics import TOPICS
from cxfr_proxy.admin.rows.answers import Note
from cxfr_proxy.admin.rows.codec import encode, json_pieces
from cxfr_proxy.admin.rows.order_rows import Progress
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.spellings import address_range
from cxfr_proxy.tasks import Task, isolated

if TYPE_CHECKING:
    from cxfr_proxy.admin.console.console import Console

MAX_STREAMS: Final = 12
"""Each has a connection for as long as it likes; the others are for requests that come and go."""
MAX_OF_ONE_ADDRESS: Final = 8
"""Of those. It may be that of a reverse proxy, behind which everybody is, so it is not few."""
MAX_OF_ONE_TOKEN: Final = 4
"""Of those: a page that somebody has left open in many tabs keeps nobody else out."""
HEARTBEAT_SECONDS: Final = 15.0
"""Of silence: shorter than the patience of every HTTP proxy between here and the client."""


class OpenStreams:
    """Counts the streams that are open."""

    def __init__(self) -> None:
        self._open: list[Caller] = []
        """The caller of each."""

    def check_room(self, caller: Caller) -> None:
        """Raise :class:`HttpProblem` if there is no room for one more of that caller's."""
        origin = _origin(caller)
        with_token = sum(each.name == caller.name for each in self._open)
        from_there = sum(_origin(each) == origin for each in self._open)
        for count, most, whose in (
            (with_token, MAX_OF_ONE_TOKEN, f" with the token of {caller.name}"),
            (from_there, MAX_OF_ONE_ADDRESS, " from this address"),
            (len(self._open), MAX_STREAMS, ""),
        ):
            if count >= most:
                retry = ("Retry-After", f"{RETRY_SECONDS:.0f}")
                raise HttpProblem(HTTPStatus.SERVICE_UNAVAILABLE, f"{most} streams are open already{whose}", retry)

    @contextmanager
    def one_more(self, caller: Caller) -> Iterator[None]:
        """Count one of that caller's for the duration of the block."""
        self._open.append(caller)
        try:
            yield
        finally:
            self._open.remove(caller)


def _origin(caller: Caller) -> str:
    return address_range(caller.address or "")


class FeedStream(EventStream):
    """The live view; ``seen`` is the number of the last event that the client has had, 0 for none.

    It ends when its token lets nobody in any more.
    """

    def __init__(self, live: LiveView, seen: int, access: Access, admission: Admitted, streams: OpenStreams) -> None:
        self._live = live
        self._seen = seen
        self._access = access
        self._admission = admission
        self._streams = streams

    async def send_to(self, sink: EventSink) -> None:
        caller = self._admission.caller
        hello = {
            "version": __version__,
            "life": self._live.life,
            "name": caller.name,
            "role": str(caller.role),
            "topics": list(TOPICS),
        }
        with self._streams.one_more(caller):
            await sink.send(BEGINNING + sse_event("hello", encode(hello)))
            sent_at = trio.current_time()
            async with aclosing(self._live.newer_than(self._seen)) as news:
                async for topics in news:
                    if not self._access.holds(self._admission):
                        return
                    for each in topics:
                        await sink.send(sse_event(each.topic, each.data, self._live.event_id(each.number)))
                        sent_at = trio.current_time()
                    if trio.current_time() >= sent_at + HEARTBEAT_SECONDS:
                        await sink.send(HEARTBEAT)
                        sent_at = trio.current_time()


class OrderStream(EventStream):
    """An order that is carried out while its progress is told; at last its result, or the error.

    It ends when its token lets nobody in any more; what has begun goes on.
    """

    def __init__(
        self,
        console: Console,
        access: Access,
        admission: Admitted,
        command: Command,
        given: Mapping[str, object],
        streams: OpenStreams,
    ) -> None:
        self._console = console
        self._access = access
        self._admission = admission
        self._command = command
        self._given = given
        self._streams = streams

    async def send_to(self, sink: EventSink) -> None:
        notes: list[str] = []

        async def report(row: Progress | Note) -> None:
            if isinstance(row, Note):
                notes.append(row.note)
            else:
                self._access.check_token(self._admission)
            await sink.send(sse_event("note" if isinstance(row, Note) else "progress", encode(row)))

        with self._streams.one_more(self._admission.caller):
            await sink.send(BEGINNING)
            # What is said if none of the lines below says something else: isolated() keeps what it catches.
            problem = HttpProblem(HTTPStatus.INTERNAL_SERVER_ERROR, "the proxy failed to do that; its log says why")
            passing = (ConfigError, HttpProblem, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
            name, arguments = self._command.request(self._given)
            try:
                with isolated(Task.HTTP, passing, command=self._command.name):
                    answer = await execute(self._console, self._admission.caller, name, arguments, report)
                    await sink.send(sse_event("result", b"".join(json_pieces(answer))))
                    return
            except ConfigError as exc:
                problem = refusal(self._command, exc, tuple(notes))
            except HttpProblem as exc:
                problem = exc
            await sink.send(sse_event("error", encode(problem.as_object())))
