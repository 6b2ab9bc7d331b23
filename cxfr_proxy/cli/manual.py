"""The manual page, drawn from the parser and the table of exit codes. It is written in man(7)'s macros."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

from cxfr_proxy import __version__
from cxfr_proxy.cli.exit_codes import MEANINGS
from cxfr_proxy.cli.parser import PROGRAM, Parser

_ENVIRONMENT: Final = {
    "CXFR_PROXY_CONTROL": "The control socket, for a proxy and for commands that were told of none by --control.",
    "CXFR_ENGINE": "native or python: the code that frames and passes on bytes. By default native, where it is there.",
    "RUNTIME_DIRECTORY, XDG_RUNTIME_DIR": "Directories where the control socket is looked for.",
}
_SIGNALS: Final = {
    "SIGHUP": "As reload.",
    "SIGUSR2": "As upgrade.",
    "SIGTERM, SIGINT": "Moves all clients away and ends, within --hard-stop-after; the second one ends it at once.",
}


def render_manual(root: Parser) -> str:
    """Return the page, for man(1)."""
    return "\n".join([*_lines(root), ""])


def _lines(root: Parser) -> Iterator[str]:
    yield f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM} {__version__}" "User Commands"'
    yield from (".SH NAME", f"{_text(PROGRAM)} \\- front proxy for XMPP clients")
    yield ".SH SYNOPSIS"
    forms = (("--backends", "FILE|URL", "--certificate", "FILE", "[SETTING ...]"), ("COMMAND", "..."))
    yield "\n.br\n".join(f".B {_text(PROGRAM)}\n{_text(' '.join(form))}" for form in forms)
    yield from (".SH DESCRIPTION", _text(root.description or ""))
    yield _text("Without a command it serves clients; commands speak to the proxy that serves on this machine.")
    yield ".SH COMMANDS"
    for parser in root.commands():
        operands = " ".join(str(each.metavar) for each in parser._actions if not each.option_strings)
        yield f".SS {_text(f'{parser.command} {operands}'.strip())}"
        yield _text(parser.description or "")
        yield from _options(parser._actions)
    yield ".SH SETTINGS"
    yield _text("Each can stand in the file of --config as well, without its dashes.")
    for group in root._action_groups:
        settings = [each for each in group._group_actions if each.option_strings]
        if settings:
            yield f".SS {_text(str(group.title).capitalize())}"
            yield from _options(settings)
    yield ".SH EXIT STATUS"
    for code, meaning in MEANINGS.items():
        yield from _item(str(code), meaning)
    for title, rows in (("SIGNALS", _SIGNALS), ("ENVIRONMENT", _ENVIRONMENT)):
        yield f".SH {title}"
        for name, meaning in rows.items():
            yield from _item(name, meaning)


def _options(actions: list[argparse.Action]) -> Iterator[str]:
    for action in actions:
        if action.option_strings and action.help is not argparse.SUPPRESS:
            value = f" {action.metavar}" if action.nargs is None and action.metavar else ""
            text = (action.help or "") % {"default": action.default}
            yield from _item(f"{', '.join(action.option_strings)}{value}", text)


def _item(name: str, text: str) -> Iterator[str]:
    yield from (".TP", f".B {_text(name)}", _text(text))


def _text(text: str) -> str:
    """Return a text that is read as it is: no macro at its beginning, hyphens that can be searched for, and nothing but
    ASCII, since formatters disagree about the rest."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("\n", " ")
    escaped = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
