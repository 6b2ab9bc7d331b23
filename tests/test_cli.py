"""The command line without a running proxy: parsing, help, check, and handing over to what serves."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import trio
from ports import free_port
from relay_tools import write_pem

from cxfr_proxy import __main__ as program
from cxfr_proxy import __version__, events, log_hooks
from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.commands.table import COMMANDS
from cxfr_proxy.admin.commands.views import VIEWS
from cxfr_proxy.admin.http.tokens import parse_tokens
from cxfr_proxy.admin.text import duration, table
from cxfr_proxy.cli import main
from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.source import ConfigSource
from cxfr_proxy.config.table import SETTINGS, Config
from cxfr_proxy.demo.certificate import make_certificate
from cxfr_proxy.demo.node import DemoNode


def test_help_shows_every_setting_with_its_default_and_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    for setting in SETTINGS:
        start = f" --{setting.name} {setting.row.value_type.metavar} {setting.row.help} (default: {setting.default}"
        assert start in words
    for name in [*(command.name for command in COMMANDS), "check", "doctor", "demo"]:
        assert f"\n  {name} " in text
    assert text.index("show nodes") < text.index("drain NODE") < text.index("--backends FILE|URL   ")


@pytest.mark.parametrize("name", [*(command.name for command in COMMANDS), "check", "doctor", "demo"])
def test_help_of_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cxfr-proxy {name} ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from cxfr_proxy.relay import engine
    from cxfr_proxy.xmpp.framing import framer

    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == (
        f"cxfr-proxy {__version__} (framer: {framer.ENGINE.chosen}, relay: {engine.ENGINE.chosen})\n"
    )


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "--backends FILE is needed"),
        (["--back", "n"], "unknown flag --back; did you mean --backends?"),
        (["--zzz=1", "show", "nodes"], "unknown flag --zzz (try: cxfr-proxy --help)"),
        (["drain", "node1", "--wiat"], "drain has no flag --wiat; did you mean --wait?"),
        (["undrain", "node1", "--rate", "5"], "undrain has no flag --rate (try: cxfr-proxy undrain --help)"),
        (["--backends", "show", "--wait", "show"], "unknown flag --wait (try: cxfr-proxy --help)"),
        (["show", "nodes", "--backends", "n"], "show nodes has no flag --backends (try: cxfr-proxy show nodes --help)"),
        (["show", "nodes", "--wait"], "show nodes has no flag --wait; did you mean --watch?"),
        (["--listen", "5222"], "--listen: expected ADDRESS:PORT with an IPv6 address in brackets"),
        (["--config", "none.toml"], "none.toml: cannot be read: No such file or directory"),
        (["--wait", "drain", "n"], "unknown flag --wait; it is one of drain, and belongs behind these words"),
        (["--limit=5", "show", "sessions"], "unknown flag --limit; it is one of show sessions, and belongs behind"),
        (["frobnicate"], "unknown command 'frobnicate' (try: cxfr-proxy help)"),
        (["drian", "node1"], "unknown command 'drian'; did you mean drain?"),
        (["sessions"], "unknown command 'sessions'; did you mean show sessions?"),
        (["show"], "show: expected nodes, sessions, session, "),
        (["show", "nodse"], "show: unknown word 'nodse'; did you mean nodes?"),
        (["help", "drian"], "unknown command 'drian'; did you mean drain?"),
        (["drain", "node1", "node2"], "unrecognized arguments: node2 (try: cxfr-proxy drain --help)"),
        (["show", "nodes", ""], "unrecognized arguments: '' (try: cxfr-proxy show nodes --help)"),
        (["help", "drain", "node1"], "there is no command 'drain node1' (try: cxfr-proxy help drain)"),
        (["show", "sessions", "--limit", "0"], "show sessions: limit: expected a whole number of at least 1"),
        (["show", "sessions", "--address", "10.0.0.1/8"], "expected the network's first address, as in 10.0.0.0/8"),
        (["show", "session", "x"], "show session: id: expected the number of a session"),
        (["drain"], "NODE"),
        (["token", "admn", "me"], "cxfr-proxy: ROLE: expected view or operate or admin, found 'admn' (try: "),
        (["completion", "ksh"], "cxfr-proxy: SHELL: expected bash or zsh or fish, found 'ksh' (try: "),
        (["demo", "--trigger", "boom"], "cxfr-proxy: --trigger: expected drain or remove or sigterm or kill, found"),
        (["--workers"], "cxfr-proxy: --workers: expected one argument (try: cxfr-proxy --help)"),
        (["drain", "n", "--deadline", "soon"], "drain: deadline: expected a time above 0 like"),
        (["show", "weather"], "show: unknown word 'weather'; expected nodes, sessions, session, "),
        (["check"], "--backends FILE is needed"),
        (["check", "--backends", "\x1b[2J\n"], "\\u001b[2J\\n"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    argv: list[str], part: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(argv)
    out, err = capsys.readouterr()
    if argv[0:1] == ["check"] and len(argv) > 1:
        assert code == 1
        err = f"cxfr-proxy: {out}"
    else:
        assert code == 2
        assert out == ""
    assert part in err
    assert err.startswith("cxfr-proxy: ")
    assert err.count("\n") == 1


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: object) -> None:
    module = ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def test_serving_hands_over_the_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served: list[Config] = []
    logs: list[tuple[object, ...]] = []

    def run(config: Config, source: ConfigSource, handover: object) -> int:
        assert handover is None
        served.append(config)
        assert source.read() == config
        return 7

    fake_module(monkeypatch, "cxfr_proxy.proxy", run=run)
    monkeypatch.setattr(events, "open_log", lambda *given: logs.append(given))
    monkeypatch.setattr(log_hooks, "install", lambda: None)
    settings = tmp_path / "proxy.toml"
    settings.write_text('starttls = "off"\nmax-depth = 32\nlog-format = "json"')
    assert main(["--config", str(settings), "--backends", "nodes.txt", "--listen", ":1", "--listen", ":2"]) == 7
    (config,) = served
    assert config.backends == FileBackends("nodes.txt")
    assert config.limits.max_depth == 32
    assert [address.port for address in config.listen] == [1, 2]
    assert logs == [(events.LogFormat.JSON, events.LogLevel.INFO, sys.stderr)]


@dataclass
class FakeDemoOptions:
    clients: int
    seed: int
    trigger: str


def test_demo_hands_over_its_flags(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[FakeDemoOptions] = []

    def demo(options: FakeDemoOptions) -> int:
        given.append(options)
        return 3

    fake_module(monkeypatch, "cxfr_proxy.demo", main=demo, DemoOptions=FakeDemoOptions, DemoTrigger=str)
    assert main(["demo"]) == 3
    assert main(["demo", "--clients", "5", "--seed", "0"]) == 3
    assert main(["demo", "--trigger", "kill"]) == 3
    assert given == [FakeDemoOptions(200, 1, "drain"), FakeDemoOptions(5, 0, "drain"), FakeDemoOptions(200, 1, "kill")]
    assert main(["demo", "--clients", "0"]) == 2
    assert capsys.readouterr().err == "cxfr-proxy: --clients: expected a whole number of at least 1, found '0'\n"


def faults_in(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the output of ``check`` without its notes."""
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("note: ")]


def test_check_reads_the_tokens_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, tokens = tmp_path / "nodes.txt", tmp_path / "tokens.txt"
    nodes.write_text("node1 10.0.0.1\n")
    assert main(["token", "operate", "alice"]) == 0
    made = capsys.readouterr()
    tokens.touch(mode=0o600)
    tokens.write_text(made.out)
    flags = ["check", "--backends", str(nodes), "--http-tokens", str(tokens)]
    assert main(flags) == 0
    found = capsys.readouterr().out
    assert f"{tokens}: 1 token, no faults\n" in found
    assert "note: http-tokens has no effect without http\n" in found
    assert main([*flags, "--http", "127.0.0.1:9222"]) == 0
    assert "note: http" not in capsys.readouterr().out
    assert main([*flags, "--http", "*:9222"]) == 0
    assert "note: http: *:9222: tokens pass there without TLS" in capsys.readouterr().out
    certificate = write_pem(tmp_path, "proxy.example.net")
    assert main([*flags, "--http", "*:9222", "--http-certificate", str(certificate)]) == 0
    found = capsys.readouterr().out
    assert f"{certificate}: a certificate for HTTPS, no faults\n" in found
    assert "note: http" not in found
    assert main([*flags, "--http-certificate", str(certificate)]) == 0
    assert "note: http-certificate has no effect without http\n" in capsys.readouterr().out
    assert main([*flags, "--http-certificate", str(certificate), "--http-key", str(nodes)]) == 1
    assert f"{nodes}: expected a private key in PEM form\n" in capsys.readouterr().out
    tokens.write_text(made.err)
    assert main(flags) == 1
    assert f"{tokens}:1:1: expected a role, a name and a digest, found 1 word\n" in capsys.readouterr().out


def test_a_token_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "admin", "alice"]) == 0
    made = capsys.readouterr()
    found = parse_tokens(made.out, "tokens").find(made.err.strip())
    assert found is not None
    assert (found.name, found.role) == ("alice", Role.ADMIN)
    assert made.err.strip() not in made.out
    assert main(["token", "admin", "a b"]) == 2
    assert "expected a name" in capsys.readouterr().err


def test_check_says_what_no_file_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("plain 10.0.0.11:5222 send-proxy=v2\nsafe 10.0.0.12:5222 tls=starttls\n")
    assert main(["check", "--backends", str(nodes)]) == 0
    first, *notes = capsys.readouterr().out.splitlines()
    assert first == f"{nodes}: 2 nodes, no faults"
    assert [line.split(": ")[:2] for line in notes] == [["note", "plain"], ["note", "safe"], ["note", "plain"]]
    for name in ("allow_unencrypted_sasl2", "mod_auth_fast", "XEP-0474", "y,,", "proxy_interfaces"):
        assert any(name in line for line in notes)
    nodes.write_text("".join(f"node{number} 10.0.0.{number}\n" for number in range(1, 9)))
    assert main(["check", "--backends", str(nodes)]) == 0
    assert "note: node1, node2, node3, node4, node5 and 3 more: plain leg" in capsys.readouterr().out


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("node1 10.0.0.11:5222\nnode2 10.0.0.12:5222\n")
    assert main(["check", "--backends", str(nodes)]) == 0
    assert main(["--backends", str(nodes), "check"]) == 0
    assert faults_in(capsys) == [f"{nodes}: 2 nodes, no faults"] * 2
    nodes.write_text("node1 10.0.0.11:5222 weight=-1\nnode2\nnode3 10.0.0.13:5222 color=red\n")
    assert main(["check", "--backends", str(nodes)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1] for line in lines] == ["1", "2", "3"]
    assert all(line.startswith(f"{nodes}:") and line.split(":")[2].isdigit() for line in lines)


def test_check_reads_the_user_map_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, users = tmp_path / "nodes.txt", tmp_path / "users.txt"
    nodes.write_text("node1 host\n")
    users.write_text("kim@h node1\nsam@h node9\n")
    words = ["check", "--backends", str(nodes), "--user-map", str(users)]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"{users}: 2 users, no faults; no such node: node9"
    users.write_text("kim\nsam\n")
    assert main(words) == 1
    assert [line.partition(": ")[0] for line in faults_in(capsys)[1:]] == [
        f"{users}:1:4",
        f"{users}:2:4",
    ]


def test_check_opens_what_a_proxy_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, none = tmp_path / "nodes.txt", tmp_path / "none.pem"
    nodes.write_text(f"node1 host tls=starttls ca={none}\n")
    assert main(["check", "--backends", str(nodes)]) == 1
    assert capsys.readouterr().out.startswith(f"{none}: ca= of node 'node1': expected a readable file")
    nodes.write_text("node1 host\n")
    assert main(["--certificate", str(none), "--backends", str(nodes), "check"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"{none}: cannot be read: No such file or directory"
    files = make_certificate(tmp_path, "localhost")
    given = ["--certificate", str(files.certificate), "--key", str(files.key)]
    assert main([*given, "--backends", str(nodes), "check"]) == 0
    assert faults_in(capsys) == [f"{nodes}: 1 node, no faults", "1 certificate, no faults"]


def test_check_names_each_domain_without_a_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, files = tmp_path / "nodes.txt", make_certificate(tmp_path, "localhost")
    nodes.write_text("node1 host\n")
    given = ["--certificate", str(files.certificate), "--key", str(files.key), "--backends", str(nodes)]
    assert main([*given, "--domain", "a.example", "--domain", "b.example", "check"]) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[-2:]] == [
        "no certificate is for a.example",
        "no certificate is for b.example",
    ]


def test_check_says_what_the_certificate_for_nodes_can_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("node1 host resume=shared migrate=external tls=direct\n")
    files = make_certificate(tmp_path, "proxy.example.org")
    given = ["--node-certificate", str(files.certificate), "--node-key", str(files.key), "--backends", str(nodes)]
    assert main(["--backends", str(nodes), "check"]) == 0
    assert "note: node1: migrate=external does nothing without --node-certificate" in capsys.readouterr().out
    assert main([*given, "check"]) == 0
    assert f"note: {files.key}: whoever has this key can log in to node1 as any user" in capsys.readouterr().out
    files.key.chmod(0o644)
    assert main([*given, "check"]) == 1
    assert f"{files.key}: every user of this machine may read this key" in capsys.readouterr().out
    files.key.chmod(0o600)
    nodes.write_text("node1 host\n")
    assert main([*given, "check"]) == 0
    assert "no node says migrate=external" in capsys.readouterr().out
    assert main(["--node-key", str(files.key), "--backends", str(nodes), "check"]) != 0
    assert "expected --node-certificate as well" in capsys.readouterr().err


def test_check_knows_where_clients_may_be_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, settings = tmp_path / "nodes.txt", tmp_path / "settings.toml"
    nodes.write_text("node1 10.0.0.11 public=node1.example.org\nnode2 10.0.0.12 public=evil.example\n")
    settings.write_text("redirect-targets = ['*.example.org']\n")
    for given in (["--redirect-targets", "*.example.org"], ["--config", str(settings)]):
        assert main([*given, "--backends", str(nodes), "check"]) == 1
        assert capsys.readouterr().out.startswith(f"{nodes}:2:24: expected a host that redirect-targets allows")
    both = ["--redirect-targets", "*.example.org", "--redirect-targets", "evil.example"]
    assert main([*both, "--backends", str(nodes), "check"]) == 0


def test_check_names_all_faults_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the settings, of the nodes, of certificates and of the user map."""
    nodes, users, settings = tmp_path / "nodes.txt", tmp_path / "users.txt", tmp_path / "settings.toml"
    nodes.write_text("node1 host weight=x\n")
    users.write_text("kim\n")
    settings.write_text("transfer-rate = 0\nnonsense = 1\nkey = 'a.key'\nredirect-domain = ['a.example=a.example']\n")
    words = ["--backends", str(nodes), "--config", str(settings), "check", "--user-map", str(users), "--max-depth", "2"]
    assert main([*words, "--certificates", str(tmp_path / "none")]) == 2
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in out.splitlines()] == [
        f"{nodes}:1:19",
        str(tmp_path / "none"),
        f"{users}:1:4",
    ]
    assert [line.removeprefix("cxfr-proxy: ").split(": ")[0] for line in err.splitlines()] == [
        f"{settings}:2",
        f"{settings}:1",
        "--max-depth",
        "--key",
        "redirect-domain",
    ]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_check_names_a_fault_once_though_its_file_has_two_purposes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    nodes, both = tmp_path / "nodes.txt", tmp_path / "both.pem"
    nodes.write_text("node1 host\n")
    if content is not None:
        both.touch(mode=0o600)
        both.write_text(content)
    given = ["--certificate", str(both), "--http-certificate", str(both), "--node-certificate", str(both)]
    assert main([*given, "--backends", str(nodes), "check"]) == 1
    assert [line.partition(": ")[0] for line in faults_in(capsys)] == [str(nodes), str(both)]


def test_check_takes_settings_on_either_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("node1 host public=a.example\nnode2 host public=b.example\n")
    both = ["--redirect-targets", "a.example", "check", "--redirect-targets", "b.example", "--backends", str(nodes)]
    assert main(both) == 0
    assert main(["--redirect-targets", "a.example", "check", "--backends", str(nodes)]) == 1
    assert main(["check", "--redirect-targets", "b.example", "--backends", str(nodes)]) == 1
    assert main(["--starttls", "off", "check", "--starttls", "maybe", "--backends", str(nodes)]) == 2
    assert "--starttls: expected required or optional or off, found 'maybe'" in capsys.readouterr().err


@contextmanager
def node_in_thread() -> Iterator[str]:
    """A demo node, served from another thread; its address."""
    ready, node = threading.Event(), DemoNode("node1")
    stop: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(node.serve)
            stop.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(60)
        yield f"127.0.0.1:{node.address.port}"
    finally:
        token, scope = stop[0]
        token.run_sync_soon(scope.cancel)
        thread.join()


def test_check_connects_to_the_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes, nobody = tmp_path / "nodes.txt", free_port()
    with node_in_thread() as address:
        nodes.write_text(f"node1 {address}\nnode2 127.0.0.1:{nobody}\n")
        assert main(["check", "--connect", "--backends", str(nodes), "--domain", "localhost"]) == 1
        first, second = capsys.readouterr().out.splitlines()[1:3]
        assert first.startswith(f"node1 ({address}) for localhost: greets (")
        assert second == f"node2 (127.0.0.1:{nobody}) for localhost: no connection to the node: Connection refused"
        nodes.write_text(f"node1 {address}\n")
        assert main(["check", "--connect", "--backends", str(nodes)]) == 0
        assert f"node1 ({address}): is there; no --domain is given" in capsys.readouterr().out


def test_check_without_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--backends", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.0s"),
        (9.94, "9.9s"),
        (10, "10s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86_399, "23h59m"),
        (86_400, "1d00h"),
        (None, "-"),
        ("x", "-"),
    ],
)
def test_durations(value: object, shown: str) -> None:
    assert duration(value) == shown


def test_an_empty_table_has_its_titles() -> None:
    assert table(VIEWS["sessions"].columns, []).startswith("ID  JID  NODE")


def test_a_row_of_another_version_shows_dashes() -> None:
    columns = VIEWS["nodes"].columns
    assert table(columns, [{"name": "n"}]).splitlines()[1].split() == ["n", *"-" * (len(columns) - 1)]


@pytest.mark.parametrize(
    "words", [["help"], ["--help"], ["--version"], ["manual"], ["check", "--backends", "nodes.txt"]]
)
def test_output_that_finds_no_room_is_said_in_a_line(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "nodes.txt").write_text("node1 127.0.0.1:5222\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cxfr_proxy", *words], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert done.returncode == 141
    assert done.stderr == "cxfr-proxy: the output can't be written: No space left on device\n"


@pytest.mark.parametrize(
    ("words", "code"), [("help >/dev/full 2>&1", 141), ("frobnicate 2>/dev/full", 2), ("frobnicate 2>&1 >&- | true", 2)]
)
def test_the_exit_code_tells_what_nothing_else_can(words: str, code: int, tmp_path: Path) -> None:
    """One log for both streams, on a full disk; or a reader that is gone."""
    command = f"set -o pipefail; '{sys.executable}' -m cxfr_proxy {words}"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path).returncode == code


def test_streams_that_are_closed_take_nothing(tmp_path: Path) -> None:
    """Not what a mistake says on a standard error that is not there, which would be no answer."""
    program = f"'{sys.executable}' -m cxfr_proxy"
    for command, code, output in (
        (f"{program} completion bash >&-", 0, ""),
        (f"{program} frobnicate 2>&-", 2, ""),
        (f"{program} frobnicate <&- >&- 2>&-", 2, ""),
    ):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout + done.stderr) == (code, output), command


def test_an_interrupt_while_the_program_is_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("cxfr_proxy.cli.main", interrupted)
    monkeypatch.setattr("cxfr_proxy.signals.hold", lambda: None)
    assert program.main() == 130
