"""The command line: ``cxfr-proxy [SETTINGS]`` serves, ``cxfr-proxy COMMAND`` speaks to a proxy that serves.

Nothing is listed twice: flags come from the table of settings, commands and their arguments from the table of
commands. Exit codes tell the outcome to scripts:

===== ==================================================================================
0     done; for ``--wait``: the node is empty, all workers are replaced, all who had to move were
      asked; for ``check``: no faults
1     ``--wait``: not empty at the deadline, not all replaced, not all asked; ``drain --plan``: logins
      would be refused; ``check``: the nodes file has faults
2     the operator's mistake (usage, settings, unknown node, no proxy running): one line says which
130   interrupted; what was started goes on
141   nobody reads the output any more; what was started goes on
===== ==================================================================================

What a command needs is imported when it runs: ``show`` doesn't load a TLS library.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TextIO, TypeVar

import trio

from cxfr_proxy import __version__, cli_tables, events, log_hooks, signals
from cxfr_proxy.admin.arguments import Argument
from cxfr_proxy.admin.commands import COMMANDS, Command
from cxfr_proxy.admin.control import client
from cxfr_proxy.config import values
from cxfr_proxy.config.control_places import find_control
from cxfr_proxy.config.settings import Group, Setting, SettingsFile, read_settings_file
from cxfr_proxy.config.table import SETTINGS, Config
from cxfr_proxy.errors import ConfigError

if TYPE_CHECKING:
    from cxfr_proxy.cluster.nodes import NodeSpec
    from cxfr_proxy.cluster.sources.source import NodeSource, Reading
T = TypeVar("T")

OK: Final = 0
UNFINISHED: Final = 1
FAULTS: Final = 1
MISTAKE: Final = 2
INTERRUPTED: Final = 130
"""Exit code that shells give a program that SIGINT ended."""
UNREAD: Final = 141
"""The same for SIGPIPE."""

_USAGE: Final = "cxfr-proxy --backends FILE|URL --certificate FILE [SETTING ...]\n       cxfr-proxy COMMAND ..."
_EPILOG: Final = (
    "cxfr-proxy COMMAND --help tells more about a command; docs/configuration.md gives the reason for each default."
)


class _Parser(argparse.ArgumentParser):
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


def build_parser() -> _Parser:
    """Return the whole command line; every setting's value stays text, for :meth:`Config.from_sources` to read."""
    parser = _Parser(
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


def _add_setting(parser: _Heading, setting: Setting) -> None:
    repeated = "; may be repeated" if setting.row.repeatable else ""
    text = f"{setting.row.help} (default: {setting.default}{repeated})"
    parser.add_argument(
        f"--{setting.name}",
        metavar=setting.row.value_type.metavar,
        action="append" if setting.row.repeatable else "store",
        default=argparse.SUPPRESS,
        help=text.replace("%", "%%"),
    )


def _setting_named(name: str) -> Setting:
    return next(setting for setting in SETTINGS if setting.name == name)


def _add_command(commands: _Commands[_Parser], command: Command) -> None:
    parser = commands.add_parser(
        command.name, help=command.help, description=command.help.capitalize() + ".", allow_abbrev=False
    )
    parser.set_defaults(command=command)
    for argument in command.arguments:
        _add_argument(parser, argument)
    parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    _add_config(parser)
    _add_setting(parser, _setting_named("control"))


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    if argument.value_type is None:
        parser.add_argument(f"--{argument.name}", dest=argument.name, action="store_true", help=argument.help)
    elif argument.positional:
        metavar = None if argument.choices else argument.value_type.metavar
        choices = argument.choices or None
        parser.add_argument(argument.name, metavar=metavar, choices=choices, help=argument.help)
    else:
        metavar = argument.value_type.metavar
        parser.add_argument(f"--{argument.name}", dest=argument.name, metavar=metavar, help=argument.help)


def _add_check(commands: _Commands[_Parser]) -> None:
    text = "check the settings, the nodes and the user map, and show every fault"
    parser = commands.add_parser("check", help=text, description=text.capitalize() + ".", allow_abbrev=False)
    parser.set_defaults(command="check")
    _add_config(parser)
    _add_setting(parser, _setting_named("backends"))
    _add_setting(parser, _setting_named("user-map"))


def _add_demo(commands: _Commands[_Parser]) -> None:
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


def _check_flags(argv: Sequence[str], parser: _Parser) -> None:
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


def _unknown_flag(flag: str, parser: _Parser, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(flag, known, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else f" (try: {parser.prog} --help)"
    _, _, command = parser.prog.partition(" ")
    return f"{command} has no flag {flag}{hint}" if command else f"unknown flag {flag}{hint}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; ``None`` takes the process's arguments. Returns the exit code, but argparse exits for --help."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a JID need not fit the terminal's encoding
    try:
        words = sys.argv[1:] if argv is None else argv
        parser = build_parser()
        _check_flags(words, parser)
        _choose_engine()
        return _run(parser.parse_args(words))
    except ConfigError as exc:
        for line in str(exc).splitlines():
            print(f"cxfr-proxy: {cli_tables.clean(line)}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has seen enough (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


def _choose_engine() -> None:
    """Return what the environment says about the engine. It says so to few, and the others needn't wait for the
    import."""
    if os.environ.get("CXFR_ENGINE"):
        from cxfr_proxy.relay import engine

        engine.use_from_environment()


def _run(namespace: argparse.Namespace) -> int:
    flags: dict[str, object] = vars(namespace)
    command = flags["command"]
    if command is not None:  # else it is a proxy's life that begins
        signals.release()
    if command == "demo":
        return _demo(str(flags["clients"]), str(flags["seed"]), str(flags["trigger"]))
    path = flags.get("config")
    file = read_settings_file(path, SETTINGS) if isinstance(path, str) else None
    config = Config.from_sources(flags, file)
    if isinstance(command, Command):
        return _speak(command, flags, partial(_control, config, flags, file))
    if command == "check":
        return _check(config)
    reread = partial(_read_settings_again, flags, path) if isinstance(path, str) else None
    return _serve(config, reread)


def _read_settings_again(flags: Mapping[str, object], path: str) -> Config:
    """Raises :class:`ConfigError`."""
    config = Config.from_sources(flags, read_settings_file(path, SETTINGS))
    config.check_serving()
    return config


def _demo(clients: str, seed: str, trigger: str) -> int:
    counts = []
    for label, text, minimum in (("--clients", clients, 1), ("--seed", seed, 0)):
        try:
            counts.append(values.whole(minimum=minimum).parse(text))
        except ConfigError as exc:
            raise ConfigError(f"{label}: {exc.message}") from exc
    from cxfr_proxy.demo import DemoOptions, DemoTrigger
    from cxfr_proxy.demo import main as demo

    return demo(DemoOptions(clients=counts[0], seed=counts[1], trigger=DemoTrigger(trigger)))


def _serve(config: Config, reread: Callable[[], Config] | None) -> int:
    config.check_serving()
    from cxfr_proxy.proxy import run

    events.open_log(config.log_format, config.log_level, sys.stderr)
    log_hooks.install()
    return run(config, reread)


def _check(config: Config) -> int:
    from cxfr_proxy.cluster.hints import hints

    code, nodes = _find_faults(config)
    for line in hints(nodes) if nodes is not None and code == OK else ():
        print(cli_tables.clean(line))
    return code


def _find_faults(config: Config) -> tuple[int, Sequence[NodeSpec] | None]:
    """Print the faults, file by file. Return the exit code, and the nodes if they have none."""
    if config.backends is None:
        raise ConfigError("--backends FILE is needed: it is what to check")
    from cxfr_proxy.cluster.sources.file import UserMapFile
    from cxfr_proxy.cluster.sources.named import open_source

    nodes = _read(partial(_read_nodes, open_source(config.backends, config.redirection)))
    if nodes is not None and _read(partial(_read_authorities, config, nodes)) is not None:
        print(cli_tables.clean(f"{config.backends}: {len(nodes)} node{'s' * (len(nodes) != 1)}, no faults"))
    else:
        nodes = None
    certificates = _read(partial(_read_certificates, config))
    good = nodes is not None and certificates is not None
    if certificates:
        print(f"{certificates} certificate{'s' * (certificates != 1)}, no faults")
    if config.user_map is None:
        return OK if good else FAULTS, nodes
    listed = _read(UserMapFile(config.user_map).load)
    if listed is not None:
        unknown = set(listed.nodes) - {spec.name for spec in nodes} if nodes is not None else ()
        hint = f"; no such node: {', '.join(sorted(unknown)[:10])}" if unknown else ""
        print(f"{config.user_map}: {len(listed)} user{'s' * (len(listed) != 1)}, no faults{hint}")
    return OK if good and listed is not None else FAULTS, nodes


def _read_authorities(config: Config, nodes: Sequence[NodeSpec]) -> bool:
    """Return the files with CA certificates that nodes name."""
    from cxfr_proxy.upstream.dial import Dialer

    Dialer(config.timeouts, config.limits).read_files(nodes)
    return True


def _read_certificates(config: Config) -> int:
    """Check the certificates, each with its key. Return how many there are; none that clients would object to."""
    if not config.key_pairs:
        return 0
    from cxfr_proxy.net.tls import ServerCertificates

    certificates = ServerCertificates(config.key_pairs, domains=config.domain)
    for name in certificates.unusable:
        print(cli_tables.clean(f"{name}: no client here is helped by that name"))
    if certificates.problems:
        raise ConfigError("\n".join(certificates.problems))
    return len(config.key_pairs)


def _read(load: Callable[[], T]) -> T | None:
    """``None`` where there are faults, which are printed."""
    try:
        return load()
    except ConfigError as exc:
        for error in getattr(exc, "errors", (exc,)):
            print(cli_tables.clean(str(error)))
        return None


def _read_nodes(source: NodeSource) -> Sequence[NodeSpec]:
    """Once. A reading with faults, which a proxy would make the best of, is none."""
    from cxfr_proxy.cluster.tokens import FileFaults

    async def read() -> Reading:
        try:
            return await source.read()
        finally:
            await source.aclose()

    reading = trio.run(read)
    if reading.faults:
        raise FileFaults(map(ConfigError, reading.faults))
    return reading.specs


def _control(config: Config, flags: Mapping[str, object], file: SettingsFile | None) -> Path:
    """Return the path where the proxy was told to listen, or else where one is found."""
    told = "control" in flags or (file is not None and "control" in file.values)
    return config.control if told else find_control()


def _speak(command: Command, flags: Mapping[str, object], find: Callable[[], Path]) -> int:
    """Send a command to the running proxy, whose socket ``find`` finds, and show its answers."""
    given = {each.name: flags[each.name] for each in command.arguments if flags[each.name] is not None}
    command.read_arguments(given)  # a mistake needs no proxy to be told
    watched = bool(given.get("wait"))
    screen = _Screen(sys.stdout, as_json=bool(flags["json"]))
    view = cli_tables.VIEWS.get(str(given.get("what")))
    try:
        result = trio.run(_converse, find(), command.name, given, screen)
    except KeyboardInterrupt:
        screen.end_line()
        if watched:
            print(f"cxfr-proxy: no longer watching; {command.goes_on.format(**given)}", file=sys.stderr)
        return INTERRUPTED
    except ConfigError:
        screen.end_line()
        raise
    screen.result(result, view)
    if not watched:
        return UNFINISHED if isinstance(result, dict) and result.get("refuses_logins") else OK
    return OK if isinstance(result, dict) and result.get("left") == 0 else UNFINISHED


async def _converse(path: Path, command: str, given: Mapping[str, object], screen: _Screen) -> object:
    async with aclosing(client.call(path, command, given)) as answers:
        async for answer in answers:
            if isinstance(answer, client.Result):
                return answer.value
            if isinstance(answer, client.Interim):
                screen.progress(answer.value)
            else:
                screen.note(answer.note)
    raise AssertionError("call() ends with a result or an error")


@dataclass(slots=True)
class _Screen:
    """The output of answers. On a terminal progress is one line that is drawn again; elsewhere it is a line each
    time it changes, or a JSON value per line."""

    stream: TextIO
    as_json: bool
    _last: str = ""
    _open_line: bool = False

    def progress(self, row: object) -> None:
        if self.as_json:
            self._print(json.dumps({"progress": row}))
        elif isinstance(row, dict):
            if self.stream.isatty():
                bar = cli_tables.progress_bar(row, shutil.get_terminal_size().columns - 1)
                self.stream.write(f"\r{bar}\x1b[K")
                self.stream.flush()
                self._open_line = True
            elif (line := cli_tables.progress_line(row)) != self._last:
                self._last = line
                self._print(line)

    def result(self, value: object, view: Sequence[cli_tables.Column] | None) -> None:
        self.end_line()
        if self.as_json:
            self._print(json.dumps(value))
        elif view is not None and isinstance(value, list):
            self._print(cli_tables.table(view, [row for row in value if isinstance(row, dict)]))
        elif isinstance(value, dict) and "targets" in value:
            self._print(cli_tables.plan(value))
        elif isinstance(value, dict) and "moves" in value:
            self._print(cli_tables.rebalance_plan(value))
        elif isinstance(value, dict) and "left" in value:
            self._print(cli_tables.outcome(value))
        elif isinstance(value, dict):
            self._print(cli_tables.clean(str(value.get("message"))))

    def note(self, text: str) -> None:
        """Beside the answer, and not part of it."""
        self.end_line()
        print(f"cxfr-proxy: {cli_tables.clean(text)}", file=sys.stderr)

    def end_line(self) -> None:
        """Leave the line that was being drawn, so that what follows starts on its own."""
        if self._open_line:
            self._print("")
            self._open_line = False

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)
