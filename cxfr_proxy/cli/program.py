"""The program: serve, or carry out the command that is named."""

from __future__ import annotations

import argparse
import errno
import io
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, TextIO

from cxfr_proxy import events, log_hooks, signals
from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.commands.table import Command
from cxfr_proxy.admin.text import clean
from cxfr_proxy.cli.checking import check
from cxfr_proxy.cli.exit_codes import INTERRUPTED, MISTAKE, NO_PROXY, OK, UNREAD
from cxfr_proxy.cli.hints import check_words, find_command
from cxfr_proxy.cli.parser import Parser, build_parser, joined
from cxfr_proxy.cli.rolling import RollConversation
from cxfr_proxy.cli.speaking import speak
from cxfr_proxy.config import values
from cxfr_proxy.config.control_places import find_control
from cxfr_proxy.config.source import ConfigSource
from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import ConfigError, NoProxy

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a write to a file on a disk. Other files that a command writes have messages of their own for these."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; ``None`` takes the process's arguments. Returns the exit code, but argparse exits for --help."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a JID need not fit the terminal's encoding
    try:
        try:
            words = sys.argv[1:] if argv is None else argv
            parser = build_parser()
            check_words(words, parser)
            _choose_engine()
            return _run(parser, _parse(parser, words))
        finally:
            sys.stdout.flush()  # Python would do it at exit, and say in its own way that it can't
    except ConfigError as exc:
        for line in str(exc).splitlines():
            _say(f"cxfr-proxy: {clean(line)}")
        return NO_PROXY if isinstance(exc, NoProxy) else MISTAKE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseExceptionGroup as exc:
        if exc.split(KeyboardInterrupt)[1] is not None:
            raise
        return INTERRUPTED  # it came while a nursery was waited for
    except OSError as exc:
        if exc.errno not in _NO_ROOM and not isinstance(exc, BrokenPipeError):
            raise
        if not isinstance(exc, BrokenPipeError):  # else its reader has seen enough (`| head`)
            _say(f"cxfr-proxy: the output can't be written: {exc.strerror}")
        _discard(sys.stdout)
        return UNREAD
    finally:
        _say()


def _say(*lines: str) -> None:
    """Say it on standard error. Where that can't be written either, the exit code has to do."""
    try:
        for line in lines:
            print(line, file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Let what is left in a stream go: Python would complain once more at exit, and end with a code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parse(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Raises :class:`ConfigError`; what is too much is said by the command's own parser, whose
    help is the one to read."""
    namespace, further = parser.parse_known_args(words)
    if further:
        command = namespace.command
        name = command.name if isinstance(command, Command) else command or ""
        find_command(name.split(), parser).error(f"unrecognized arguments: {shlex.join(further)}")
    return namespace


def _choose_engine() -> None:
    """Return what the environment says about the engine. It says so to few, and the others needn't wait for the
    import."""
    if os.environ.get("CXFR_ENGINE"):
        from cxfr_proxy.relay import engine

        engine.use_from_environment()


def _run(parser: Parser, namespace: argparse.Namespace) -> int:
    flags = joined(vars(namespace))
    command = flags["command"]
    if command is not None:  # else it is a proxy's life that begins
        signals.release()
    if command == "help":
        find_command(namespace.words, parser).print_help()
        return OK
    if command == "completion":
        from cxfr_proxy.cli.completion import SHELLS

        print(SHELLS[namespace.shell](parser), end="")
        return OK
    if command == "manual":
        from cxfr_proxy.cli.manual import render_manual

        print(render_manual(parser), end="")
        return OK
    if command == "token":
        return _token(str(flags["role"]), str(flags["name"]))
    if command == "demo":
        return _demo(str(flags["clients"]), str(flags["seed"]), str(flags["trigger"]))
    source = ConfigSource(flags)
    if command == "check":
        return check(*source.gather(), dials=bool(flags["connect"]))
    if command is None:
        return _serve(source)
    config = source.read()
    if command == "doctor":
        from cxfr_proxy.cli.doctoring import examine_nodes

        return examine_nodes(config, flags)
    assert isinstance(command, Command)
    conversation = RollConversation(flags["run"]) if command.name == "roll" else None
    return speak(command, flags, partial(_control, config, source), conversation)


def _token(role: str, name: str) -> int:
    from cxfr_proxy.admin.http.tokens import make_token

    secret, token = make_token(Role(role), name)
    print(token)
    print(secret, file=sys.stderr)
    return OK


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


def _serve(source: ConfigSource) -> int:
    from cxfr_proxy.proxy import run
    from cxfr_proxy.supervisor.upgrading.handover import taking_the_place_of_another

    with taking_the_place_of_another(os.environ) as handover:
        config = source.read()
        config.check_serving()
        events.open_log(config.log_format, config.log_level, sys.stderr)
        log_hooks.install()
        return run(config, source, handover)


def _control(config: Config, source: ConfigSource) -> Path:
    """Return the path where the proxy was told to listen, or else where one is found."""
    return config.control if "control" in source.origins else find_control()
