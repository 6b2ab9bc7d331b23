"""The shape of the package, read from its sources.

Which way imports run, and that they run in no circle; where IO is; how long files are and how much a constructor takes;
that a type's name says which type it is, and that every module is on the map of its room.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
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
        "engines",
        "errors",
        "events",
        "file_lock",
        "files",
        "gc_policy",
        "log_hooks",
        "log_latest",
        "log_sums",
        "log_writer",
        "process_figures",
        "process_title",
        "service_manager",
        "shortage",
        "signals",
        "speed",
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
    ("ipc",),
    ("worker", "supervisor"),
    ("proxy",),
    ("demo", "doctor"),
    ("cli", "__main__"),
)
"""Rooms from the bottom up; each may import its own row and those before it."""
STRANGERS: Final = (
    {"demo", "doctor"},
    {"worker", "supervisor"},
    {"xmpp", "cluster"},
    {"session", "net"},
    {"relay", "admin"},
)
"""Of one row, and still none knows the other."""

PLUGINS_MAY_IMPORT: Final = {"errors", "xmpp", "plugins"}
"""The plugins run in other people's programs, so they take little along; and the proxy is none of those programs."""

WITHOUT_IO: Final = ("xmpp", "cluster", "session", "transfers", "doctor")
WITH_IO: Final = (
    "cxfr_proxy.cluster.sources",
    "cxfr_proxy.doctor.examining",
    "cxfr_proxy.transfers.drains",
    "cxfr_proxy.transfers.mover",
    "cxfr_proxy.transfers.pace",
    "cxfr_proxy.transfers.own_logins",
    "cxfr_proxy.transfers.planner",
    "cxfr_proxy.transfers.rebalances",
    "cxfr_proxy.transfers.slow_logins",
    "cxfr_proxy.transfers.young_sessions",
)
"""The exceptions inside them."""
IO: Final = frozenset(
    ("trio", "socket", "ssl", "time", "random", "logging", "os", "pathlib", "asyncio", "cxfr_proxy.events")
)

MAX_LINES: Final = 600

MAX_ARGUMENTS: Final = 8
"""Of a constructor: whoever needs more has several ideas, or collaborators that should be one."""
WIDE_RECORDS: Final = {
    "Drain": "a row of counts",
    "ElementVerdict": "what may follow from one element; of all that is possible, one or two apply",
    "NodeCounts": "a row of counts",
    "RebalanceCounts": "a row of counts",
    "Totals": "a row of counts",
}
"""Records that change, and have more fields than that, with the reason. Frozen ones need none: they are values."""


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


# --- no circles


def reached_from(module: str, graph: Mapping[str, set[str]]) -> set[str]:
    """Every module that it imports, or that one of those imports, and so on; itself where it stands in a circle."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        new = graph[waiting.pop()] - reached
        reached |= new
        waiting.extend(new)
    return reached


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Wherever the import stands, and if only for the types: whoever reads one module of a circle has to read all."""
    graph = {module: {name for name in imports(module) if name in SOURCES} - {module} for module in SOURCES}
    circle = {module for module in SOURCES if module in reached_from(module, graph)}
    assert circle == set()


# --- one name for one type


def types_of(tree: ast.Module) -> Iterator[str]:
    """Classes wherever they stand, and aliases: ``Step = Reply | Closed``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for node in tree.body:
        # A constant is written in capitals, and a function's other name in small letters.
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and re.fullmatch(r"_?[A-Z]\w*[a-z]\w*", target.id):
            yield target.id


def test_no_two_types_have_the_same_name() -> None:
    """A search by a type's name finds it, and not three others."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for module, path in SOURCES.items():
        for name in types_of(ast.parse(path.read_text("utf-8"))):
            places[name].append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


# --- constructors


def _names(node: ast.expr) -> set[str]:
    return {
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute)
    }


def _is_frozen(node: ast.ClassDef) -> bool:
    calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
    keywords = [*node.keywords, *(keyword for call in calls for keyword in call.keywords)]
    return any(each.arg == "frozen" and ast.unparse(each.value) == "True" for each in keywords)


def arguments_of(node: ast.ClassDef) -> int:
    """How many arguments its constructor takes; 0 for a record of values, which has as many fields as there are values.

    A field that is to be called makes a record an object like any other.
    """
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return len(each.args.posonlyargs) + len(each.args.args) + len(each.args.kwonlyargs) - 1
    is_record = any("dataclass" in _names(each) for each in node.decorator_list)
    is_record |= any("Struct" in _names(each) for each in node.bases)
    fields = [
        each for each in node.body if isinstance(each, ast.AnnAssign) and "ClassVar" not in _names(each.annotation)
    ]
    fields = [each for each in fields if each.value is None or "init=False" not in ast.unparse(each.value)]
    calls = any("Callable" in _names(each.annotation) for each in fields)
    return len(fields) if is_record and (calls or not _is_frozen(node)) else 0


def test_constructors_take_few_arguments() -> None:
    wide = {
        node.name
        for path in SOURCES.values()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and arguments_of(node) > MAX_ARGUMENTS
    }
    assert wide == WIDE_RECORDS.keys()


# --- one place for what there is one of


def constructing(name: str) -> list[str]:
    """The modules in which an object of that class is made, once for each place."""
    return [
        module.removeprefix("cxfr_proxy.")
        for module, path in SOURCES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name
    ]


def test_a_running_proxy_is_put_together_in_one_way() -> None:
    """A worker of its own process and the one in the supervisor's are the same, over another channel."""
    assert constructing("Supervisor") == ["proxy"]
    assert constructing("Worker") == ["worker.in_process", "worker.process"]
    assert constructing("Service") == ["worker.parts"]
    assert constructing("Pump") == constructing("ClientServer") == ["worker.service"]


PLAIN_OR_TLS: Final = {"PlainTransport", "TlsTransport", "SSLSocket", "SSLObject", "SSLStream"}
ASKING_PLAIN_OR_TLS: Final = {
    "net.endpoint",  # asserts that TLS has not begun before it begins
    "doctor.examining.handshake",  # whether there is a certificate to be read
}


def test_nobody_asks_whether_a_connection_is_plain_or_tls() -> None:
    """A transport knows that itself, see net/transport.py."""
    asking = {
        module.removeprefix("cxfr_proxy.")
        for module, path in SOURCES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and _names(node.args[1]) & PLAIN_OR_TLS
    }
    assert {module for module in asking if room_of(f"cxfr_proxy.{module}") != "demo"} == ASKING_PLAIN_OR_TLS


QUESTIONS: Final = "cxfr_proxy.ipc.questions"
ANSWERS: Final = "cxfr_proxy.worker.queries"


def questions() -> Iterator[str]:
    for node in ast.parse(SOURCES[QUESTIONS].read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and any(
            ast.unparse(base).startswith("WorkerQuestion[") for base in node.bases
        ):
            yield node.name


def test_a_question_to_the_workers_is_known_in_two_files() -> None:
    """And to the supervisor's part that asks it."""
    known = {
        question: {
            module
            for module, path in SOURCES.items()
            if re.search(rf"\b{question}\b", path.read_text("utf-8")) and room_of(module) != "supervisor"
        }
        for question in questions()
    }
    # Settings are more than a question: a worker begins with them, too.
    assert known.pop("TakeSettings") == {QUESTIONS, ANSWERS, "cxfr_proxy.ipc.messages", "cxfr_proxy.worker.parts"}
    assert all(modules == {QUESTIONS, ANSWERS} for modules in known.values()), known
    assert len(known) > 10


# --- the map


def on_the_map(package: str) -> set[str]:
    """The first column of the tables in its docstring: ``stream, node  the XMPP server`` names two modules."""
    text = ast.get_docstring(ast.parse(SOURCES[package].read_text("utf-8"))) or ""
    names: set[str] = set()
    for column, rows in re.findall(r"^(=+) =+\n(.*?)^=+ =+$", text, re.MULTILINE | re.DOTALL):
        for row in rows.splitlines():
            names.update(re.findall(r"[\w/.]+", row[: len(column)]))
    return names


@pytest.mark.parametrize("package", [module for module, path in SOURCES.items() if path.name == "__init__.py"])
def test_every_module_is_on_the_map_of_its_room(package: str) -> None:
    folder = SOURCES[package].parent
    inside = {
        module.removeprefix(f"{package}.").partition(".")[0] for module in SOURCES if module.startswith(f"{package}.")
    }
    mapped = on_the_map(package)
    assert inside - mapped == set(), "not on the map"
    assert {name for name in mapped - inside if not (folder / name).exists()} == set(), "on the map, and nowhere else"
