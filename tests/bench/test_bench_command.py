"""``python -m bench``: its command line, what it writes, and what it does where something is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needs import needs_proc

from bench import __main__ as command
from bench import machine
from bench.options import Options
from bench.programs import ROOT, Failed, Missing
from bench.report import Goal, Report
from bench.spread import Spread


class Runs:
    """Fakes of all benches. ``faults``: what some of them raise, by name."""

    def __init__(self) -> None:
        self.options: list[Options] = []
        self.names: list[str] = []
        self.faults: dict[str, Exception] = {}

    def __call__(self, name: str) -> Callable[[Options], Report]:
        def run(options: Options) -> Report:
            self.names.append(name)
            self.options.append(options)
            if name in self.faults:
                raise self.faults[name]
            return Report(name, options.quick, {}, goals=[Goal(f"a goal of {name}", 1.0, Spread.of([0.5]))])

        return run


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(command, "_run", runs)
    monkeypatch.setattr(machine, "raise_descriptor_limit", lambda: None)  # it would be this process's
    return runs


def test_all_that_can_be_chosen_arrives(runs: Runs, tmp_path: Path) -> None:
    words = "drain --quick --engine python --rounds 2 --seconds 0.5 --sessions 7 --workers 3 --rate 40 --tls"
    assert command.main([*words.split(), "--proxy-option=--a=b", "--results", str(tmp_path)]) == 0
    chosen = Options(
        quick=True,
        engine="python",
        proxy_options=("--a=b",),
        rounds=2,
        seconds=0.5,
        sessions=7,
        workers=3,
        rate=40.0,
        tls=True,
    )
    assert runs.options == [chosen]


def test_nothing_chosen_leaves_everything_to_the_bench(runs: Runs, tmp_path: Path) -> None:
    assert command.main(["relay", "--results", str(tmp_path)]) == 0
    assert runs.options == [Options()]


def test_all_runs_all_and_ends_with_every_goal(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["all", "--results", str(tmp_path), "--json", str(tmp_path / "all.json")]) == 0
    assert runs.names == list(command.NAMES)
    said = capsys.readouterr().out
    assert all(f"| {name}: a goal of {name} " in said for name in command.NAMES)
    assert f"{len(command.NAMES)} hold, 0 do not, 0 were not measured" in said
    assert (tmp_path / "goals.md").read_text("utf-8") in said
    assert [each["name"] for each in json.loads((tmp_path / "all.json").read_text("utf-8"))] == list(command.NAMES)


@pytest.mark.parametrize("fault", [Missing("no compiler"), Failed("it ended")])
def test_what_fails_is_said_and_the_others_go_on(
    fault: Exception, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.faults["relay"] = fault
    assert command.main(["all", "--results", str(tmp_path)]) == 1
    assert runs.names == list(command.NAMES)
    assert f"bench relay: {fault}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["nosuch"], [], ["relay", "--engine", "nosuch"], ["relay", "--rounds", "x"]])
def test_mistakes_are_refused(words: list[str], runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(words)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
    assert runs.names == []


def test_help_tells_what_each_bench_measures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n{name} " in said for name in command.NAMES)


def report_of(folder: Path, *words: str) -> Any:  # decoded JSON
    """Run the real bench of that name, as short as can be, and return its report."""
    file = folder / "report.json"
    short = ("--quick", "--rounds", "1", "--results", str(folder), "--json", str(file))
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words, *short],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(file.read_text("utf-8"))
    return report


@needs_proc
def test_placement_runs(tmp_path: Path) -> None:
    report = report_of(tmp_path, "placement", "--sessions", "500")
    assert [row.get("nodes") for row in report["data"]] == ["3", "10", "10, weights 1 to 4", "100", None]
    assert [goal["holds"] for goal in report["goals"] if "moved between others" in goal["what"]] == [True] * 4


@needs_proc
def test_framing_runs(tmp_path: Path) -> None:
    """The real one, as short as can be: every engine reads all of the traffic, cut in all ways."""
    report = report_of(tmp_path, "framing", "--seconds", "0.001")
    assert {(row["traffic"], row["cut"]) for row in report["data"]} == {
        (traffic, cut)
        for traffic in ("chat", "presence", "MAM page", "avatar")
        for cut in ("a stanza a read", "16 KiB a read", "64 bytes a read")
    }
    assert len(report["goals"]) == 12
