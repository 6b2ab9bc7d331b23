"""The arguments of a command as they come by HTTP: in a query, or as an object of JSON.

Here they get the form that the control socket has. Whether their values are right, the table of commands says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from cxfr_proxy.admin.commands.arguments import Argument
from cxfr_proxy.admin.commands.table import Command
from cxfr_proxy.admin.http.exchange import JSON, HttpProblem, PageRequest

MAX_BODY_BYTES: Final = 65_536
"""As on the control socket."""
_MAX_FIELDS: Final = 100
_SWITCH: Final = {"true": True, "false": False}


def api_arguments(command: Command) -> Sequence[Argument]:
    """Return the arguments that it takes by HTTP: those that the proxy is told, and that count from afar."""
    return [each for each in command.arguments if not each.stays and not each.local]


def given_by_query(command: Command, query: str) -> Mapping[str, object]:
    """Return the arguments in a query. Raises :class:`HttpProblem`."""
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as exc:  # no UTF-8, or too many
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "expected a query like node=node1&limit=20, in UTF-8") from exc
    known = {each.name: each for each in api_arguments(command)}
    given: dict[str, object] = {}
    for name, text in fields:
        argument = known.get(name)
        value = _SWITCH.get(text, text) if argument is not None and argument.value_type is None else text
        if argument is not None and argument.many:
            earlier = given.setdefault(name, [])
            assert isinstance(earlier, list)
            earlier.append(value)
        elif name in given:
            raise HttpProblem(HTTPStatus.BAD_REQUEST, f"{command.name}: {name!r:.80}: expected it once")
        else:
            given[name] = value
    return given


async def given_by_body(command: Command, request: PageRequest) -> Mapping[str, object]:
    """Return the arguments in a body. Raises :class:`HttpProblem`."""
    if request.query:
        raise HttpProblem(HTTPStatus.BAD_REQUEST, "expected the arguments in the body, found some in the URL")
    body = await request.body.read_body(MAX_BODY_BYTES)
    content_type = request.header("content-type").partition(";")[0].strip().lower()
    if not body and not content_type:
        return {}
    if content_type != JSON:  # what a form of some page can send is not that
        raise HttpProblem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected Content-Type: {JSON}")
    try:
        given: object = json.loads(body, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as exc:
        why = str(exc) if isinstance(exc, _NamedTwiceError) else "expected an object of JSON"
        raise HttpProblem(HTTPStatus.BAD_REQUEST, why) from exc
    if not isinstance(given, dict):
        raise HttpProblem(
            HTTPStatus.BAD_REQUEST, f'expected an object of JSON like {{"node": "node1"}}, found {given!r:.80}'
        )
    for name in given:
        if any(each.name == name for each in command.arguments if each.stays):
            raise HttpProblem(HTTPStatus.BAD_REQUEST, f"{command.name}: {name}: only the command line takes it")
    return given


class _NamedTwiceError(ValueError):
    """A name stands in an object twice, of which programs would read one or the other."""


def _once_each(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NamedTwiceError(f"{twice!r:.80}: expected it once")
    return found
