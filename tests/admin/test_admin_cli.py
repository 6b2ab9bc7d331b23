"""The command line against a proxy that serves its control socket: what people and programs get to see."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
from pathlib import Path

import pytest
import trio
from command_line import run
from fake_console import START, FakeConsole, proxy_in_thread
from msgspec.structs import replace

from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.admin.rows.order_rows import RestartProgress
from cxfr_proxy.cli import main, speaking


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def test_show_nodes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "show", "nodes") == 0
    assert capsys.readouterr().out.splitlines() == [
        "NODE   ADDRESS         PUBLIC             ADMIN STATE  DRAIN  HEALTH  SINCE  CHECK    WEIGHT  WARM-UP"
        "  SESSIONS  WAITING  MOVED  RETURNED  UNREACHED  FORGED",
        "node1  10.0.0.11:5222  node1.example.org  drain        awake  up      3m10s  ok 3 ms       1      35%"
        "        12        7      3         2          0       2",
        "node2  10.0.0.12:5222  -                  ready        -      down        -  timeout      20     100%"
        "      1234        0      0         0         17       0",
    ]


def test_show_sessions_and_transfers(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(path, "show", "sessions")
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split() == [
        "1",
        "juliet@example.org/balcony",
        "node1",
        "bound",
        "tcp",
        "TLSv1.3",
        "yes",
        "192.0.2.1:40000",
        "1h02m",
        "0.2s",
        "no",
        "-",
        "-",
    ]
    run(path, "show", "transfers")
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split() == [
        "1",
        "juliet@example.org/balcony",
        "node1",
        "-",
        "slixmpp",
        "cxfr",
        "running",
        "2.0s",
        "2.0s",
        "-",
        "drain",
        "-",
    ]


def test_filters_go_to_the_proxy(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole(sessions_count=5)
    words = ("--user", "juliet@example.org", "--node", "node1", "--address", "192.0.2.0/24", "--limit", "2")
    assert run(path, "show", "sessions", *words, fake=fake) == 0
    assert fake.calls == [("sessions", SessionFilter("juliet@example.org", "node1", "192.0.2.0/24", 2))]
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 3
    assert shown.err == "cxfr-proxy: 2 of 5 sessions are shown\n"
    assert run(path, "show", "sessions", "--address", "unix", fake=fake) == 0
    assert fake.calls[-1] == ("sessions", SessionFilter(address="unix"))


def test_show_session(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "show", "session", "1") == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    assert lines["JID"] == "juliet@example.org/balcony"
    assert lines["AGE"] == "1h02m"
    assert run(path, "show", "session", "1", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["kind"], row["id"], row["worker"]) == ("session-details", 1, 2)
    assert run(path, "show", "session", "99") == 2
    assert "there is no session 99" in capsys.readouterr().err


def test_show_info_and_errors(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "show", "info") == 0
    out = capsys.readouterr().out
    assert "VERSION             1.2.3\n" in out
    assert "LISTEN              [::]:5222, unix:/run/clients\n" in out
    assert run(path, "show", "errors", "--limit", "1") == 0
    title, row = capsys.readouterr().out.splitlines()
    assert title.split() == ["TIME", "LEVEL", "EVENT", "COUNT", "PROCESS", "DETAILS"]
    assert row.endswith("no-node      3  worker 1  domain=\\u001b[2J")
    assert run(path, "show", "errors", "--json") == 0
    assert {row["kind"] for row in json.loads(capsys.readouterr().out)} == {"error"}


def test_show_events_has_what_is_no_error_too(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "show", "events", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["kind"], row["level"]) for row in rows] == [
        ("event", "INFO"),
        ("event", "WARNING"),
        ("event", "ERROR"),
    ]
    assert run(path, "show", "events", "--limit", "1") == 0
    assert capsys.readouterr().out.splitlines()[1:][0].split()[1:3] == ["ERROR", "no-node"]


def test_kick(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "kick", "juliet@example.org/balcony", fake=fake) == 0
    assert fake.calls == [("kick", "juliet@example.org/balcony")]
    assert capsys.readouterr().out == "1 session of juliet@example.org/balcony ended\n"


def test_a_proxy_that_goes_away_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is shown again and again; one that was never there is an error."""
    assert main(["show", "pins", "--watch", "--control", str(path)]) == 3
    shown: list[str] = []
    proxy = contextlib.ExitStack()

    async def look_again(seconds: float) -> None:
        shown.append(capsys.readouterr().out)
        if len(shown) == 2:
            proxy.close()
        if len(shown) == 3:
            raise KeyboardInterrupt
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(speaking, "pause", look_again)
    with proxy:
        proxy.enter_context(proxy_in_thread(path, FakeConsole()))
        assert main(["show", "pins", "--watch", "--control", str(path)]) == 130
    assert [text.split()[0] for text in shown] == ["USER", "USER", "no"]
    assert shown[0] == shown[1]


def test_a_resource_cannot_write_on_the_terminal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "juliet@example.org/\x1b[2J\n2 romeo\u202e\ud800"
    run(path, "show", "sessions", fake=FakeConsole(jid=hostile))
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 2
    assert out.replace("\n", "").isprintable()


def test_json_is_for_programs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "show", "nodes", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[1] == {
        "kind": "node",
        "name": "node2",
        "address": "10.0.0.12:5222",
        "public": None,
        "public_ws": None,
        "check_duration_seconds": None,
        "checks_failed": 0,
        "entered": 0,
        "admin_state": "ready",
        "health": "down",
        "weight": 20,
        "sessions": 1234,
        "moved": 0,
        "connect_failures": 17,
        "forged": 0,
        "waiting": 0,
        "asked": 0,
        "refused": 0,
        "silent": 0,
        "failed": 0,
        "usable": False,
        "health_seconds": None,
        "check": "timeout",
        "check_seconds_ago": 0.5,
        "warm_up": 1.0,
        "priority": 0,
        "returned": 0,
        "drain": None,
        "drain_reason": None,
    }


def test_drain_and_undrain(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "drain", "node1", "--deadline", "90s", "--rate", "5", fake=fake) == 0
    assert fake.calls == [("drain", "node1", None, 90.0, 5.0)]
    assert run(path, "undrain", "node1", fake=fake) == 0
    said = "node1 is being drained\nnode1 takes clients again; all users are where they belong\n"
    assert capsys.readouterr().out == said


def test_the_last_node_is_drained_by_force_alone(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole(refused="every login for h")
    assert run(path, "drain", "node1", "--plan", fake=fake) == 1
    assert "\nevery login for h would be refused, for no other node is" in capsys.readouterr().out
    for words in ((), ("--wait",)):
        assert run(path, "drain", "node1", *words, fake=fake) == 2
    assert ("drain", "node1", None, None, None) not in fake.calls
    assert run(path, "drain", "node1", "--force", fake=fake) == 0
    said = "node1 is being drained; every login for h is refused until another node is ready and up"
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert run(path, "drain", "node1", "--force", "--wait", fake=fake) == 0


@pytest.mark.parametrize(
    ("row", "words", "said"),
    [
        (
            {"to_move": 12},
            (),
            "; 12 sessions are moved to where they belong in 5 s; undrain --no-rebalance leaves them\n",
        ),
        (
            {"to_move": 2, "held": 1},
            (),
            "; 2 sessions are moved to where they belong in 5 s, 1 of them later (they were",
        ),
        (
            {"to_move": 1},
            ("--no-rebalance",),
            "; 1 session is left elsewhere than they belong until the next rebalance",
        ),
        ({"to_move": 12, "begins_in": None}, (), "; 12 sessions are left elsewhere than they belong until the next"),
        ({"up": False}, (), " when it is up; users who belong there are moved some time after that"),
        ({"up": False}, ("--no-rebalance",), " when it is up; users who belong there are moved by the next rebalance"),
    ],
)
def test_what_follows_from_an_undrain(
    row: dict[str, int], words: tuple[str, ...], said: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeConsole()
    fake.returning = replace(fake.returning, **row)
    assert run(path, "undrain", "node1", *words, fake=fake) == 0
    assert capsys.readouterr().out.startswith(f"node1 takes clients again{said}")
    assert fake.calls == [("undrain", "node1", *(word[2:] for word in words))]


def test_a_plan_and_an_abort(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "drain", "node1", "--plan", "--grace", "10s", "--deadline", "2m", fake=fake) == 0
    assert fake.calls == [("plan", "node1", 10.0, 120.0, None)]
    assert capsys.readouterr().out.splitlines() == [
        "TO     SESSIONS",
        "node2      1190",
        "none         10",
        "node1: 1200 sessions, 700 of them inactive; at 50 per second it takes about 1m12s",
    ]
    assert run(path, "drain", "node1", "--plan", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "kind": "drain-plan",
        "node": "node1",
        "sessions": 1200,
        "inactive": 700,
        "targets": [{"node": "node2", "sessions": 1190}, {"node": None, "sessions": 10}],
        "rate": 50.0,
        "seconds": 72.5,
        "stay_down": 0,
        "migrate": 0,
        "paced_rate": None,
        "refuses_logins": None,
    }
    run(path, "drain", "node1", "--plan", fake=FakeConsole(migrate=900))
    assert "\n900 of them will not notice" in (out := capsys.readouterr().out)
    assert "300 are told to move" in out
    run(path, "drain", "node1", "--plan", fake=FakeConsole(stay_down=3))
    assert "\n3 of them use software that is known not to come back" in capsys.readouterr().out
    assert run(path, "abort", "node1", fake=fake) == 0
    assert fake.calls[-1] == ("abort", "node1")
    assert "the drain of node1 is stopped" in capsys.readouterr().out


def test_an_aborted_drain_says_why_it_ended(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole(script=(START, replace(START, finished=True, waiting_reason="the drain was aborted")))
    assert run(path, "drain", "node1", "--wait", fake=fake) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "node1 is not empty: 3 of 3 sessions are left: the drain was aborted"


def test_drain_wait_writes_a_line_for_each_change(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "drain", "node1", "--wait") == 0
    assert capsys.readouterr().out.splitlines() == [
        "node1: 0 asked, 0 moved, 0 refused, 0 silent, 0 failed, 3 left of 3 (the rate allows no more now)",
        "node1: 2 asked, 1 moved, 1 refused, 0 silent, 0 failed, 1 left of 3",
        "node1: 3 asked, 2 moved, 1 refused, 0 silent, 0 failed, 0 left of 3",
        "node1 is empty: 2 of 3 sessions moved when asked, 1 of them has returned",
    ]


def test_drain_wait_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "drain", "node1", "--wait", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(line) for line in lines[:-1]] == [{"progress"}] * 4
    assert lines[-1]["left"] == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_drain_wait_draws_one_line_on_a_terminal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    assert run(path, "drain", "node1", "--wait") == 0
    drawn, sentence, end = terminal.getvalue().split("\n")
    frames = drawn.split("\r")[1:]
    assert len(frames) == 4
    assert all(frame.endswith("\x1b[K") and len(frame) < 120 + 3 for frame in frames)
    assert frames[0].startswith("[.....")
    assert "[####" in frames[-1]
    assert "." not in frames[-1]
    assert sentence == "node1 is empty: 2 of 3 sessions moved when asked, 1 of them has returned"
    assert end == ""


def test_drain_wait_on_a_narrow_terminal_stays_on_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    assert run(path, "drain", "node1", "--wait") == 0
    frames = terminal.getvalue().split("\n")[0].split("\r")[1:]
    assert all(len(frame.removesuffix("\x1b[K")) < 40 for frame in frames)


def test_not_empty_at_the_deadline(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole(script=(START, replace(START, asked=3, silent=3, finished=True, waiting_reason=None)))
    assert run(path, "drain", "node1", "--wait", fake=fake) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "node1 is not empty: 3 of 3 sessions are left at the deadline"


def test_interrupting_leaves_the_drain(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole(script=(START,), interrupt=True)
    with proxy_in_thread(path, fake):
        assert main(["drain", "node1", "--wait", "--control", str(path)]) == 130
    assert fake.draining == {"node1"}
    assert "the drain of node1 goes on" in capsys.readouterr().err


def test_restart_workers(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "restart-workers") == 0
    assert run(path, "restart-workers", "--wait") == 0
    assert capsys.readouterr().out.splitlines() == [
        "the workers are being replaced",
        "workers: 0 of 2 replaced, 0 sessions leaving",
        "workers: 1 of 2 replaced, 40 sessions leaving",
        "workers: 2 of 2 replaced, 0 sessions leaving",
        "2 of 2 workers are replaced",
    ]


def test_workers_that_could_not_be_replaced(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = RestartProgress(3, 1, 2, 0, 1, finished=True, failure="the new worker 2 is ill")
    assert run(path, "restart-workers", "--wait", fake=FakeConsole(restart=(last,))) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "1 of 3 workers is replaced: the new worker 2 is ill; "
        "1 had clients left at the end of hard-stop-after, and cut them"
    )


def test_interrupting_leaves_the_restart(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole(interrupt=True)
    with proxy_in_thread(path, fake):
        assert main(["restart-workers", "--wait", "--control", str(path)]) == 130
    assert "the workers go on being replaced" in capsys.readouterr().err


def test_show_pins(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "show", "pins") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["USER", "NODE", "HERE", "ALSO", "ON"]
    assert lines[1].split() == ["juliet@example.org", "node1", "2", "-"]
    assert lines[2].split(maxsplit=3) == ["romeo@example.org", "node1", "0", "node2, old"]


def test_show_workers(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "show", "workers") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        [
            "WORKER",
            "PID",
            "STATE",
            "SESSIONS",
            "CONNECTIONS",
            "MEMORY",
            "DESCRIPTORS",
            "DEATHS",
            "HUNG",
            "SILENT",
            "MAIN",
            "PID",
        ],
        ["1", "4711", "up", "12", "15", "-", "-", "0", "0", "-", "-"],
        ["2", "-", "starting", "0", "0", "-", "-", "2", "1", "-", "-"],
    ]


class Unread(io.StringIO):
    """A pipe whose reader has gone."""

    def __init__(self, devnull: int) -> None:
        super().__init__()
        self._devnull = devnull

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        return self._devnull


def test_a_reader_that_leaves_does_not_make_the_node_empty(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeConsole(script=(START,))
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", Unread(out.fileno()))
        assert run(path, "drain", "node1", "--wait", fake=fake) == 141
    assert fake.draining == {"node1"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["drain", "node9"], "cxfr-proxy: unknown node 'node9'; known are node1, node2\n"),
        (["drain", "node9", "--wait"], "cxfr-proxy: unknown node 'node9'; known are node1, node2\n"),
        (["unset", "transfer-rate"], "cxfr-proxy: transfer-rate is not set\n"),
        (["set", "domain"], "cxfr-proxy: the following arguments are required: TEXT (try: cxfr-proxy set --help)\n"),
    ],
)
def test_mistakes_are_one_line(path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert run(path, *argv) == 2
    assert capsys.readouterr() == ("", message)


def test_a_reload_that_finds_faults_names_them_all(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "reload") == 1
    assert capsys.readouterr().out == "nodes.txt:3:7: expected a host\nunknown setting 'x'\nnothing is changed\n"
    assert run(path, "reload", "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["kind"], len(said["faults"])) == ("reload-faults", 2)


def test_settings_are_set_and_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeConsole()
    assert run(path, "set", "domain", "a.example", "b.example", fake=fake) == 0
    assert fake.calls == [("set", "domain", ("a.example", "b.example"))]
    assert run(path, "show", "config") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["transfer-rate", "50/s", "100/s", "set", "at", "once"]


def test_no_proxy(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "nodes", "--control", str(path)]) == 3
    assert capsys.readouterr().err.startswith("cxfr-proxy: no proxy runs here: ")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert main(["--control", str(path), "show", "nodes"]) == 3
    assert capsys.readouterr().err.startswith("cxfr-proxy: no proxy answers on ")


def test_the_socket_is_found_where_the_environment_says(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(f"control = '{path}'")
    with proxy_in_thread(path, FakeConsole()):
        assert main(["--config", str(settings), "show", "nodes"]) == 0
        assert main(["show", "nodes", "--config", str(settings)]) == 0
        monkeypatch.setenv("CXFR_PROXY_CONTROL", str(path))
        assert main(["show", "nodes"]) == 0
