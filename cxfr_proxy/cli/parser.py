"""The parser of the command line, drawn from the tables: nothing is listed twice."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

from cxfr_proxy import __version__
from cxfr_proxy.admin.commands.arguments import Argument
from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.commands.table import COMMANDS, SHOW, Command, Topic
from cxfr_proxy.config.settings import Group, Setting
from cxfr_proxy.config.table import SETTINGS, setting_named
from cxfr_proxy.errors import ConfigError

PROGRAM: Final = "cxfr-proxy"
_USAGE: Final = f"{PROGRAM} --backends FILE|URL --certificate FILE [SETTING ...]\n       {PROGRAM} COMMAND ..."
_EPILOG: Final = (
    f"{PROGRAM} help COMMAND tells more about a command; docs/configuration.md gives the reason for each default."
)

_BEHIND: Final = "behind:"
"""The beginning of the names of flags that may be repeated, where they were given behind a command: argparse would drop
those that were given before it."""


class Parser(argparse.ArgumentParser):
    """A mistake is one line, not a page of usage."""

    def __init__(self, **kwargs: Any) -> None:  # argparse's own
        super().__init__(**kwargs)
        self._optionals.title, self._positionals.title = "Options", "Arguments"

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')} (try: {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Say what was expected as everywhere else; argparse shows it as Python writes it (``<Role.VIEW: 'view'>``)."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"expected {' or '.join(action.choices)}, found '{value}'")

    def _print_message(self, message: str, file: Any = None) -> None:
        print(message, end="", file=file)  # argparse's own hides that it can't be written

    @property
    def words(self) -> dict[str, Parser]:
        """The parsers that go on behind each word that may come next; empty where a command is complete."""
        nested = (each for each in self._actions if isinstance(each, argparse._SubParsersAction))
        return next((each.choices for each in nested), {})

    @property
    def flags(self) -> dict[str, argparse.Action]:
        """The actions of its flags, by their names with dashes."""
        return {name: action for name, action in self._option_string_actions.items() if name.startswith("--")}

    @property
    def command(self) -> str:
        """The words of the command; empty where the program serves."""
        return self.prog.partition(" ")[2]

    def commands(self) -> Iterator[Parser]:
        """Yield the parsers of all commands: ``drain``, ``show nodes`` and so on."""
        for parser in self.words.values():
            yield from parser.commands() if parser.words else (parser,)


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

        print(f"{PROGRAM} {__version__} (framer: {framer.ENGINE.chosen}, relay: {engine.ENGINE.chosen})")
        parser.exit()


def build_parser() -> Parser:
    """Return the whole command line; every setting's value stays text, for :meth:`Config.from_sources` to read."""
    parser = Parser(
        prog=PROGRAM,
        usage=_USAGE,
        description="Front proxy for XMPP clients. Empties a server by telling each client where to go (XEP-0051).",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.set_defaults(command=None)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    _add_config(parser)
    _add_commands(parser)
    for group in Group:
        heading = parser.add_argument_group(group.value)
        for setting in SETTINGS:
            if setting.row.group is group:
                _add_setting(heading, setting)
    return parser


_Words = argparse._SubParsersAction  # argparse gives this type no public name
_Heading = argparse._ActionsContainer


# --- settings


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


# --- commands


def _add_commands(parser: Parser) -> None:
    # argparse would list them in no order, behind the settings; in the help they stand under headings of their own.
    words = parser.add_subparsers(metavar="COMMAND", prog=PROGRAM, help=argparse.SUPPRESS)
    listed: list[tuple[Topic, _ListedCommand]] = []
    shown = words.add_parser(
        SHOW, usage=f"{PROGRAM} {SHOW} WHAT ...", description="Show what the proxy knows.", allow_abbrev=False
    )
    views = shown.add_subparsers(metavar="WHAT", prog=f"{PROGRAM} {SHOW}", help=argparse.SUPPRESS)
    for command in COMMANDS:
        outer, _, word = command.name.rpartition(" ")
        made = _add_command(views if outer else words, word, command)
        listed.append((command.topic, _ListedCommand(made, command.help)))
    for local in _LOCAL:
        made = words.add_parser(
            local.name, help=local.help, description=local.help.capitalize() + ".", allow_abbrev=False
        )
        made.set_defaults(command=local.name)
        local.add_to(made)
        listed.append((local.topic, _ListedCommand(made, local.help)))
    for topic in Topic:
        heading = parser.add_argument_group(topic.value)
        heading._group_actions += [line for its_topic, line in listed if its_topic is topic]
    what = shown.add_argument_group("What")
    what._group_actions += [line for _, line in listed if line.metavar.startswith(f"{SHOW} ")]
    # --help and --version come behind the commands, which is what one looks for.
    parser._action_groups.remove(parser._optionals)
    parser._action_groups.append(parser._optionals)


class _ListedCommand(argparse.Action):
    """A line of the help: a command with its words, and what it does."""

    def __init__(self, parser: Parser, summary: str) -> None:
        operands = [str(each.metavar) for each in parser._actions if not each.option_strings]
        super().__init__((), argparse.SUPPRESS, help=summary)
        self.metavar: str = " ".join([parser.command, *operands])

    def __call__(self, *_: object) -> NoReturn:
        raise AssertionError("it is never parsed")


def _add_command(words: _Words[Parser], word: str, command: Command) -> Parser:
    parser = words.add_parser(word, help=command.help, description=command.help.capitalize() + ".", allow_abbrev=False)
    parser.set_defaults(command=command)
    for argument in command.arguments:
        _add_argument(parser, argument)
    parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    if not command.mutates:
        parser.add_argument("--watch", action="store_true", help="show it again every two seconds, until interrupted")
    _add_config(parser)
    _add_setting(parser, setting_named("control"))
    return parser


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    text = argument.help.replace("%", "%%")
    if argument.value_type is None:
        parser.add_argument(f"--{argument.name}", dest=argument.name, action="store_true", help=text)
    elif argument.many:
        count = "*" if argument.optional else "+"
        parser.add_argument(argument.name, metavar=argument.value_type.metavar, nargs=count, help=text)
    elif argument.positional:
        parser.add_argument(argument.name, metavar=argument.value_type.metavar, help=text)
    else:
        metavar = argument.value_type.metavar
        parser.add_argument(f"--{argument.name}", dest=argument.name, metavar=metavar, help=text)


# --- commands that need no proxy


@dataclass(frozen=True, slots=True)
class LocalCommand:
    """A command that this program carries out itself. ``add_to`` adds its arguments to its parser."""

    name: str
    help: str
    topic: Topic
    add_to: Callable[[Parser], None]


def _add_help(parser: Parser) -> None:
    parser.add_argument("words", metavar="[COMMAND]", nargs="*", help="such as drain, or show nodes; none: all of them")


def _add_check(parser: Parser) -> None:
    parser.add_argument("--connect", action="store_true", help="connect to each node as a client would be, too")
    _add_settings_again(parser)


def _add_doctor(parser: Parser) -> None:
    parser.add_argument(
        "--user", dest="log_in_as", metavar="JID", help="log in on each node as that user, and ask more"
    )
    parser.add_argument(
        "--password-file", metavar="FILE", help="the user's password (default: ask for it at the terminal)"
    )
    parser.add_argument(
        "--ignore",
        metavar="FINDING",
        action="append",
        help="leave findings of this name out, also for the exit code, such as channel-binding; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    _add_settings_again(parser)


def _add_settings_again(parser: Parser) -> None:
    """Have the command take every setting behind its word as well."""
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


def _add_demo(parser: Parser) -> None:
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


def _add_completion(parser: Parser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")


def _add_token(parser: Parser) -> None:
    parser.add_argument("role", metavar="ROLE", choices=tuple(Role), help=" or ".join(Role))
    parser.add_argument("name", metavar="NAME", help="whose it is; the log names them so")


def _add_nothing(parser: Parser) -> None:
    pass


_LOCAL: Final = (
    LocalCommand("help", "show how a command is used", Topic.SEE, _add_help),
    LocalCommand(
        "check", "check the settings, the nodes and the user map, and show every fault", Topic.RUN, _add_check
    ),
    LocalCommand(
        "doctor",
        "look at the nodes as clients find them, and name each fault with the setting that mends it",
        Topic.RUN,
        _add_doctor,
    ),
    LocalCommand(
        "demo",
        "run a small cluster with clients on this machine, drain a node of it, and count every message",
        Topic.RUN,
        _add_demo,
    ),
    LocalCommand(
        "token",
        "make a token for the API by HTTP: its line for the file of http-tokens goes to standard output, and the token "
        "itself, which is told only once, to standard error",
        Topic.RUN,
        _add_token,
    ),
    LocalCommand("completion", "write a completion script for a shell", Topic.RUN, _add_completion),
    LocalCommand("manual", "write the manual page, for man", Topic.RUN, _add_nothing),
)
