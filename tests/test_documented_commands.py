"""Each command line and each settings file that a page shows is one that the program takes."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cxfr_proxy.admin.commands.table import Command
from cxfr_proxy.cli.exit_codes import MEANINGS
from cxfr_proxy.cli.hints import check_words
from cxfr_proxy.cli.parser import PROGRAM, build_parser, joined
from cxfr_proxy.config.source import ConfigSource
from cxfr_proxy.errors import ConfigError

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "bench" / "README.md"]

LISTING: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE: Final = re.compile(r"`([^`\n]+)`")
PARSER: Final = build_parser()
SHELLS: Final = ("sh", "bash")
SEPARATORS: Final = frozenset(("|", "||", "&", "&&", ";", "(", ")", "then", "else", "do", "if", "$"))
FILE_COMMANDS: Final = ("ln", "cp", "install")
OPENINGS: Final = ("[", "…", "...")
"""A synopsis is no command line: it has optional parts, or leaves some out."""
EXAMPLES: Final = {"ROLE": "operate", "SHELL": "bash"}
"""Words for which one of a few has to be written."""


def lines_of(page: Path) -> Iterator[str]:
    """Yield each line in which a page tells its reader to run something, without the prompt."""
    text = page.read_text("utf-8")
    for indent, language, listing in LISTING.findall(text):
        whole = re.sub(rf"\\\n{indent} *", "", listing)
        for line in whole.splitlines():
            words = line.strip()
            if language == "console":
                if words.startswith(("$ ", "# ")):  # the prompts of a user's shell, and of root's
                    yield words[2:]
            elif language in SHELLS:
                yield words
            elif language == "ini" and re.match(r"Exec\w+=.*\b" + PROGRAM, words):
                yield words.partition("=")[2].lstrip("-+!@:")
    for words in INLINE.findall(LISTING.sub("", text)):
        if words.startswith(PROGRAM + " "):
            yield words.replace("\\|", "|")


def commands_in(line: str) -> Iterator[list[str]]:
    """Yield the words behind each call of the program."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] | None = None
    first = ""
    for word in [*lexer, ";"]:
        if word in SEPARATORS or set(word) <= set("<>&|;()"):
            if words is not None and first not in FILE_COMMANDS:
                yield words
            words, first = None, ""
            continue
        first = first or word
        if words is not None:
            words.append(word)
        elif word.rpartition("/")[2] == PROGRAM and not word.startswith("."):
            words = []


def shown_commands() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for line in lines_of(page):
            if PROGRAM in line and not any(part in line for part in OPENINGS):
                yield page, line


SHOWN: Final = sorted(
    {(page.name, shlex.join(words)) for page, line in shown_commands() for words in commands_in(line)}
)


def settings_in_toml() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, (indent, language, listing) in enumerate(LISTING.findall(page.read_text("utf-8"))):
            if language == "toml":
                yield f"{page.name}-{number}", re.sub(f"^{indent}", "", listing, flags=re.MULTILINE)


def test_there_are_commands() -> None:
    assert len(SHOWN) > 80
    assert {page for page, _ in SHOWN} >= {"README.md", "deployment.md", "operating.md", "alarms.md"}


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=lambda value: value)
def test_a_command_that_is_shown_is_one(page: str, line: str) -> None:
    parser, words = PARSER, [EXAMPLES.get(word, word) for word in shlex.split(line)]
    check_words(words, parser)
    with contextlib.suppress(SystemExit):  # --version
        namespace = parser.parse_args(words)
        flags = joined(vars(namespace))
        command = flags["command"]
        if isinstance(command, Command):
            values = {each: flags[each.name] for each in command.arguments if flags[each.name] is not None}
            command.read_arguments({each.name: True if each.stays else value for each, value in values.items()})
        if command not in ("help", "completion", "manual", "demo"):
            _, faults = ConfigSource({**flags, "config": None}).gather()
            assert faults == []


@pytest.mark.parametrize("listing", [pytest.param(text, id=name) for name, text in settings_in_toml()])
def test_settings_that_are_shown_are_some(listing: str, tmp_path: Path) -> None:
    file = tmp_path / "cxfr-proxy.toml"
    file.write_text(listing, "utf-8")
    _, faults = ConfigSource({"config": str(file)}).gather()
    assert faults == []


def test_exit_codes_are_those_of_the_program() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")
    said = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    assert {int(code): bare(text) for code, text in said.items()} == {c: bare(text) for c, text in MEANINGS.items()}


def bare(text: str) -> str:
    """Return the words alone: in print they have other marks between them."""
    return " ".join(re.findall(r"[\w-]+", text.lower()))


# --- what is checked here is checked


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cxfr-proxy drain node1 --wait && ssh x y && /opt/bin/cxfr-proxy undrain node1 # done", 2),
        ("for p in a b; do ssh -n $p cxfr-proxy drain node1 & done", 1),
        ("source <(cxfr-proxy completion bash)", 1),
        ("pip install 'cxfr-proxy[titles]'", 0),
        ("systemctl stop cxfr-proxy.socket", 0),
        ("ln -s /opt/bin/cxfr-proxy /usr/bin/ && cxfr-proxy --version", 1),
    ],
)
def test_commands_are_found_in_lines(line: str, expected: int) -> None:
    assert len(list(commands_in(line))) == expected


@pytest.mark.parametrize(
    "line", ["drain", "drain node1 --wiat", "drain node1 --deadline 10min", "--transfer-rate fast"]
)
def test_a_line_that_is_no_command_is_found(line: str) -> None:
    with pytest.raises((ConfigError, AssertionError)):
        test_a_command_that_is_shown_is_one("", line)
