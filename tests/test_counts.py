"""Counts in what people read: ``1 node`` and ``2 nodes``, wherever a count can be 1."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import cxfr_proxy
from cxfr_proxy.units import agreeing, counted, part_of

PACKAGE: Final = Path(cxfr_proxy.__file__).parent
SOURCES: Final = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
COUNTED: Final = re.compile(r"\b(?:counted|part_of)\([^\n]*?, ['\"](?:[a-z]+ )*([a-z]+)['\"]")
"""What is counted by the helpers: its last word is one that must not stand behind a count by itself."""
NOUNS: Final = frozenset(noun for text in SOURCES.values() for noun in COUNTED.findall(text))
ALWAYS_MANY: Final = re.compile(r"_?[A-Z][A-Z_0-9]*|(self\.)?_?max_\w+|limit|minimum|most|_max_bytes")
"""Limits: they are never 1."""


def uncounted(text: str) -> Iterator[str]:
    """Each count that is said with a plural, whatever it is."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            for value, behind in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(behind, ast.Constant):
                    yield from _plurals(ast.unparse(value.value), behind.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for field, behind in re.findall(r"\{([a-z_.]+)\}( [^{]*)", node.value):
                yield from _plurals(field, behind)


def _plurals(count: str, behind: object) -> Iterator[str]:
    found = re.match(r" (?:(?:more|other|further|different) )?([a-z]+)s\b", str(behind))
    if found and found[1] in NOUNS and not ALWAYS_MANY.fullmatch(count):
        yield f"{{{count}}}{behind}"


@pytest.mark.parametrize("source", SOURCES)
def test_every_count_goes_with_its_noun(source: str) -> None:
    assert not [*uncounted(SOURCES[source])], "say it by cxfr_proxy.units.counted"


def test_that_would_be_found() -> None:
    assert {"node", "session", "client", "move", "second", "worker"} <= NOUNS
    bad = 'a = f"{len(x)} nodes ({y})"; b = "is drained: {sessions} sessions left"; c = f"{n} other nodes"'
    good = 'a = f"{node} takes clients"; b = f"at most {MAX_NODES} nodes"; c = f"{counted(n, name)} left"'
    assert {*uncounted(bad)} == {"{len(x)} nodes (", "{n} other nodes", "{sessions} sessions left"}
    assert not [*uncounted(good)]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions"), (1_234_567, "1234567 sessions"), (1.0, "1 session")],
)
def test_a_count(count: float, text: str) -> None:
    assert counted(count, "session") == text


def test_what_goes_with_a_count() -> None:
    assert counted(2.5, "second") == "2.5 seconds"
    assert (counted(1, "entry", "entries"), counted(2, "entry", "entries")) == ("1 entry", "2 entries")
    assert (agreeing(1, "is", "are"), agreeing(0, "is", "are")) == ("is", "are")
    assert part_of(1, 40, "session") == "1 of 40 sessions is"
    assert part_of(3, 40, "session") == "3 of 40 sessions are"
    assert part_of(1, 1, "session") == "1 of 1 session is"
