"""Read an operator's file one word at a time, so that every fault has a place.

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
"""A longer word is cut in messages: the column says where it is."""


@dataclass(frozen=True, slots=True)
class Word:
    """A piece of a line that knows where it stands."""

    text: str
    file: str
    line: int
    column: int

    def part(self, start: int, end: int | None = None) -> Word:
        """Return the piece from ``start`` to ``end`` (of the text, from 0), which knows its own place."""
        return Word(self.text[start:end], self.file, self.line, self.column + start)

    def fault(self, message: str) -> ConfigError:
        """Return an error with this message and the word's place, to be raised or collected."""
        return ConfigError(message, file=self.file, line=self.line, column=self.column)

    def expected(self, what: str) -> ConfigError:
        """Return an error that says what should stand here, and what does."""
        shown = self.text if len(self.text) <= _SHOWN_CHARACTERS else self.text[:_SHOWN_CHARACTERS] + "..."
        return self.fault(f"expected {what}, found {repr(shown) if shown else 'nothing'}")


def words_of(line: str, file: str, number: int) -> list[Word]:
    """Return the words of line ``number`` (from 1) before its comment."""
    words = [Word(found[0], file, number, found.start() + 1) for found in _WORD.finditer(line)]
    comment = next((i for i, word in enumerate(words) if word.text.startswith("#")), None)
    return words[:comment]


def not_utf8(exc: UnicodeDecodeError, file: str, first_line: int = 1) -> ConfigError:
    """Return an error with the place of the bytes that could not be decoded.

    The bytes that were decoded begin with line ``first_line`` of the file.
    """
    before = exc.object[: exc.start]
    line_start = before.rfind(b"\n") + 1
    return ConfigError(
        f"expected UTF-8, found the byte 0x{exc.object[exc.start]:02x}",
        file=file,
        line=before.count(b"\n") + first_line,
        column=len(before[line_start:].decode()) + 1,
    )


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """Return a hint to append to a message; empty where nothing known comes near."""
    near = difflib.get_close_matches(text.lower(), list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
