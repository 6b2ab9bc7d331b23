"""How a session is put together: parts that own their fields, and no inheritance."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import cxfr_proxy.session

FILES: Final = sorted(Path(cxfr_proxy.session.__file__).parent.glob("*.py"))
VALUES: Final = {"verdict"}
"""The verdict on an element is passed from hand to hand while it is decided; it is no part of a session."""


def written(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Each ``something.field`` that is written to, unless ``something`` is ``self``."""
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    for attribute in attributes:
        if not isinstance(attribute.ctx, ast.Load) and ast.unparse(attribute.value) not in {"self", *VALUES}:
            yield attribute


def declared(tree: ast.AST) -> set[str]:
    """The fields of the dataclasses in that file."""
    return {
        field.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_field_is_written_in_its_owners_file_alone(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert [ast.unparse(target) for target in written(tree) if target.attr not in declared(tree)] == []


BASES: Final = {"Enum", "IntEnum", "StrEnum", "Protocol", "Struct"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_is_inherited(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert {ast.unparse(base) for base in node.bases} <= BASES, node.name


FLAGS: Final = {
    "ClientLeg.knows_cxfr": "is learned of a client in whatever state it is; unknown is a third value",
    "ClientLeg.wanted": "follows from a state, and is asked at every turn",
    "ClientLeg.writable": "likewise",
    "NodeLeg.wanted": "likewise",
    "NodeLeg.writable": "likewise",
    "Opening.header_may_repeat": "some clients send their first header twice",
    "Replay.trusted": "a node may count otherwise, whatever else is under way",
    "StandIn.late": "a client may ask late whether or not the node has answered, and for one of two things",
    "TransferAttempt.recalled": "an order may be taken back at any point of its rung",
    "Turn.odd": "a client that has done something else stays suspicious, whoever owes an answer",
    "Turn._asked": "a login may come before the greeting, which is owed first",
    "Turn._challenged": "with nothing owed, it is the client's turn to respond or to begin",
}
"""Fields that are true or false and change: all that is not in the tables of states, and why it is independent of them.
A fact that never changes, such as that the client is on TLS, is no flag."""


def flags(owner: ast.ClassDef) -> set[str]:
    """The fields of a class that its methods set to true or false, or to what they are given of that kind."""
    return {
        f"{owner.name}.{target.attr}"
        for method in owner.body
        if isinstance(method, ast.FunctionDef)
        for node in ast.walk(method)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and is_truth_value(node.value, given(method))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
    }


def given(method: ast.FunctionDef) -> set[str]:
    """The arguments that are true or false. What a constructor is given need not ever change."""
    if method.name == "__init__":
        return set()
    arguments = (*method.args.args, *method.args.kwonlyargs)
    return {each.arg for each in arguments if each.annotation is not None and "bool" in ast.unparse(each.annotation)}


def is_truth_value(node: ast.expr | None, arguments: set[str]) -> bool:
    match node:
        case ast.Constant(value=bool()) | ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Name(id=name):
            return name in arguments
        case ast.BoolOp(values=values):
            return all(is_truth_value(each, arguments) for each in values)
        case _:
            return False


def test_flags_beside_the_tables_are_few_and_have_a_reason() -> None:
    classes = (node for path in FILES for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    assert {flag for node in classes if isinstance(node, ast.ClassDef) for flag in flags(node)} == FLAGS.keys()
