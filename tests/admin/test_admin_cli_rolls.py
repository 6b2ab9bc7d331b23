"""Rolling restarts on the command line, which runs what restarts a node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run
from fake_console import FakeConsole
from msgspec.structs import replace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def test_a_roll_is_shown_and_planned(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "show", "roll") == 0
    assert capsys.readouterr().out.splitlines() == [
        "NODE   STEP     STOPPED  SESSIONS  MOVED  REASON",
        "node1  done     no              0     12  -",
        "node2  restart  yes             3      9  restarting it has failed: \\u001b[1mno",
    ]
    assert run(path, "roll", "node1", "node2", "--plan") == 0
    assert capsys.readouterr().out.splitlines() == [
        "NODE   SESSIONS  TAKES",
        "node1       100   3.0s",
        "node2       150   3.0s",
        "200 sessions, 250 moves: 1.25 a session; at 50 per second it takes about 5.0s, and the restarts",
        "20 of them can be taken to another node by the proxy, and will not notice",
    ]
    assert run(path, "roll", "node1", "--plan", fake=FakeConsole(refused="every login")) == 1
    assert "every login would be refused" in capsys.readouterr().out


def test_a_roll_without_a_command_is_watched(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "roll", "node1", "node2", fake=fake) == 0
    assert fake.calls == [("roll", "node1", "node2", None, None, False)]
    assert capsys.readouterr().out.splitlines() == [
        "roll: node1 (1 of 2) is drained: 40 sessions left",
        "roll: node1 (1 of 2) can be stopped (its command runs)",
        "roll: node2 (2 of 2) settles: it can be stopped in 2.5s",
        "roll: node2 (2 of 2) was restarted (it waits for checks)",
        "roll: all 2 nodes are done, 90 moves",
        "all 2 nodes are restarted, 90 moves; users may be elsewhere than they belong (rebalance moves them)",
    ]


def test_a_roll_runs_the_command_here_once_for_a_node(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "roll", "node1", "node2", "--run", "echo 'restarts {node}' it", "--json", fake=fake) == 0
    assert fake.calls == [
        ("roll", "node1", "node2", None, None, True),
        ("roll-runs",),
        ("roll-restarted", "node1"),
    ]
    out, err = capfd.readouterr()
    assert err == "restarts node1 it\n"
    assert all(json.loads(line) for line in out.splitlines())


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sh -c 'exit 3'", "sh has ended with exit code 3"),
        ("sh -c 'kill -9 $$'", "sh was ended by signal 9"),
        ("/{node}/nowhere", "/node1/nowhere: No such file or directory"),
    ],
)
def test_a_command_that_fails_stops_the_roll(command: str, reason: str, path: Path) -> None:
    fake = FakeConsole()
    stopped = replace(fake.roll_script[1], finished=True, reason=f"restarting it has failed: {reason}")
    fake.roll_script = (*fake.roll_script[:2], stopped)
    assert run(path, "roll", "--continue", "--run", command, fake=fake) == 1
    assert fake.calls == [("roll-continue", True), ("roll-runs",), ("roll-failed", reason)]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("--run", "no-such-program-here {node}"), "--run: there is no program 'no-such-program-here'"),
        (("--run", ""), "--run: expected a command, found nothing"),
        (("--run", "sh 'c"), "--run: expected a command as a shell reads it: No closing quotation"),
        (("--abort",), "roll: expected nodes, or one of continue, restarted, failed and abort"),
    ],
)
def test_a_roll_that_can_t_begin(
    words: tuple[str, ...], fault: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeConsole()
    assert run(path, "roll", "node1", *words, fake=fake) == 2
    assert capsys.readouterr().err.startswith(f"cxfr-proxy: {fault}")
    assert not fake.calls


def test_a_roll_that_goes_on_keeps_its_rate(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--continue", "--rate", "5"), ("--restarted", "node1", "--deadline", "1m")):
        fake = FakeConsole()
        assert run(path, "roll", *words, fake=fake) == 2
        assert "rate and deadline are those of a roll that begins" in capsys.readouterr().err
        assert not fake.calls


def test_a_command_that_ends_after_the_roll_says_nothing_to_the_next_one(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake = FakeConsole(roll_begun=tmp_path / "begun")
    given_up = replace(fake.roll_script[1], finished=True, given_up=True, reason="it was given up")
    fake.roll_script = (fake.roll_script[0], fake.roll_script[1], given_up)
    command = f"sh -c 'touch {fake.roll_begun}; sleep 0.3'"
    assert run(path, "roll", "node1", "node2", "--run", command, fake=fake) == 1
    assert fake.calls == [("roll", "node1", "node2", None, None, True), ("roll-runs",)]
    out, err = capfd.readouterr()
    assert out.endswith("the roll is over at node1 (1 of 2), step restart: it was given up\n")
    assert "the roll was over when the command for node1 had ended" in err


def test_whoever_stops_watching_a_roll_is_told_what_follows(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole(interrupt=True)
    assert run(path, "roll", "node1", "--run", "sleep 0", fake=fake) == 130
    assert "the roll goes on until a node is to be restarted, and stops there" in capsys.readouterr().err
    assert not any(call[0] == "roll-restarted" for call in fake.calls)
