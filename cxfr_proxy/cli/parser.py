"""The parser of the command line, drawn from the tables: nothing is listed twice."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn, cast

from cxfr_proxy import __version__
from cxfr_proxy.admin.arguments import Argument
from cxfr_proxy.admin.commands import COMMANDS, Command
from cxfr_proxy.config.settings import Group, Setting
from cxfr_proxy.config.table import SETTINGS, setting_named
from cxfr_proxy.errors import ConfigError

_USAGE: Final = "cxfr-proxy --backends FILE|URL --certificate FILE [SETTING ...]\n       cxfr-proxy COMMAND ..."
_EPILOG: Final = (
    "cxfr-proxy COMMAND --help tells more about a command; docs/configuration.md gives the reason for each default."
)

_BEHIND: Final = "behind:"
"""The beginning of the names of flags that may be repeated, where they were given behind a command: argparse would drop
those that were given before it."""


class Parser(argparse.ArgumentParser):
    """A mistake is one line, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (try: {self.prog} --help)")


class _Version(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        from cxfr_proxy.relay import engine
        from cxfr_proxy.xmpp.framing import framer

        print(f"cxfr-proxy {__version__} (framer: {framer.ENGINE}, relay: {engine.ENGINE})")
        parser.exit()


def build_parser() -> Parser:
    """Return the whole command line; every setting's value stays text, for :meth:`Config.from_sources` to read."""
    parser = Parser(
        prog="cxfr-proxy",
        usage=_USAGE,
        description="Front proxy for XMPP clients. Empties a server by telling each client where to go (XEP-0051).",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.set_defaults(command=None)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    _add_config(parser)
    for group in Group:
        heading = parser.add_argument_group(group.value)
        for setting in SETTINGS:
            if setting.row.group is group:
                _add_setting(heading, setting)
    # Without a metavar, usage would list every name in braces.
    commands = parser.add_subparsers(title="Commands", metavar="COMMAND", prog="cxfr-proxy")
    for command in COMMANDS:
        _add_command(commands, command)
    _add_check(commands)
    _add_demo(commands)
    return parser


_Commands = argparse._SubParsersAction  # argparse gives this type no public name
_Heading = argparse._ActionsContainer


def _add_config(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: a flag before the command must not be undone by the same flag's default after it.
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="TOML file with settings; flags win over it"
    )


def _add_setting(parser: _Heading, setting: Setting, dest: str | None = None) -> None:
    repeated = "; may be repeated" if setting.row.repeatable else ""
    text = f"{setting.row.help} (default: {setting.default}{repeated})"
    parser.add_argument(
        f"--{setting.name}",
        dest=dest or setting.attribute,
        metavar=setting.row.value_type.metavar,
        action="append" if setting.row.repeatable else "store",
        default=argparse.SUPPRESS,
        help=text.replace("%", "%%"),
    )


def _add_command(commands: _Commands[Parser], command: Command) -> None:
    parser = commands.add_parser(
        command.name, help=command.help, description=command.help.capitalize() + ".", allow_abbrev=False
    )
    parser.set_defaults(command=command)
    for argument in command.arguments:
        _add_argument(parser, argument)
    parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    _add_config(parser)
    _add_setting(parser, setting_named("control"))


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    if argument.value_type is None:
        parser.add_argument(f"--{argument.name}", dest=argument.name, action="store_true", help=argument.help)
    elif argument.many:
        count = "*" if argument.optional else "+"
        parser.add_argument(argument.name, metavar=argument.value_type.metavar, nargs=count, help=argument.help)
    elif argument.positional:
        metavar = None if argument.choices else argument.value_type.metavar
        choices = argument.choices or None
        parser.add_argument(argument.name, metavar=metavar, choices=choices, help=argument.help)
    else:
        metavar = argument.value_type.metavar
        parser.add_argument(f"--{argument.name}", dest=argument.name, metavar=metavar, help=argument.help)


def _add_check(commands: _Commands[Parser]) -> None:
    text = "check the settings, the nodes and the user map, and show every fault"
    parser = commands.add_parser("check", help=text, description=text.capitalize() + ".", allow_abbrev=False)
    parser.set_defaults(command="check")
    parser.add_argument("--connect", action="store_true", help="connect to each node as a client would be, too")
    _add_config(parser)
    for group in Group:
        heading = parser.add_argument_group(group.value)
        for setting in SETTINGS:
            if setting.row.group is group:
                _add_setting(heading, setting, _BEHIND + setting.attribute if setting.row.repeatable else None)


def joined(flags: Mapping[str, object]) -> dict[str, object]:
    """Return parsed flags, of which those that may be repeated have the values from both sides of the command's
    word."""
    found = {name: value for name, value in flags.items() if not name.startswith(_BEHIND)}
    for name, values in flags.items():
        if name.startswith(_BEHIND):
            before = found.get(name.removeprefix(_BEHIND), [])
            found[name.removeprefix(_BEHIND)] = [*cast("list[str]", before), *cast("list[str]", values)]
    return found


def _add_demo(commands: _Commands[Parser]) -> None:
    text = "run a small cluster with clients on this machine, drain a node of it, and count every message"
    parser = commands.add_parser("demo", help=text, description=text.capitalize() + ".", allow_abbrev=False)
    parser.set_defaults(command="demo")
    parser.add_argument("--clients", default="200", metavar="N", help="clients (default: %(default)s)")
    parser.add_argument(
        "--seed", default="1", metavar="N", help="what decides the clients' random choices (default: %(default)s)"
    )
    parser.add_argument(
        "--trigger",
        default="drain",
        choices=("drain", "remove", "sigterm", "kill"),
        help="what happens to the node (default: %(default)s)",
    )


def check_flags(argv: Sequence[str], parser: Parser) -> None:
    """Raise :class:`ConfigError` for a flag that is not known where it stands, before the command or behind it.

    argparse would take the word after a mistyped flag for the command, and complain about that one.
    """
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    here, words = parser, iter(argv)
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag == "--":
            return
        if not flag.startswith("--"):
            if here is parser and word in commands:
                here = commands[word]
            continue
        actions = here._option_string_actions
        if flag not in actions:
            raise ConfigError(_unknown_flag(flag, here, [each for each in actions if each.startswith("--")]))
        if not equals and actions[flag].nargs is None:
            next(words, None)  # its value, which may be named as a command is


def _unknown_flag(flag: str, parser: Parser, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(flag, known, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else f" (try: {parser.prog} --help)"
    _, _, command = parser.prog.partition(" ")
    return f"{command} has no flag {flag}{hint}" if command else f"unknown flag {flag}{hint}"
