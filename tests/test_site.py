"""The pages as a site: its contents are docs/README.md's, and its generator reads pages as GitHub does."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "bench" / "README.md"))
HOOK: Final = ROOT / "packaging" / "site" / "contents.py"
ITEM: Final = re.compile(r"(?:\* |\d+\. )")
FENCE: Final = re.compile(r" *```")


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_contents", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_contents_are_those_of_the_list_of_pages(hook: ModuleType) -> None:
    contents = hook.contents((ROOT / "docs" / "README.md").read_text("utf-8"))
    chapters = {title: entries for each in contents for title, entries in each.items()}
    assert list(chapters) == [
        "cxfr-proxy",
        "All pages",
        "Is it for you?",
        "Set it up",
        "Run it",
        "Watch it",
        "How clients move",
        "For developers",
        "Changes",
    ]
    pages = [page for part in chapters.values() if isinstance(part, list) for each in part for page in each.values()]
    pages += [part for part in chapters.values() if isinstance(part, str)]
    assert [page for page in pages if not (ROOT / page).exists()] == []
    assert {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")} <= set(pages)
    assert len(set(pages)) == len(pages)


def read_otherwise(text: str) -> Iterator[str]:
    """Yield lines that the site's generator reads otherwise than GitHub. Behind an empty line it wants all that belongs
    to an item of a list to be indented by four, and an empty line between that and the next item."""
    fenced, behind_empty, in_item = False, True, False  # in_item: in a block of its own, and not in its first one
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip(" "))
        if FENCE.match(line):
            if not fenced and indent % 4:
                yield line
            fenced = not fenced
        elif not fenced and line:
            if behind_empty and 0 < indent < 4:
                yield line
            if ITEM.match(line) and in_item and not behind_empty:
                yield line
        if line:
            in_item = fenced or (indent >= 4 and (behind_empty or in_item))
        behind_empty = not line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_read_alike(page: Path) -> None:
    wrong = list(read_otherwise(page.read_text("utf-8")))
    assert wrong == [], (
        "in a list, indent what comes behind an empty line by four, and leave a line before the next item"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("* a\n  b\n* c\n\n    d\n\n* e\n", []),
        ("* a\n\n  b\n", ["  b"]),
        ("1. a\n\n    b\n2. c\n", ["2. c"]),
        ("1. a\n\n   ```\n   x\n   ```\n", ["   ```"]),
        ("1. a\n\n    ```\n  x\n\n  y\n    ```\n", []),
    ],
)
def test_what_is_read_otherwise_is_found(text: str, found: list[str]) -> None:
    assert list(read_otherwise(text)) == found
