"""The operator's mistakes, as statuses of HTTP."""

from __future__ import annotations

from http import HTTPStatus

from cxfr_proxy.admin.commands.arguments import BadArguments
from cxfr_proxy.admin.commands.table import Command
from cxfr_proxy.admin.http.exchange import HttpProblem
from cxfr_proxy.errors import ConfigError, NoSuchSession


def refusal(command: Command, exc: ConfigError, notes: tuple[str, ...]) -> HttpProblem:
    """Return the answer to a command that was refused. ``notes`` say which workers had no part in that."""
    if isinstance(exc, BadArguments):
        status = HTTPStatus.BAD_REQUEST
    elif isinstance(exc, NoSuchSession):  # a worker that owes an answer may have it
        status = HTTPStatus.GATEWAY_TIMEOUT if notes else HTTPStatus.NOT_FOUND
    else:
        status = HTTPStatus.CONFLICT if command.mutates else HTTPStatus.NOT_FOUND
    return HttpProblem(status, str(exc), notes=notes)
