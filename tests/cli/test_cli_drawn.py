"""What is drawn from the parser for others: the manual page, and completion scripts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from real.programs import Need, require

from cxfr_proxy.cli import main
from cxfr_proxy.cli.completion import SHELLS
from cxfr_proxy.cli.manual import render_manual
from cxfr_proxy.cli.parser import build_parser

DOCS = Path(__file__).parents[2] / "docs"


def completed(tmp_path: Path, *words: str) -> list[str]:
    """Return what bash offers behind these words, of which the last is incomplete."""
    program = tmp_path / "cxfr-proxy"
    program.write_text("#!/bin/sh\nprintf 'NODE  ADDRESS\\nnode1  a\\nnode2  b\\n'\n")
    program.chmod(0o755)
    quoted = " ".join(f"'{word}'" for word in (str(program), *words))
    script = f"{SHELLS['bash'](build_parser())}\nCOMP_WORDS=({quoted})\nCOMP_CWORD={len(words)}\n_cxfr_proxy\n"
    script += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "-u", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("dr",), ["drain"]),
        (("show", "se"), ["sessions", "session"]),
        (("show", "sessions", "--li"), ["--limit"]),
        (("drain", "node"), ["node1", "node2"]),
        (("drain", "node1", "--wa"), ["--wait"]),
        (("drain", "node1", "n"), []),
        (("drain", "--rate", "5", "n"), ["node1", "node2"]),
        (("move", "n"), []),
        (("move", "kim@h", "n"), ["node1", "node2"]),
        (("show", "sessions", "--node", ""), ["node1", "node2"]),
        (("demo", "--trigger", "s"), ["sigterm"]),
        (("--transfer-ra",), ["--transfer-rate"]),
        (("show", "sessions", "--user", ""), []),
        (("completion", ""), ["--help", "bash", "zsh", "fish"]),
        (("token", "o"), ["operate"]),
        (("token", "operate", ""), ["--help"]),
        (("help", "dr"), ["drain"]),
        (("help", "show", "ses"), ["sessions", "session"]),
        (("--starttls", "o"), ["optional", "off"]),
        (("--starttls", "="), ["required", "optional", "off"]),  # bash takes the sign for a word
        (("--starttls", "=", "r"), ["required"]),
        (("check", "--certificates", "/et"), ["/etc"]),
        (("--control", "=", "/tmp/c", "dr"), ["drain"]),
    ],
)
def test_bash_offers_what_fits(tmp_path: Path, words: tuple[str, ...], offered: list[str]) -> None:
    assert completed(tmp_path, *words) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dr", ["drain"]),
        ("completion ", ["bash", "fish", "zsh"]),
        ("token o", ["operate"]),
        ("help dr", ["drain"]),
        ("help show ses", ["session", "sessions"]),
        ("--starttls ", ["off", "optional", "required"]),
        ("check --certificates /et", ["/etc/"]),
    ],
)
def test_fish_offers_what_fits(line: str, offered: list[str], tmp_path: Path) -> None:
    require(Need.FISH)
    (tmp_path / "script").write_text(SHELLS["fish"](build_parser()))
    asked = f"source {tmp_path / 'script'}; complete -C 'cxfr-proxy {line}'"
    done = subprocess.run(["fish", "-c", asked], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert [each.partition("\t")[0] for each in done.stdout.splitlines()] == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_each_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for parser in build_parser().commands():
        assert parser.command.split()[-1] in script
    if shutil.which(shell) is not None and shell != "bash":
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_the_manual_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manual"]) == 0
    page = capsys.readouterr().out
    assert page == render_manual(build_parser())
    for parser in build_parser().commands():
        assert f"\n.SS {parser.command.replace('-', chr(92) + '-')}" in page
    assert "\n.B \\-\\-transfer\\-rate N\n" in page
    assert "%%" not in page
    assert all(line.startswith((".", "\\&")) or not line.startswith("'") for line in page.splitlines())


@pytest.mark.skipif(shutil.which("mandoc") is None and shutil.which("groff") is None, reason="no formatter is here")
def test_a_formatter_has_nothing_to_say(tmp_path: Path) -> None:
    page = tmp_path / "cxfr-proxy.1"
    page.write_text(render_manual(build_parser()))
    command = (
        ["mandoc", "-T", "lint", "-W", "error"]
        if shutil.which("mandoc")
        else ["groff", "-man", "-T", "utf8", "-ww", "-z"]
    )
    done = subprocess.run([*command, str(page)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
