"""Read an operator's file one token at a time, so that every fault has a place.

A line is words with white space between; a ``#`` where a word could start begins a comment.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.errors import ConfigError

_WORD: Final = re.compile(r"\S+")
_SHOWN_CHARACTERS: Final = 60
"""Longest word in a message: the column says where it is."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a line that knows where it stands."""

    text: str
    file: str
    line: int
    column: int

    def part(self, start: int, end: int | None = None) -> Token:
        return Token(self.text[start:end], self.file, self.line, self.column + start)

    def fault(self, message: str) -> ConfigError:
        return ConfigError(message, file=self.file, line=self.line, column=self.column)

    def expected(self, what: str) -> ConfigError:
        shown = self.text if len(self.text) <= _SHOWN_CHARACTERS else self.text[:_SHOWN_CHARACTERS] + "..."
        return self.fault(f"expected {what}, found {repr(shown) if shown else 'nothing'}")


class FileFaults(ConfigError):
    """A file that cannot be used. ``errors`` are its faults in file order; ``str()`` has one a line."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors: tuple[ConfigError, ...] = tuple(errors)
        first = self.errors[0]
        super().__init__(first.message, file=first.file, line=first.line, column=first.column)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def tokens_of(line: str, file: str, number: int) -> list[Token]:
    """Return the words of line ``number`` (from 1) before its comment."""
    words = [Token(found[0], file, number, found.start() + 1) for found in _WORD.finditer(line)]
    comment = next((i for i, word in enumerate(words) if word.text.startswith("#")), None)
    return words[:comment]


def not_utf8(exc: UnicodeDecodeError, file: str, first_line: int = 1) -> ConfigError:
    """Return the fault for bytes that are not UTF-8, with its place; they begin with ``first_line`` of the file."""
    before = exc.object[: exc.start]
    line_start = before.rfind(b"\n") + 1
    return ConfigError(
        f"expected UTF-8, found the byte 0x{exc.object[exc.start]:02x}",
        file=file,
        line=before.count(b"\n") + first_line,
        column=len(before[line_start:].decode()) + 1,
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint to append to a message; empty if nothing comes near."""
    near = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
