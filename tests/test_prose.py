"""The English of docstrings and pages: sentences have their subject first, functions' docstrings begin with a verb."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from test_docs import PACKAGE, PAGES, ROOT, SOURCES, prose

CLAUSE: Final = re.compile(r"(?:Who|Whom|Whose|What|Whoever|Whatever)\b(?! (?:if|about)\b)")
"""The beginning of a clause as a subject, "What is known counts", or of a question."""
SENTENCE: Final = re.compile(r"(?:\A|(?<=[.:!?])\s+|\n\n)[*>\s]*(\S.*?)(?=[.:!?](?:\s|\Z)|\n\n|\Z)([.:!?]?)", re.DOTALL)
NOT_IMPERATIVE: Final = re.compile(r"(?:What|Who|Whose|Whether|Why|Where|When|How|Which|It|They)\b")
"""The first word of a function's docstring that says what it returns, or what has happened, and not what it does."""


def clauses_as_subjects(text: str) -> list[str]:
    """Return the sentences of a text that open with a clause; questions may."""
    return [said for said, end in SENTENCE.findall(text) if end != "?" and CLAUSE.match(said)]


def docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a module, those of attributes included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield "\n".join(line.strip() for line in node.value.value.splitlines())


def is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(each) for each in function.decorator_list)


def running_text(page: Path) -> str:
    """Return a page without listings, headings and tables, which have titles in them and no sentences."""
    lines = [line for line in prose(page).splitlines() if not line.lstrip().startswith(("#", "|"))]
    return re.sub(r"^ *(?:[*-]|\d+\.) +", "\n", "\n".join(lines), flags=re.MULTILINE)


@pytest.mark.parametrize("module", SOURCES)
def test_sentences_of_docstrings_have_their_subject_first(module: str) -> None:
    assert [said for text in docstrings(SOURCES[module]) for said in clauses_as_subjects(text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_of_pages_have_their_subject_first(page: Path) -> None:
    assert clauses_as_subjects(running_text(page)) == []


@pytest.mark.parametrize("module", SOURCES)
def test_docstrings_of_functions_say_what_they_do(module: str) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(SOURCES[module].read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_property(node)
    )
    said = [f"{each.name}: {ast.get_docstring(each) or ''}" for each in functions]
    assert [each for each in said if NOT_IMPERATIVE.match(each.partition(": ")[2])] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is known counts. It stays.", ["What is known counts"]),
        ("It stays. Whose turn it is, the\ntable says.", ["Whose turn it is, the\ntable says"]),
        ("What is a node? It is\n\nWhoever asks.", ["Whoever asks"]),
        ("It says what is known: whatever that is (RFC 6120 section 4.7). Whole elements.", []),
        ("In version 1.3 of it: What counts is new.", ["What counts is new"]),
        ("What if it fails: a note.", []),
    ],
)
def test_a_clause_as_a_subject_is_found(text: str, found: list[str]) -> None:
    assert clauses_as_subjects(text) == found


def test_the_package_is_read() -> None:
    assert sum(1 for _ in docstrings(PACKAGE / "__init__.py")) == 1
