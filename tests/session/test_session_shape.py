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
