"""The table of what can be seen, and the rows that are seen by it: they fit each other, and say their kind."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
from fake_console import OPERATOR, FakeConsole
from msgspec.structs import replace

from cxfr_proxy.admin import sentences
from cxfr_proxy.admin.commands.table import execute
from cxfr_proxy.admin.commands.views import COLUMNS_OF_PLANS, VIEWS, Style, View
from cxfr_proxy.admin.rows import answers, live_rows, order_rows, rows
from cxfr_proxy.admin.rows.answers import MessageRow
from cxfr_proxy.admin.rows.codec import as_json, encode, read_answer
from cxfr_proxy.admin.rows.order_rows import DrainPlan, DrainProgress, PlannedTarget, RestartProgress
from cxfr_proxy.admin.rows.rows import OperatorRow
from cxfr_proxy.admin.text import record, table

SAMPLES: dict[str, dict[str, object]] = {"session": {"id": "1"}}


async def _ignore(row: object) -> None:
    pass


KINDS = {
    kind
    for module in (rows, order_rows, live_rows, answers)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, OperatorRow)
}


@pytest.mark.parametrize(
    "row", [*[view.row for view in VIEWS.values()], *COLUMNS_OF_PLANS], ids=lambda row: row.__name__
)
def test_each_column_shows_a_field_in_a_style_that_fits(row: type[msgspec.Struct]) -> None:
    shown = COLUMNS_OF_PLANS.get(row) or next(view.columns for view in VIEWS.values() if view.row is row)
    types = {field.name: str(field.type) for field in msgspec.structs.fields(row)}
    for column in shown:
        numeric = "int" in types[column.field] or "float" in types[column.field]
        assert column.style.is_numeric == numeric, column
        assert (column.style is Style.LIST) == types[column.field].startswith("list"), column


@pytest.mark.parametrize("name", VIEWS)
async def test_each_view_shows_its_rows(name: str) -> None:
    view: View = VIEWS[name]
    answer = await execute(FakeConsole().console, OPERATOR, "show", {"what": name, **SAMPLES.get(name, {})}, _ignore)
    found = msgspec.json.decode(encode(answer))
    rows = [found] if view.is_single else found
    assert rows
    assert {row["kind"] for row in rows} == {view.row.__struct_config__.tag}
    if view.is_single:
        assert len(record(view.columns, found).splitlines()) == len(view.columns)
    else:
        assert len(table(view.columns, rows).splitlines()) == 1 + len(rows)


def test_each_row_says_its_kind() -> None:
    kinds = [kind.__struct_config__.tag for kind in KINDS if kind is not OperatorRow]
    assert len(set(kinds)) == len(kinds)
    assert {"node", "session", "transfer", "drain-plan", "drain-progress", "message", "note"} <= set(kinds)
    assert encode(MessageRow("done")) == b'{"kind":"message","message":"done"}'


PLAN = DrainPlan("n\x1b1", 3, 1, [PlannedTarget("node2", 2), PlannedTarget(None, 1)], rate=50.0, seconds=1.0)


def test_an_answer_is_read_as_what_it_was() -> None:
    for answer in (PLAN, MessageRow("done"), RestartProgress(2, 1, 1, 40, 0, finished=False, failure=None)):
        assert read_answer(msgspec.json.decode(encode(answer))) == answer
    assert sentences.in_words(PLAN).splitlines()[-1].startswith("n\\u001b1: 3 sessions")


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"kind": "song"}, {"kind": "message"}, {"message": "done"}])
def test_what_another_version_says_is_no_answer(value: object) -> None:
    assert read_answer(value) is None


def test_a_newer_proxy_may_say_more() -> None:
    row = DrainProgress("n", 3, 0, 0, 0, 0, 0, 3, finished=False, waiting_reason=None)
    assert read_answer({**as_json(row), "mood": "good"}) == row


def test_progress_says_that_a_node_settles() -> None:
    row = DrainProgress("n", 3, 3, 3, 0, 0, 0, 0, finished=False, waiting_reason=None, settling_seconds=2.25)
    assert sentences.progress_line(row).endswith("0 left of 3 (settling: it can be stopped in 2.2s)")


def test_progress_says_how_fast_a_drain_goes_and_why_not_faster() -> None:
    row = DrainProgress("n", 9, 5, 4, 0, 0, 0, 5, finished=False, waiting_reason=None, per_second=12.4)
    assert sentences.progress_line(row).endswith("5 left of 9 (12 a second)")
    paced = replace(row, paced_by="2 at a time: their clients are held for 4.1 ms")
    assert sentences.progress_line(paced).endswith("(12 a second, 2 at a time: their clients are held for 4.1 ms)")
    assert "go, 12 a second, 2 at a time: their clients are held for 4.1 ms" in sentences.progress_bar(paced, 300, 5.0)
    assert sentences.progress_line(replace(paced, waiting_reason="no other node")).endswith(
        "5 left of 9 (no other node)"
    )


def test_a_plan_says_how_fast_sessions_were_taken_of_late() -> None:
    plan = DrainPlan("n", 100, 0, [], 500.0, 0.9, migrate=90, paced_rate=120.0)
    assert "that is 120 a second for those that the proxy takes" in sentences.in_words(plan)
    assert "120" not in sentences.in_words(replace(plan, paced_rate=600.0))


def test_a_path_that_is_no_text_has_a_json_form() -> None:
    assert msgspec.json.decode(encode(MessageRow("nodes-\udcff.txt")).replace(b"\\udcff", b"?")) == {
        "kind": "message",
        "message": "nodes-?.txt",
    }


def test_the_command_line_takes_no_proxy_along() -> None:
    """``show`` has an answer sooner than half of a proxy is imported."""
    script = "import sys, cxfr_proxy.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    rooms = {name.split(".")[1] for name in loaded if name.startswith("cxfr_proxy.")}
    assert not rooms & {"session", "transfers", "net", "upstream", "relay", "worker", "supervisor", "proxy", "demo"}
    assert not {"lxml", "cryptography", "h11", "prometheus_client", "httpx2"} & set(loaded)
