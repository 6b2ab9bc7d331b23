"""The API: what the table of commands has, as paths.

``show nodes`` is ``GET /api/v1/show/nodes``, and its filters are the query. ``drain`` is ``POST /api/v1/drain``, and
its arguments are an object of JSON. Names, values and what is said of wrong ones are those of the table, as on the
command line and the control socket. An order takes POST, and a look takes GET.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import trio

from cxfr_proxy import __version__
from cxfr_proxy.admin.commands.audit import AuditedOrder, OrderOutcome
from cxfr_proxy.admin.commands.table import COMMANDS, Command, execute
from cxfr_proxy.admin.http.access import Access, Admitted
from cxfr_proxy.admin.http.exchange import (
    EVENT_STREAM,
    JSON,
    EventStream,
    HttpAnswer,
    HttpProblem,
    PageRequest,
    json_answer,
)
from cxfr_proxy.admin.http.given import api_arguments, given_by_body, given_by_query
from cxfr_proxy.admin.http.live import LiveView
from cxfr_proxy.admin.http.openapi import description
from cxfr_proxy.admin.http.pages import READING
from cxfr_proxy.admin.http.paths import BASE, BY_PATH, EVENTS, OPENAPI, path_of
from cxfr_proxy.admin.http.refusals import refusal
from cxfr_proxy.admin.http.streams import FeedStream, OpenStreams, OrderStream
from cxfr_proxy.admin.rows.answers import CommandAnswer, Note, ReloadFaults
from cxfr_proxy.admin.rows.codec import json_pieces
from cxfr_proxy.admin.rows.order_rows import Progress
from cxfr_proxy.errors import ConfigError

if TYPE_CHECKING:
    from cxfr_proxy.admin.console.console import Console

LOOK_SECONDS: Final = 10.0
"""For the answer to a question: no worker is waited for longer than two seconds."""
ORDER_SECONDS: Final = 30.0
"""For the answer to an order."""


class HttpApi:
    """Answers requests below :data:`BASE`. ``console`` is what is asked, and given orders."""

    def __init__(self, console: Console, access: Access, live: LiveView) -> None:
        self._console = console
        self._access = access
        self._live = live
        self._streams = OpenStreams()

    @property
    def is_on(self) -> bool:
        """Whether somebody could use it."""
        return self._access.is_on

    async def answer(self, request: PageRequest) -> HttpAnswer | EventStream:
        """Return the answer to a request; to HEAD the same as to GET."""
        try:
            return await self._answer(request, self._access.admit(request))
        except HttpProblem as exc:
            return exc.as_answer()

    async def _answer(self, request: PageRequest, admission: Admitted) -> HttpAnswer | EventStream:
        path = request.path.removesuffix("/")
        if path == BASE:
            _check_method(request, READING)
            return json_answer(_overview(admission))
        if path == EVENTS:
            _check_method(request, ("GET",))
            self._streams.check_room(admission.caller)
            seen = self._live.number_of(request.header("last-event-id"))
            return FeedStream(self._live, seen, self._access, admission, self._streams)
        if path == OPENAPI:
            _check_method(request, READING)
            return json_answer(description())
        command = BY_PATH.get(path)
        if command is None:
            raise HttpProblem(HTTPStatus.NOT_FOUND, f"there is no such command (GET {BASE} lists all there are)")
        _check_method(request, ("POST",) if command.mutates else READING)
        if command.mutates:
            return await self._order(request, admission, command)
        return await self._look(request, admission, command)

    async def _look(self, request: PageRequest, admission: Admitted, command: Command) -> HttpAnswer:
        admission.check_role(command.role)
        given = given_by_query(command, request.query)
        return await self._carry_out(admission, command, given, seconds=LOOK_SECONDS)

    async def _order(self, request: PageRequest, admission: Admitted, command: Command) -> HttpAnswer | EventStream:
        try:
            admission.check_role(command.role)
        except HttpProblem:
            AuditedOrder(admission.caller, command.name, {}).ended(OrderOutcome.DENIED)
            raise
        given = await given_by_body(command, request)
        self._access.check_token(admission)  # a body may take its time
        if command.is_waited_for(given) and request.accepts(EVENT_STREAM):
            self._streams.check_room(admission.caller)
            return OrderStream(self._console, self._access, admission, command, given, self._streams)
        return await self._carry_out(admission, command, given, seconds=ORDER_SECONDS)

    async def _carry_out(
        self, admission: Admitted, command: Command, given: Mapping[str, object], *, seconds: float
    ) -> HttpAnswer:
        notes: list[str] = []
        answer: CommandAnswer | None = None
        first: Progress | None = None

        async def report(row: Progress | Note) -> None:
            nonlocal first
            if isinstance(row, Note):
                notes.append(row.note)
            elif not row.finished:
                first = row
                waiting.cancel()  # what has begun goes on
                await trio.lowlevel.checkpoint()

        with trio.move_on_after(seconds) as waiting:
            try:
                name, arguments = command.request(given)
                answer = await execute(self._console, admission.caller, name, arguments, report)
            except ConfigError as exc:
                raise refusal(command, exc, tuple(notes)) from exc
        if answer is None and first is None:
            unknown = "; whether it was carried out is not known" if command.mutates else ""
            raise HttpProblem(HTTPStatus.GATEWAY_TIMEOUT, f"no answer within {seconds:g} s{unknown}")
        if isinstance(answer, ReloadFaults):
            raise HttpProblem(HTTPStatus.CONFLICT, "\n".join(answer.faults), notes=tuple(notes))
        status = HTTPStatus.OK if answer is not None else HTTPStatus.ACCEPTED
        return await _result(answer if answer is not None else first, notes, status)


async def _result(answer: object, notes: Sequence[str], status: HTTPStatus) -> HttpAnswer:
    body = bytearray(b'{"result": ')
    for piece in json_pieces(answer):
        body += piece
        await trio.lowlevel.checkpoint()
    body += b', "notes": '
    for piece in json_pieces(list(notes)):
        body += piece
    body += b"}\n"
    return HttpAnswer(status, bytes(body), JSON)


def _check_method(request: PageRequest, allowed: Sequence[str]) -> None:
    if request.method not in allowed:
        names = ", ".join(allowed)
        raise HttpProblem(HTTPStatus.METHOD_NOT_ALLOWED, f"expected {' or '.join(allowed)}", ("Allow", names))


@dataclass(frozen=True, slots=True)
class _Overview:
    """The answer to ``GET /api/v1``."""

    version: str
    name: str
    role: str
    events: str
    openapi: str
    commands: Sequence[Mapping[str, object]]


def _overview(admission: Admitted) -> _Overview:
    caller = admission.caller
    return _Overview(
        __version__, caller.name, str(caller.role), EVENTS, OPENAPI, [_listed(each, admission) for each in COMMANDS]
    )


def _listed(command: Command, admission: Admitted) -> Mapping[str, object]:
    return {
        "command": command.name,
        "method": "POST" if command.mutates else "GET",
        "path": path_of(command),
        "role": str(command.role),
        "allowed": admission.caller.role.may(command.role),
        "help": command.help,
        "arguments": [
            {
                "name": each.name,
                "help": each.help,
                "required": each.is_required,
                "many": each.many,
                "switch": each.value_type is None,
            }
            for each in api_arguments(command)
        ],
    }
