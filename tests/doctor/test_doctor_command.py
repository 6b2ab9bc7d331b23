"""``cxfr-proxy doctor`` on the command line: its answer, exit codes, and the password that it never shows."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from doctor_nodes import DOMAIN, PASSWORD, USER, ScriptedNode, serving
from ports import free_port

from cxfr_proxy.cli import main

JID = f"{USER}@{DOMAIN}"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def nobody(tmp_path: Path) -> str:
    """A list with a node that is not there."""
    path = tmp_path / "nodes.txt"
    path.write_text(f"node1 127.0.0.1:{free_port()}\n")
    return str(path)


def test_text_and_json_tell_the_same(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--backends", nobody, "--domain", DOMAIN]
    assert main(words) == 1
    text = capsys.readouterr().out
    address = Path(nobody).read_text().split()[1]
    found = f"error: node1 ({address}) for example.org: unreachable: A node cannot be connected to\n  seen:      no "
    assert text.startswith(found)
    assert "\n1 node examined: 1 error" in text
    assert main([*words, "--json"]) == 1
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    [finding] = [each for each in answer["findings"] if each["node"] is not None]
    assert (finding["severity"], finding["rule"], finding["domains"]) == ("error", "unreachable", [DOMAIN])
    assert finding["remedies"].keys() >= {"ejabberd", "Prosody", "MongooseIM", "Openfire"}
    assert answer["nodes"] == [{"node": "node1", "software": None}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--user", "example.org"], "--user: expected a JID like doctor@example.org"),
        (["--user", "a@b/c"], "--user: expected a JID like doctor@example.org"),
        (["--user", "@b"], "--user: nothing stands before the '@' of a JID"),
        (["--user", JID, "--password-file", "/nonexistent"], "/nonexistent: cannot be read: No such file or directory"),
        (["--password-file", "x"], "--password-file: expected --user as well"),
        (
            ["--ignore", "chanel-binding"],
            "--ignore: there is no finding 'chanel-binding' (did you mean 'channel-binding'?)",
        ),
        (["--ignore", "x"], "--ignore: there is no finding 'x'; docs/doctor.md has their names"),
        (["--password", "secret"], "doctor has no flag --password; did you mean --password-file?"),
    ],
)
def test_mistakes(nobody: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--backends", nobody, *words]) == 2
    assert capsys.readouterr().err == f"cxfr-proxy: {said}\n"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff"])
def test_a_password_file_that_is_none(
    nobody: str, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_bytes(content)
    (tmp_path / "password").chmod(0o600)
    assert main(["doctor", "--backends", nobody, "--user", JID, "--password-file", str(tmp_path / "password")]) == 2
    assert "expected a password" in capsys.readouterr().err


def test_a_password_that_everybody_can_read_is_refused(
    nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "password").chmod(0o644)
    assert main(["doctor", "--backends", nobody, "--user", JID, "--password-file", str(tmp_path / "password")]) == 2
    said = "expected a file that nobody else can read or change, found mode 0644 (chmod g-w,o-rwx)"
    assert capsys.readouterr().err == f"cxfr-proxy: {tmp_path}/password: {said}\n"


def test_what_is_ignored_does_not_make_the_exit_code(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--backends", nobody, "--domain", DOMAIN, "--ignore", "own-queue", "--ignore", "unreachable"]
    assert main(words) == 0
    assert "1 node examined: no findings; ignored: unreachable" in capsys.readouterr().out


def test_without_a_terminal_a_password_has_to_be_in_a_file(
    nobody: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD))
    assert main(["doctor", "--backends", nobody, "--user", JID]) == 2
    assert "--user: expected --password-file, --node-certificate, or a terminal" in capsys.readouterr().err


def test_the_password_is_asked_for_at_the_terminal_and_shown_nowhere(
    nobody: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return PASSWORD

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", ask)
    assert main(["doctor", "--backends", nobody, "--user", JID]) == 1
    assert asked == [f"Password of {JID}: "]
    shown = capsys.readouterr()
    assert PASSWORD not in shown.out + shown.err


@pytest.mark.parametrize("password", [PASSWORD, "another"])
def test_a_login_by_a_password_file(tmp_path: Path, password: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code says whether there is something to mend, and nothing says the password."""
    (tmp_path / "password").write_text(f"{password}\n")
    (tmp_path / "password").chmod(0o600)
    with in_thread(ScriptedNode()) as address:
        (tmp_path / "nodes.txt").write_text(f"node1 {address}\n")
        words = ["doctor", "--json", "--backends", str(tmp_path / "nodes.txt"), "--domain", DOMAIN]
        code = main([*words, "--user", JID, "--password-file", str(tmp_path / "password")])
    text = capsys.readouterr().out
    findings = json.loads(text)["findings"]
    assert [each["rule"] for each in findings if each["node"]] == ([] if password == PASSWORD else ["login-refused"])
    assert code == any(each["severity"] != "note" for each in findings)
    assert password not in text


def test_ctrl_c_is_no_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It comes while a node is waited for that accepts, and never greets."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "nodes.txt").write_text(f"node1 127.0.0.1:{silent.getsockname()[1]}\n")

        over = threading.Event()

        def press() -> None:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                os.kill(os.getpid(), signal.SIGINT)
                over.wait()

        thread = threading.Thread(target=press)
        thread.start()
        words = ["doctor", "--backends", str(tmp_path / "nodes.txt"), "--domain", DOMAIN]
        assert main([*words, "--node-greeting-timeout", "1h"]) == 130
        over.set()
        thread.join()
    assert capsys.readouterr().err == ""


def test_ctrl_d_is_no_password(
    nobody: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", ask)
    assert main(["doctor", "--backends", nobody, "--user", JID]) == 2
    assert "--user: expected --password-file" in capsys.readouterr().err


@contextmanager
def in_thread(node: ScriptedNode) -> Iterator[str]:
    """Serve beside the command, which has a loop of its own; the address."""
    there: queue.SimpleQueue[tuple[str, trio.lowlevel.TrioToken, trio.CancelScope]] = queue.SimpleQueue()

    async def serve() -> None:
        with trio.CancelScope() as scope:
            async with serving(node) as [address]:
                there.put((address, trio.lowlevel.current_trio_token(), scope))
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    address, token, scope = there.get()
    try:
        yield address
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join()
