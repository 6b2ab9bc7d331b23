"""The pages: links lead somewhere; every log event, node option and command is documented, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import cxfr_proxy
from cxfr_proxy.admin.commands.table import COMMANDS
from cxfr_proxy.cluster.nodes import OPTIONS
from cxfr_proxy.doctor import reference
from cxfr_proxy.log_latest import SHOWN

PACKAGE: Final = Path(cxfr_proxy.__file__).parent
ROOT: Final = PACKAGE.parent
PAGES: Final = sorted(
    (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("bench/*.md"),
        *ROOT.glob("bench/results/*.md"),
    )
)

LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
WRITTEN_BY_LIBRARIES: Final = {"log", "log-lost"}
"""Events for which there is no call of ``emit``: they are put together in ``events.py``."""
REPORTED: Final = re.compile(r'"((?:drain|rebalance)-[a-z]+)"')
"""Events whose name is a value that somebody else passes on."""


def prose(page: Path) -> str:
    """A page without its listings."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return GitHub's names of the headings of a page."""
    found: dict[str, int] = {}
    names = set()
    for title in re.findall(r"^#{1,6} +(.*?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        name = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def broken_links(page: Path) -> Iterator[str]:
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    assert not list(broken_links(page))


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n[x](#a-b-c) [y](#nothing) [z](gone.md) `[no](link)`\n")
    assert list(broken_links(page)) == ["#nothing: no such heading", "gone.md: no such file"]


def test_the_first_page_is_short() -> None:
    """What it is, try it, deploy it, drain it, and links: the rest has pages of its own."""
    assert (ROOT / "README.md").read_text("utf-8").count("\n") <= 120


def test_the_list_of_contents_has_every_page() -> None:
    contents = (ROOT / "docs" / "README.md").read_text("utf-8")
    listed = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in LINK.findall(contents)}
    missing = {page for page in ROOT.glob("docs/*.md") if page.resolve() not in listed and page.name != "README.md"}
    assert not missing


def emitted_events() -> set[str]:
    """The name of every event that the proxy logs."""
    names = set(WRITTEN_BY_LIBRARIES)
    for path in PACKAGE.rglob("*.py"):
        if "demo" in path.parts:
            continue
        source = path.read_text("utf-8")
        names.update(REPORTED.findall(source))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and len(node.args) > 1 and ast.unparse(node.func).split(".")[-1] == "emit":
                values = (part.value for part in ast.walk(node.args[1]) if isinstance(part, ast.Constant))
                names.update(value for value in values if isinstance(value, str))
    return names


def test_every_log_event_is_documented() -> None:
    rows = re.findall(r"^\|([^|]*)\|", (ROOT / "docs" / "log.md").read_text("utf-8"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
    assert documented == emitted_events()


def test_events_that_are_shown_are_logged() -> None:
    assert emitted_events() >= SHOWN


def test_every_node_option_is_documented() -> None:
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "nodes.md").read_text("utf-8"), re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`([a-z-]+)=", row)]
    assert sorted(documented) == sorted(OPTIONS)


def test_every_finding_of_the_doctor_is_documented() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text("utf-8")
    assert page == reference.put_into(page)


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    rows = " ".join(re.findall(r"^\| (.*?) \|", page, re.MULTILINE))
    missing = [command.name for command in COMMANDS if not re.search(rf"`{command.name}\b", rows)]
    assert not missing


PLACES: Final = re.findall(
    r"^\| [^|]+ \| `([\w/.]+)` \| `(\w+)` \|$",
    (ROOT / "docs" / "architecture.md").read_text("utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_places_that_newcomers_are_sent_to_exist(path: str, name: str) -> None:
    source = (PACKAGE / path).read_text("utf-8")
    assert re.search(rf"^ *(?:class |def |async def |typedef |\}} )?{name}\b", source, re.MULTILINE)


NAMED: Final = re.compile(r"`((?:[a-z_]+/)+[\w.-]*\w\.(?:py|c|md|xsd|js))`")


@pytest.mark.parametrize(
    "page",
    [ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/architecture/*.md"), *ROOT.glob("docs/decisions/*.md")],
    ids=lambda page: page.name,
)
def test_files_that_developers_are_sent_to_exist(page: Path) -> None:
    missing = [name for name in NAMED.findall(prose(page)) if not any((at / name).exists() for at in (PACKAGE, ROOT))]
    assert not missing


def test_places_are_listed() -> None:
    assert len(PLACES) > 20


# --- names in docstrings

SOURCES: Final = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
REFERENCE: Final = re.compile(r":(?:class|mod|func|meth|data|attr):`~?(cxfr_proxy\.[\w.]+|\.[\w.]+)`")


def is_defined(name: str) -> bool:
    """Whether a module has that full name, or the part of it that is no module's is written in the module."""
    module, rest = name, ""
    while module not in SOURCES:
        module, _, last = module.rpartition(".")
        rest = rest or last
        if not module:
            return False
    return not rest or re.search(rf"\b{rest}\b", SOURCES[module].read_text("utf-8")) is not None


@pytest.mark.parametrize("module", SOURCES)
def test_names_in_docstrings_exist(module: str) -> None:
    path = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    references = {
        package + name if name.startswith(".") else name for name in REFERENCE.findall(path.read_text("utf-8"))
    }
    assert not [name for name in references if not is_defined(name)]


def test_decisions_are_numbered_through_and_listed_in_that_order() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(page.name for page in folder.glob("[0-9]*.md"))
    assert [name[:4] for name in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    assert [(folder / name).read_text("utf-8")[2:6] for name in pages] == [name[:4] for name in pages]
    listed = re.findall(r"^\| \[(\d{4})\]\(([^)]+)\)", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    assert listed == [(name[:4], name) for name in pages]
