"""The bench's own arithmetic: spreads over rounds, ratios, goals, tables, and what is written down of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bench.plots import Bars, Lines, Plot, draw
from bench.report import Goal, Report, Table, columns, goals_table
from bench.spread import Spread, percentile, ratio


def test_a_spread_shows_median_and_both_ends() -> None:
    assert Spread.of([3.0, 1.0, 2_000.0]).show() == "3.0 (1.0-2,000.0)"
    assert Spread.of([0.0015]).show(1e3, 2) == "1.50"


def test_ratios_are_taken_round_by_round() -> None:
    # Each round got slower for both; the medians over each other would say the same only by chance.
    mine, theirs = Spread.of([2.0, 8.0, 30.0]), Spread.of([1.0, 2.0, 10.0])
    assert ratio(mine, theirs) == Spread.of([2.0, 4.0, 3.0])


def test_a_round_with_nothing_to_divide_by_is_left_out() -> None:
    assert ratio(Spread.of([2.0, 3.0]), Spread.of([0.0, 1.0])) == Spread.of([3.0])
    assert ratio(Spread.of([2.0]), Spread.of([-1.0])) is None
    assert ratio(Spread.of([2.0]), None) is None


def test_rounds_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio(Spread.of([1.0, 2.0]), Spread.of([1.0]))


def test_differences_are_taken_round_by_round() -> None:
    assert Spread.of([5.0, 7.0]).minus(Spread.of([1.0, 9.0])) == Spread.of([4.0, -2.0])


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 51.0), (0.99, 100.0), (1.0, 100.0)])
def test_percentiles(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], share) == value


def test_the_percentile_of_nothing_is_not_a_number() -> None:
    assert percentile([], 0.5) != percentile([], 0.5)


@pytest.mark.parametrize(
    ("found", "at_least", "holds"),
    [(1.14, False, True), (1.15, False, True), (1.16, False, False), (1.16, True, True), (1.14, True, False)],
)
def test_a_goal_holds_up_to_its_limit(found: float, at_least: bool, holds: bool) -> None:
    assert Goal("CPU", 1.15, Spread.of([found]), at_least=at_least).holds is holds


def test_of_several_rounds_the_median_decides() -> None:
    assert Goal("CPU", 1.0, Spread.of([0.9, 0.95, 7.0])).holds is True
    assert Goal("CPU", 1.0, Spread.of([0.1, 1.1, 1.2])).holds is False


def test_what_was_not_measured_does_not_hold() -> None:
    goal = Goal("CPU", 1.0, None)
    assert goal.holds is None
    assert goal.cells() == ["CPU", "<= 1", "", "not measured"]


def test_the_goals_table_counts() -> None:
    one = Spread.of([1.0])
    table = goals_table("goals", [Goal("a", 2, one), Goal("b", 0.5, one, " x"), Goal("c", 1, None), Goal("d", 1, one)])
    assert [row[-1] for row in table.rows] == ["yes", "NO", "not measured", "yes"]
    assert table.rows[1] == ["b", "<= 0.5 x", "1.00", "NO"]
    assert table.notes == ["2 hold, 1 do not, 1 were not measured"]


def test_a_table_is_aligned_markdown() -> None:
    table = Table("T", columns("relay | µs"), notes=["a note"])
    table.add("proxy", 12)
    table.add("x", None)
    assert str(table) == "### T\n\n| relay | µs |\n|-------|---:|\n| proxy | 12 |\n| x     |    |\n\n- a note\n"


def test_a_row_of_the_wrong_length_is_an_error() -> None:
    table = Table("T", columns("a | b"))
    table.add("only one")
    with pytest.raises((ValueError, IndexError)):
        str(table)


def test_a_report_is_saved_with_goals_and_every_round(tmp_path: Path) -> None:
    report = Report("idle", False, {"cpu": "some"})
    report.goals.append(Goal("memory", 6.0, Spread.of([5.0, 7.0, 5.5]), " KiB"))
    report.data.append({"round": 1})
    tables, figures = report.save(tmp_path / "new")
    saved = json.loads(figures.read_text("utf-8"))
    assert (tables.name, figures.name) == ("idle.md", "idle.json")
    assert "| memory | <= 6 KiB |        5.50 (5.00-7.00) |   yes |" in tables.read_text("utf-8")
    assert saved["goals"] == [
        {"what": "memory", "limit": 6.0, "found": [5.0, 7.0, 5.5], "unit": " KiB", "at_least": False, "holds": True}
    ]
    assert saved["data"] == [{"round": 1}]


def test_a_quick_run_leaves_a_full_ones_results_alone(tmp_path: Path) -> None:
    assert [path.name for path in Report("idle", True, {}).save(tmp_path)] == ["idle-quick.md", "idle-quick.json"]


# --- plots


def test_a_series_that_comes_later_has_nothing_in_earlier_groups() -> None:
    bars, one = Bars("t", "µs"), Spread.of([1.0])
    bars.add_group("plain", {"proxy": one, "bare": one}, limit=2.0)
    bars.add_group("TLS", {"proxy": one, "nginx": one})
    assert bars.series == {"proxy": [one, one], "bare": [one, None], "nginx": [None, one]}
    assert bars.limit == [2.0, None]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_a_plot_is_drawn(tmp_path: Path) -> None:
    bars = Bars("b", "µs")
    bars.add_group("plain", {"proxy": Spread.of([1.0, 2.0, 3.0]), "other": None}, limit=2.5)
    lines = Lines("l", "s", "clients", {"proxy": [(0.0, 1.0), (1.0, 2.0)], "plan": [(0.0, 1.0)]}, steps=True)
    target = tmp_path / "plot.png"
    assert draw(Plot("p", "title", [bars, lines, lines]), target, note="note")
    assert target.read_bytes().startswith(b"\x89PNG")
