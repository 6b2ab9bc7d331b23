"""The API described for programs: all that there is, and nothing else; and answers are as it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fake_site import FakeSite, json_of

from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.commands.table import COMMANDS, Command
from cxfr_proxy.admin.http.openapi import description
from cxfr_proxy.admin.http.paths import BASE, EVENTS, OPENAPI, path_of
from cxfr_proxy.admin.http.topics import TOPICS

DOCUMENT: dict[str, Any] = json.loads(json.dumps(description()))
COMMAND_IDS = [command.name for command in COMMANDS]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def nested(value: object) -> Iterator[dict[str, Any]]:
    """All objects in it."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nested(each)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def fits(value: object, schema: dict[str, Any]) -> bool:
    """Whether a value is as the schema says, of which only those words are known that are used here."""
    schema = resolved(schema)
    assert not schema.keys() - KNOWN, schema.keys() - KNOWN
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    types = schema.get("type", list(TYPES))
    if not any(isinstance(value, TYPES[each]) for each in ([types] if isinstance(types, str) else types)):
        return False
    if isinstance(value, list):
        return all(fits(each, schema.get("items", {})) for each in value)
    if isinstance(value, dict):
        named = schema.get("properties", {})
        return set(schema.get("required", ())) <= value.keys() and all(
            fits(each, named[name]) for name, each in value.items() if name in named
        )
    return True


TYPES: dict[str, Any] = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": (int, float),
    "object": dict,
    "string": str,
}
KNOWN = {"anyOf", "const", "default", "description", "discriminator", "enum", "items", "properties", "required"} | {
    "title",
    "type",
}


def test_every_reference_leads_somewhere() -> None:
    references = {each["$ref"] for each in nested(DOCUMENT) if "$ref" in each}
    assert references == {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    mapped = [each["mapping"] for each in nested(DOCUMENT) if "mapping" in each]
    assert mapped
    assert {reference for mapping in mapped for reference in mapping.values()} <= references


def test_its_shape() -> None:
    """What OpenAPI 3.1 asks of a document, as far as it is used."""
    assert DOCUMENT["openapi"] == "3.1.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    for path, method, operation in operations():
        assert path.startswith("/")
        assert method in ("get", "post")
        assert operation["responses"]
        for status, response in operation["responses"].items():
            assert re.fullmatch("[2-5][0-9][0-9]", status)
            assert response["description"]
        for parameter in operation.get("parameters", ()):
            assert {"name", "in", "schema"} <= parameter.keys()
        assert all(role in list(Role) for role in [operation["x-role"]])
        assert ("requestBody" in operation) == (method == "post")


def test_it_has_all_commands_and_nothing_else() -> None:
    own = {(BASE, "get"), (EVENTS, "get"), (OPENAPI, "get")}
    commands = {(path_of(command), "post" if command.mutates else "get") for command in COMMANDS}
    assert {(path, method) for path, method, _ in operations()} == own | commands
    watched = DOCUMENT["paths"][EVENTS]["get"]
    assert watched["x-topics"].keys() == TOPICS.keys()
    assert all(name in watched["description"] for name in TOPICS)


@pytest.mark.parametrize("command", COMMANDS, ids=COMMAND_IDS)
def test_arguments_are_those_of_the_table(command: Command) -> None:
    arguments = {each.name: each for each in command.arguments if not (each.stays or each.local)}
    if command.mutates:
        schema = DOCUMENT["paths"][path_of(command)]["post"]["requestBody"]["content"]["application/json"]["schema"]
        named, required = schema["properties"], set(schema["required"])
        assert schema["additionalProperties"] is False
    else:
        parameters = DOCUMENT["paths"][path_of(command)]["get"]["parameters"]
        named = {each["name"]: each["schema"] for each in parameters}
        required = {each["name"] for each in parameters if each["required"]}
    assert named.keys() == arguments.keys()
    assert required == {name for name, each in arguments.items() if each.is_required}
    assert all((named[name]["type"] == "boolean") == (each.value_type is None) for name, each in arguments.items())


async def test_answers_are_as_it_says() -> None:
    site = FakeSite()
    assert json_of(await site.answer(OPENAPI, role_="view")) == DOCUMENT
    for path, method, operation in operations():
        if method != "get" or path in (BASE, EVENTS, OPENAPI):
            continue
        query = "?id=1" if path.endswith("/session") else ""
        answer = await site.answer(path + query, role_="view")
        content = operation["responses"][str(answer.status.value)]["content"]
        assert fits(json_of(answer), content[answer.content_type]["schema"]), path
    content = DOCUMENT["paths"][f"{BASE}/drain"]["post"]["responses"]
    for given in (
        {"node": "node1"},
        {"node": "node1", "plan": True},
        {"node": "node1", "wait": True},
        {},
        {"node": "x"},
    ):
        answer = await site.order(f"{BASE}/drain", given)
        schema = content[str(answer.status.value)]["content"][answer.content_type]["schema"]
        assert fits(json_of(answer), schema), given
    assert not fits(
        {"result": {"kind": "weather"}, "notes": []}, content["200"]["content"]["application/json"]["schema"]
    )
