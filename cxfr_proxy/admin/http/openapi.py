"""The description of the API for programs, in OpenAPI 3.1: drawn from the tables, as the API itself is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, cast

import msgspec

from cxfr_proxy import __version__
from cxfr_proxy.admin.commands.arguments import Argument
from cxfr_proxy.admin.commands.table import COMMANDS, Command
from cxfr_proxy.admin.http.exchange import EVENT_STREAM, JSON, PROBLEM
from cxfr_proxy.admin.http.given import api_arguments
from cxfr_proxy.admin.http.paths import BASE, EVENTS, OPENAPI, path_of
from cxfr_proxy.admin.http.topics import TOPICS
from cxfr_proxy.admin.rows.answers import SingleAnswer

Json = Mapping[str, Any]
"""An object as JSON has it."""

_SCHEMAS: Final = "#/components/schemas/"
_PROBLEM_SCHEMA: Final[Json] = {
    "type": "object",
    "description": "An error, by RFC 9457.",
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence for people."},
        "notes": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["type", "title", "status", "detail"],
}
_REFUSALS: Final[Mapping[str, str]] = {
    "400": "An argument, or the JSON, is wrong.",
    "401": "There is no token, or it is not known.",
    "403": "The token's role does not suffice, or a page of another site has asked.",
    "404": "There is no such session; or a look was for a node that there is not.",
    "421": "The proxy was asked by a name that is not its own.",
    "504": "There was no answer in time; or a session was not found which a worker may have that does not answer.",
}
"""The errors of all commands; those of some are below."""
_OF_ORDERS: Final[Mapping[str, str]] = {
    "408": "The body did not come in time.",
    "409": "The order is refused.",
    "413": "The body is too long.",
    "415": "The body is not JSON.",
}
_OF_STREAMS: Final[Mapping[str, str]] = {"503": "Too many streams are open."}


@cache
def description() -> Json:
    """Return the whole document."""
    rows = [command.view.row for command in COMMANDS if command.view is not None]
    types = [*dict.fromkeys([*rows, *(topic.row for topic in TOPICS.values())]), cast("type", SingleAnswer)]
    refs, schemas = msgspec.json.schema_components(types, ref_template=_SCHEMAS + "{name}")
    by_type = dict(zip(types, refs, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cxfr-proxy",
            "version": __version__,
            "description": "What operators see of the proxy, and the orders that they give it.",
        },
        "security": [{"token": []}],
        "paths": {
            BASE: {"get": _OVERVIEW},
            EVENTS: {"get": _events(by_type)},
            OPENAPI: {"get": _DOCUMENT},
            **{path_of(command): _path(command, by_type) for command in COMMANDS},
        },
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM_SCHEMA},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _path(command: Command, by_type: Mapping[Any, Json]) -> Json:
    operation = {
        "operationId": command.name.replace(" ", "-"),
        "summary": command.help,
        "tags": [str(command.topic)],
        "x-role": str(command.role),
    }
    arguments = api_arguments(command)
    if command.view is not None:
        row = by_type[command.view.row]
        result = row if command.view.is_single else {"type": "array", "items": row}
        parameters = {"parameters": [_parameter(each) for each in arguments]}
        return {"get": {**operation, **parameters, "responses": {"200": _answer(result), **_errors({})}}}
    responses = {"200": _answer(by_type[SingleAnswer]), **_errors(_OF_ORDERS)}
    if command.goes_on is not None:
        # Either way, by what the request accepts.
        responses["200"]["content"][EVENT_STREAM] = _EVENTS_OF_AN_ORDER
        responses["202"] = {**_answer(by_type[SingleAnswer]), "description": "How far it is by now; it goes on."}
        responses |= _errors(_OF_STREAMS)
    return {"post": {**operation, "requestBody": _body(arguments), "responses": responses}}


def _parameter(argument: Argument) -> Json:
    return {
        "name": argument.name,
        "in": "query",
        "description": argument.help,
        "required": argument.is_required,
        "schema": _value(argument, {"type": "string", "minLength": 1}),
    }


def _body(arguments: Sequence[Argument]) -> Json:
    required = [each.name for each in arguments if each.is_required]
    schema = {
        "type": "object",
        "properties": {
            each.name: {**_value(each, {"type": ["string", "number"], "minLength": 1}), "description": each.help}
            for each in arguments
        },
        "required": required,
        "additionalProperties": False,
    }
    return {"required": bool(required), "content": {JSON: {"schema": schema}}}


def _value(argument: Argument, written: Json) -> Json:
    if argument.value_type is None:
        return {"type": "boolean"}
    one = {**written, "title": argument.value_type.expected}
    return {"type": "array", "items": one} if argument.many else one


def _answer(result: Json) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"result": result, "notes": {"type": "array", "items": {"type": "string"}}},
        "required": ["result", "notes"],
    }
    return {"description": "The answer; notes say what is missing from it.", "content": {JSON: {"schema": schema}}}


def _errors(more: Mapping[str, str]) -> dict[str, Json]:
    content = {PROBLEM: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}}
    return {status: {"description": text, "content": content} for status, text in {**_REFUSALS, **more}.items()}


_EVENTS_OF_AN_ORDER: Final[Json] = {
    "schema": {"type": "string", "description": "Events progress and note, and at last result or error."}
}
_OBJECT: Final[Json] = {"description": "All there is.", "content": {JSON: {"schema": {"type": "object"}}}}
_OVERVIEW: Final[Json] = {
    "operationId": "overview",
    "summary": "all commands, and whether the token is good for them",
    "x-role": "view",
    "responses": {"200": _OBJECT, **_errors({})},
}
_DOCUMENT: Final[Json] = {
    "operationId": "openapi",
    "summary": "this document",
    "x-role": "view",
    "responses": {"200": _OBJECT, **_errors({})},
}


def _events(by_type: Mapping[Any, Json]) -> Json:
    topics = "".join(f"\n* `{name}`: {topic.help}" for name, topic in TOPICS.items())
    return {
        "operationId": "events",
        "summary": "the proxy as it is and as it changes, as server-sent events",
        "description": 'Each event is all of a topic, `{"rows": [...]}`, and takes the place of the one before:\n'
        + topics,
        "x-role": "view",
        "x-topics": {name: by_type[topic.row] for name, topic in TOPICS.items()},
        "parameters": [
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "the last event that was seen: only topics that have changed since are sent",
                "schema": {"type": "string"},
            }
        ],
        "responses": {
            "200": {"description": "It has no end.", "content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
            **_errors(_OF_STREAMS),
        },
    }
