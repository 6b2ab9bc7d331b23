"""Rebalances, users who are moved, and the replacement of the proxy, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run
from fake_console import FakeConsole

from cxfr_proxy.admin.rows.order_rows import RebalanceProgress, UpgradeProgress


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def test_a_rebalance_is_watched_to_its_end(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "rebalance", "--wait", "--rate", "5", "--max-share", "20%", fake=fake) == 0
    assert fake.calls == [("rebalance", 5.0, 20.0)]
    assert capsys.readouterr().out.splitlines() == [
        "rebalance: 0 asked, 0 moved, 0 refused, 0 silent, 0 failed, 3 left of 3",
        "rebalance: 2 asked, 1 moved, 1 refused, 0 silent, 0 failed, 2 left of 3",
        "rebalance: 3 asked, 3 moved, 1 refused, 0 silent, 0 failed, 0 left of 3",
        "3 of 3 sessions moved when asked",
    ]


@pytest.mark.parametrize(
    ("last", "code", "sentence"),
    [
        (
            RebalanceProgress(3, 1, 1, 0, 0, 0, 2, finished=True, waiting_reason="it was stopped"),
            1,
            "2 of 3 sessions are left where they are: it was stopped",
        ),
        (
            RebalanceProgress(3, 1, 1, 0, 0, 0, 2, finished=True, waiting_reason="2 were moved lately", held=2),
            1,
            "2 of 3 sessions are left where they are: 2 were moved lately",
        ),
        (
            RebalanceProgress(0, 0, 0, 0, 0, 0, 0, finished=True, waiting_reason=None),
            0,
            "all users are where they belong",
        ),
    ],
)
def test_how_a_rebalance_ends(
    last: RebalanceProgress, code: int, sentence: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(path, "rebalance", "--wait", fake=FakeConsole(rebalance_script=(last,))) == code
    assert capsys.readouterr().out.splitlines()[-1] == sentence


def test_who_stops_watching_stops_no_rebalance(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "rebalance", "--wait", fake=FakeConsole(interrupt=True)) == 130
    assert "the rebalance goes on (show transfers tells" in capsys.readouterr().err


def test_a_rebalance_is_planned(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "rebalance", "--plan", "--max-share", "10", fake=fake) == 0
    assert fake.calls == [("plan-rebalance", None, 10.0)]
    assert capsys.readouterr().out.splitlines() == [
        "FROM   TO     SESSIONS",
        "node1  node3       199",
        "node2  node3       101",
        "300 sessions, 40 of them inactive; at 50 per second it takes about 6.0s",
    ]
    run(path, "rebalance", "--plan", fake=FakeConsole(planned_moves=[]))
    assert capsys.readouterr().out == "all users are where they belong\n"
    run(path, "rebalance", "--plan", fake=FakeConsole(stay_down=3))
    assert "\n3 more would move, but use software that is known not to come back" in capsys.readouterr().out
    run(path, "rebalance", "--plan", fake=FakeConsole(planned_moves=[], stay_down=3))
    assert capsys.readouterr().out.startswith("nobody would be moved\n3 more would move, but")


def test_a_rebalance_is_begun_and_stopped(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "rebalance", fake=fake) == 0
    assert run(path, "rebalance", "--stop", fake=fake) == 0
    assert fake.calls == [("rebalance", None, None), ("stop-rebalance",)]
    assert capsys.readouterr().out.splitlines() == [
        "clients that are elsewhere than they belong are being moved",
        "the rebalance is stopped; clients that were asked already may still leave",
    ]
    assert run(path, "rebalance", "--stop", "--wait") == 2
    assert run(path, "rebalance", "--max-share", "0") == 2
    assert "expected a percentage above 0 and up to 100" in capsys.readouterr().err


def test_a_user_is_moved(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "move", "romeo@example.org", "node2", fake=fake) == 0
    assert fake.calls == [("move", "romeo@example.org", "node2")]
    assert capsys.readouterr().out == "1 client of romeo@example.org asked to move to node2\n"
    assert run(path, "move", "romeo@example.org/", "node2") == 2
    assert "expected a user's address like" in capsys.readouterr().err
    assert run(path, "move", "romeo@example.org") == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_missing_is_said_beside_the_answer(
    path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """Where programs that read the answer do not stumble over it."""
    run(path, "show", "nodes", *["--json"] * as_json, fake=FakeConsole(missing=["worker 1 is silent"]))
    shown = capsys.readouterr()
    assert shown.err == "cxfr-proxy: worker 1 is silent\n"
    assert "worker 1" not in shown.out
    if as_json:
        assert json.loads(shown.out)


def test_the_replacement_of_the_proxy_is_watched(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "upgrade") == 0
    assert capsys.readouterr().out.splitlines() == [
        "upgrade: process 4712 starts",
        "upgrade: process 4712 (version 0.2.0) is the proxy, 3 sessions leave the old one",
        "upgrade: process 4712 (version 0.2.0) is the proxy, 0 sessions leave the old one",
        "process 4712 (version 0.2.0) is the proxy; the old one has moved its clients and ends",
    ]
    failed = UpgradeProgress("start", 4712, None, 2, 2, 3, finished=True, failure="nodes.txt:3: expected a name")
    assert run(path, "upgrade", fake=FakeConsole(upgrade=(failed,))) == 1
    assert "the proxy goes on as it was: nodes.txt:3: expected a name" in capsys.readouterr().out
