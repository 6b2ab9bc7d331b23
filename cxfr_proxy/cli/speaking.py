"""Speaking to the proxy that runs: a command goes out, its answers are shown as they come."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import trio

from cxfr_proxy.admin import sentences
from cxfr_proxy.admin.codec import read_answer
from cxfr_proxy.admin.commands import Command
from cxfr_proxy.admin.control import client
from cxfr_proxy.admin.rows import (
    DrainPlan,
    DrainProgress,
    RebalanceProgress,
    ReloadFaults,
    RestartProgress,
    RollPlan,
    RollProgress,
)
from cxfr_proxy.admin.text import clean, table
from cxfr_proxy.admin.views import VIEWS
from cxfr_proxy.cli.exit_codes import FAULTS, INTERRUPTED, OK, UNFINISHED
from cxfr_proxy.errors import ConfigError

_PROGRESS = (DrainProgress, RebalanceProgress, RestartProgress, RollProgress)


class Conversation:
    """A command that is sent, and its answers."""

    async def hold(self, path: Path, command: str, given: Mapping[str, object], screen: AnswerScreen) -> object:
        """Send the command to the proxy on ``path`` and show its answers but for the last one, which is returned.

        Raises :class:`ConfigError`.
        """
        async with aclosing(client.call(path, command, given)) as answers:
            async for answer in answers:
                if isinstance(answer, client.Result):
                    return answer.value
                if isinstance(answer, client.Interim):
                    screen.progress(answer.value)
                    self.on_progress(answer.value)
                else:
                    screen.note(answer.note)
        raise AssertionError("call() ends with a result or an error")

    def on_progress(self, value: object) -> None:
        """Act on progress that was shown, as decoded JSON."""


def speak(
    command: Command,
    flags: Mapping[str, object],
    find: Callable[[], Path],
    conversation: Conversation | None = None,
) -> int:
    """Send a command to the running proxy, whose socket ``find`` finds, and show its answers; return the exit code.

    ``conversation`` holds it, ``None``: one that does nothing else. Raises :class:`ConfigError`.
    """
    values = {each: flags[each.name] for each in command.arguments if flags[each.name] is not None}
    given = {each.name: True if each.stays else value for each, value in values.items()}
    command.read_arguments(given)  # a mistake needs no proxy to be told
    watched = command.is_waited_for(given)
    screen = AnswerScreen(sys.stdout, as_json=bool(flags["json"]), view=str(given.get("what")))
    try:
        conversation = conversation if conversation is not None else Conversation()
        result = trio.run(conversation.hold, find(), command.name, given, screen)
    except KeyboardInterrupt:
        screen.end_line()
        if watched:
            print(f"cxfr-proxy: no longer watching; {command.goes_on.format(**given)}", file=sys.stderr)
        return INTERRUPTED
    except ConfigError:
        screen.end_line()
        raise
    screen.result(result)
    return _exit_code(result, watched=watched)


def _exit_code(result: object, *, watched: bool) -> int:
    answer = read_answer(result)
    if watched:
        return OK if isinstance(answer, _PROGRESS) and answer.left == 0 else UNFINISHED
    if isinstance(answer, ReloadFaults):
        return FAULTS
    return UNFINISHED if isinstance(answer, DrainPlan | RollPlan) and answer.refuses_logins else OK


@dataclass(slots=True)
class AnswerScreen:
    """The output of answers. On a terminal progress is one line that is drawn again; elsewhere it is a line each
    time it changes, or a JSON value per line. ``view`` is what lists are shown as."""

    stream: TextIO
    as_json: bool
    view: str
    _last: str = ""
    _open_line: bool = False

    def progress(self, value: object) -> None:
        if self.as_json:
            self._print(json.dumps({"progress": value}))
            return
        row = read_answer(value)
        if not isinstance(row, _PROGRESS):
            return
        if self.stream.isatty():
            bar = sentences.progress_bar(row, shutil.get_terminal_size().columns - 1)
            self.stream.write(f"\r{bar}\x1b[K")
            self.stream.flush()
            self._open_line = True
        elif (line := sentences.progress_line(row)) != self._last:
            self._last = line
            self._print(line)

    def result(self, value: object) -> None:
        self.end_line()
        if self.as_json:
            self._print(json.dumps(value))
        elif isinstance(value, list) and self.view in VIEWS:
            rows = [row for row in value if isinstance(row, dict)]
            self._print(table(VIEWS[self.view].columns, rows))
        elif (answer := read_answer(value)) is not None:
            self._print(sentences.in_words(answer))
        else:  # a proxy of another version: what it says is better than nothing
            self._print(clean(json.dumps(value)))

    def note(self, text: str) -> None:
        """Show it beside the answer, which it is no part of."""
        self.end_line()
        print(f"cxfr-proxy: {clean(text)}", file=sys.stderr)

    def end_line(self) -> None:
        """Leave the line that was being drawn, so that what follows starts on its own."""
        if self._open_line:
            self._print("")
            self._open_line = False

    def _print(self, line: str) -> None:
        print(line, file=self.stream, flush=True)
