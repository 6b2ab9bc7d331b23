"""What is drawn on a terminal: no line too long, nothing cut in the middle, and nothing of a stranger's in command."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.admin.commands.views import VIEWS
from cxfr_proxy.admin.rows.order_rows import (
    DrainProgress,
    Progress,
    RebalanceProgress,
    RestartProgress,
    UpgradeProgress,
)
from cxfr_proxy.admin.sentences import progress_bar, progress_line
from cxfr_proxy.admin.text import WIDEST_CELL, clean, cut, table, width
from cxfr_proxy.cli.screen import WatchScreen

DRAIN = DrainProgress("node1", 3000, 1800, 1750, 20, 10, 5, 1250, finished=False, waiting_reason=None)
WAITING = DrainProgress("node1", 3, 0, 0, 0, 0, 0, 3, finished=False, waiting_reason="no other node can take them")
REBALANCE = RebalanceProgress(40, 10, 9, 1, 0, 0, 30, finished=False, waiting_reason=None)
RESTART = RestartProgress(2, 1, 1, 4000, 0, finished=False, failure=None)
UPGRADE = UpgradeProgress("move", 4712, "0.2.0", 2, 1, 4000, finished=False, failure=None)


def test_a_bar_tells_the_share_the_rest_and_the_time() -> None:
    assert progress_bar(DRAIN, 160, 85.0) == (
        f"[{'#' * 23}{'.' * 17}] 58% node1: 1250 of 3000 left, about 1m25s to go, 1800 asked, 1750 moved, "
        "20 refused, 10 silent, 5 failed"
    )
    assert progress_bar(DRAIN, 79, 85.0) == (f"[{'#' * 16}{'.' * 13}] 58% node1: 1250 of 3000 left, about 1m25s to go")
    assert progress_bar(WAITING, 79, 85.0).endswith("]  0% node1: 3 of 3 left, no other node can take them")
    assert ", about 1s to go" in progress_bar(DRAIN, 100, 0.2)
    assert ", about 8s to go" in progress_bar(DRAIN, 100, 7.6)
    assert "about" not in progress_bar(WAITING, 200, 85.0)
    assert "] 50% workers: 1 of 2 left, 1 of 2 replaced, 4000 sessions leaving" in progress_bar(RESTART, 100)
    assert progress_bar(UPGRADE, 79, 21.0).endswith("] 50% upgrade: 1 of 2 left, 4000 sessions leave the old one")


@pytest.mark.parametrize("row", [DRAIN, WAITING, REBALANCE, RESTART, UPGRADE])
def test_no_number_is_ever_cut(row: Progress) -> None:
    whole = set(re.findall(r"\d+", f"{progress_line(row)} 58% 0% 25% 50% 1m25s"))
    for columns in range(200):
        bar = progress_bar(row, columns, 85.0)
        assert width(bar) <= columns
        assert set(re.findall(r"\d+", bar)) <= whole, bar


@pytest.mark.parametrize(
    ("text", "columns"),
    [("", 0), ("abc", 3), ("日本語", 6), ("e\u0301", 1), ("한글", 4), ("ｆｕｌｌ", 8), ("🦊", 2), ("é", 1), ("…", 1)],
)
def test_widths(text: str, columns: int) -> None:
    assert width(text) == columns


@given(st.text(), st.integers(min_value=1, max_value=40))
def test_what_is_cut_fits_and_what_fits_is_whole(text: str, most: int) -> None:
    shown = cut(clean(text), most)
    assert width(shown) <= most
    assert len(shown) <= 2 * most
    assert shown == clean(text) or (shown.endswith("…") and clean(text).startswith(shown[:-1]))


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_columns_are_aligned_whatever_the_script(names: list[str]) -> None:
    lines = table(VIEWS["pins"].columns, [{"user": name, "node": "N", "here": 7} for name in names]).splitlines()
    assert len(lines) == 1 + len(names)
    assert len({width(line[: line.rindex("  N  ")]) for line in lines[1:]}) == 1
    assert all(line.isprintable() for line in lines)


def test_a_stranger_pushes_no_column_off_the_screen() -> None:
    jid = f"juliet@example.org/{'x' * 900}"
    lines = table(VIEWS["sessions"].columns, [{"jid": jid, "state": "bound"}]).splitlines()
    assert len(lines[0]) < WIDEST_CELL + 100
    assert "…" in lines[1]


def test_columns_that_say_nothing_give_way_on_a_narrow_terminal() -> None:
    columns = VIEWS["nodes"].columns
    rows = [{"name": "node1", "admin_state": "ready", "forged": 0, "moved": 7, "waiting": 0}]
    whole = table(columns, rows).splitlines()
    assert table(columns, rows, len(whole[0])).splitlines() == whole
    narrower = table(columns, rows, len(whole[0]) - 1).splitlines()[0]
    assert ("FORGED" in narrower, "WAITING" in narrower) == (False, True)
    narrow = table(columns, rows, 80).splitlines()[0]
    assert ("WAITING" in narrow, "MOVED" in narrow, "NODE" in narrow) == (False, True, True)
    assert table(columns, [], 10).splitlines() == table(columns, []).splitlines()


def test_what_does_not_print_is_escaped_as_in_the_log() -> None:
    assert clean("a\x1b[2J\u202e\n\u2066\ud800é日") == "a\\u001b[2J\\u202e\\n\\u2066\\ud800é日"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_watched_is_drawn_in_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "8")
    terminal = Terminal()
    screen = WatchScreen(terminal, as_json=False, view=VIEWS["pins"], title="show pins")
    screen.note("worker 1 is silent\x1b")
    screen.result([{"user": f"{'x' * 30}{number}@h"} for number in range(9)])
    screen.failed("no proxy runs here")
    first, second = terminal.getvalue().split("\x1b[H")[1:]
    lines = first.split("\x1b[K\n")
    assert len(lines) == 8
    assert all(width(line) <= 20 for line in lines[:-1])
    assert lines[0].startswith("show pins  ")
    assert lines[5] == "... and 6 more lines"
    assert lines[6].startswith("note: worker 1 is")
    assert lines[7] == "\x1b[J"
    assert second.split("\x1b[K\n")[1:] == ["no proxy runs here", "\x1b[J"]


def test_what_is_watched_elsewhere_is_written_below(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    screen = WatchScreen(stream, as_json=False, view=VIEWS["pins"], title="show pins")
    screen.result([])
    screen.failed("gone")
    assert stream.getvalue() == "USER  NODE  HERE  ALSO ON\n\ngone\n\n"
    stream = io.StringIO()
    screen = WatchScreen(stream, as_json=True, view=VIEWS["pins"], title="show pins")
    screen.note("worker 1 is silent")
    screen.result([])
    screen.failed("gone")
    assert stream.getvalue() == "[]\n"
    assert capsys.readouterr().err == "cxfr-proxy: note: worker 1 is silent\ncxfr-proxy: gone\n"
