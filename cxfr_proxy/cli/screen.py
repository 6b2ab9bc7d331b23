"""The output of answers: for people as tables and sentences, on a terminal or not, and for programs as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

from cxfr_proxy.admin import sentences
from cxfr_proxy.admin.commands.views import View
from cxfr_proxy.admin.rows.codec import read_answer
from cxfr_proxy.admin.rows.order_rows import (
    DrainProgress,
    RebalanceProgress,
    RestartProgress,
    RollProgress,
    UpgradeProgress,
)
from cxfr_proxy.admin.text import clean, cut, record, table
from cxfr_proxy.cli.time_left import TimeLeft
from cxfr_proxy.units import counted

PROGRESS: Final = (DrainProgress, RebalanceProgress, RestartProgress, RollProgress, UpgradeProgress)
_HOME: Final = "\x1b[H"
_TO_END_OF_LINE: Final = "\x1b[K"
_TO_END_OF_SCREEN: Final = "\x1b[J"
"""ECMA-48: the cursor goes to the upper left; what is behind it is cleared. Nothing flickers, unlike with a screen that
is cleared first."""


def in_text(value: object, view: View | None, stream: TextIO, *, as_json: bool) -> str:
    """Return an answer as it is printed there. ``view`` is what rows are shown as; ``None``: the answer is no rows."""
    if as_json:
        return json.dumps(value)
    if view is not None and isinstance(value, list):
        room = shutil.get_terminal_size().columns if stream.isatty() else None
        return table(view.columns, [row for row in value if isinstance(row, dict)], room)
    if view is not None and isinstance(value, dict):
        return record(view.columns, value)
    answer = read_answer(value)
    # A proxy of another version: its words are better than nothing.
    return sentences.in_words(answer) if answer is not None else clean(json.dumps(value))


@dataclass(slots=True)
class AnswerScreen:
    """The output of one command. On a terminal progress is one line that is drawn again; elsewhere it is a line each
    time it changes, or a JSON value per line."""

    stream: TextIO
    as_json: bool
    view: View | None
    _time_left: TimeLeft = field(default_factory=TimeLeft)
    _last: str = ""
    _open_line: bool = False

    def progress(self, value: object) -> None:
        if self.as_json:
            self._print(json.dumps({"progress": value}))
            return
        row = read_answer(value)
        if not isinstance(row, PROGRESS):
            return
        if self.stream.isatty():
            seconds_left = self._time_left.note(time.monotonic(), row.left)
            bar = sentences.progress_bar(row, shutil.get_terminal_size().columns - 1, seconds_left)
            self.stream.write(f"\r{bar}{_TO_END_OF_LINE}")
            self.stream.flush()
            self._open_line = True
        elif (line := sentences.progress_line(row)) != self._last:
            self._last = line
            self._print(line)

    def result(self, value: object) -> None:
        self.end_line()
        self._print(in_text(value, self.view, self.stream, as_json=self.as_json))

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


@dataclass(slots=True)
class WatchScreen(AnswerScreen):
    """The output of a command that is asked again and again: on a terminal always in the same place, as much as has
    room; elsewhere one below the other. ``title`` is what is watched."""

    title: str = ""
    _notes: list[str] = field(default_factory=list)

    def progress(self, value: object) -> None:
        pass  # nothing that can be watched takes long

    def note(self, text: str) -> None:
        """Show it with the next answer."""
        self._notes.append(f"note: {clean(text)}")

    def result(self, value: object) -> None:
        self._draw(in_text(value, self.view, self.stream, as_json=self.as_json).splitlines())

    def failed(self, reason: str) -> None:
        """Show why there is no answer, in its place."""
        if self.as_json:
            print(f"cxfr-proxy: {clean(reason)}", file=sys.stderr)
        else:
            self._draw([clean(reason)])

    def _draw(self, lines: Sequence[str]) -> None:
        notes, self._notes = self._notes, []
        if self.as_json:
            for note in notes:
                print(f"cxfr-proxy: {note}", file=sys.stderr)
        elif self.stream.isatty():
            size = shutil.get_terminal_size()
            room = max(1, size.lines - len(notes) - 3)  # for the title, and for what is not shown
            more = [f"... and {counted(len(lines) - room, 'more line')}"] if len(lines) > room else []
            title = f"{self.title}  {time.strftime('%H:%M:%S')}  (Ctrl-C ends it)"
            drawn = [cut(line, size.columns) for line in (title, *lines[:room], *more, *notes)]
            end = f"{_TO_END_OF_LINE}\n"
            self.stream.write(f"{_HOME}{end.join(drawn)}{end}{_TO_END_OF_SCREEN}")
            self.stream.flush()
            return
        else:
            lines = [*lines, *notes, ""]
        print("\n".join(lines), file=self.stream, flush=True)
