"""The shape of the package, read from its sources: which way imports run, where IO is, how long files are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import cxfr_proxy
from cxfr_proxy.config.table import SETTINGS

PACKAGE: Final = Path(cxfr_proxy.__file__).parent
SOURCES: Final = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

ORDER: Final = (
    (
        "bounded",
        "errors",
        "events",
        "files",
        "log_hooks",
        "log_sums",
        "log_writer",
        "signals",
        "spellings",
        "tasks",
        "units",
    ),
    ("xmpp", "cluster"),
    ("plugins",),
    ("config",),
    ("session", "net"),
    ("transfers",),
    ("upstream",),
    ("relay", "admin"),
    ("process",),
    ("demo",),
    ("cli", "cli_tables", "__main__"),
)
"""Rooms from the bottom up; each may import its own row and those before it."""
STRANGERS: Final = ({"xmpp", "cluster"}, {"session", "net"}, {"relay", "admin"})
"""Of one row, and still none knows the other."""

PLUGINS_MAY_IMPORT: Final = {"errors", "xmpp", "plugins"}
"""The plugins run in other people's programs, so they take little along; and the proxy is none of those programs."""

WITHOUT_IO: Final = ("xmpp", "cluster", "session", "transfers")
WITH_IO: Final = (
    "cxfr_proxy.cluster.sources",
    "cxfr_proxy.transfers.drains",
    "cxfr_proxy.transfers.mover",
    "cxfr_proxy.transfers.planner",
    "cxfr_proxy.transfers.rebalances",
)
"""The exceptions inside them."""
IO: Final = frozenset(
    ("trio", "socket", "ssl", "time", "random", "logging", "os", "pathlib", "asyncio", "cxfr_proxy.events")
)

MAX_LINES: Final = 600


def room_of(module: str) -> str:
    """``xmpp`` for ``cxfr_proxy.xmpp.framing.lane``; empty for the package itself, which only has the version."""
    return module.partition(".")[2].partition(".")[0]


def imports(module: str) -> Iterator[str]:
    """Every module that is imported, anywhere in the file."""
    is_package = SOURCES[module].name == "__init__.py"
    for node in ast.walk(ast.parse(SOURCES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            start = ".".join(parts[: len(parts) - node.level + is_package]) + "." if node.level else ""
            base = f"{start}{node.module or ''}".rstrip(".")
            # "from package import module" imports the module; "from module import name" does not.
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in SOURCES else base


def imported_rooms(module: str) -> set[str]:
    own = {name for name in imports(module) if name.split(".")[0] == "cxfr_proxy"}
    return {room_of(name) for name in own} - {""}


ROW: Final = {room: row for row, rooms in enumerate(ORDER) for room in rooms}


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in SOURCES} - {""} == set(ROW)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_one_way(module: str) -> None:
    room = room_of(module)
    back = {other for other in imported_rooms(module) if room and ROW[other] > ROW[room]}
    assert not back, f"{module} imports what stands above it"


@pytest.mark.parametrize("module", SOURCES)
def test_strangers_stay_strangers(module: str) -> None:
    for rooms in STRANGERS:
        if room_of(module) in rooms:
            assert not imported_rooms(module) & (rooms - {room_of(module)})


@pytest.mark.parametrize("module", SOURCES)
def test_plugins_stand_apart(module: str) -> None:
    if room_of(module) == "plugins":
        assert imported_rooms(module) <= PLUGINS_MAY_IMPORT
    else:
        assert "plugins" not in imported_rooms(module)


def io_of(module: str) -> set[str]:
    return {name for name in imports(module) if name in IO or name.split(".")[0] in IO}


@pytest.mark.parametrize("module", SOURCES)
def test_no_io_where_there_is_none(module: str) -> None:
    if room_of(module) in WITHOUT_IO and not module.startswith(WITH_IO):
        assert not io_of(module)


@pytest.mark.parametrize("exception", WITH_IO)
def test_exceptions_are_needed(exception: str) -> None:
    assert any(io_of(module) for module in SOURCES if module.startswith(exception))


@pytest.mark.parametrize("module", SOURCES)
def test_files_are_short(module: str) -> None:
    lines = SOURCES[module].read_text("utf-8").count("\n")
    assert lines <= MAX_LINES


def test_every_setting_is_documented() -> None:
    page = (PACKAGE.parent / "docs" / "configuration.md").read_text("utf-8")
    assert [each.name for each in SETTINGS if f"`{each.name}`" not in page] == []
