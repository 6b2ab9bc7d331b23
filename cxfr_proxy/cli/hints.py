"""Mistyped words and flags, found before argparse sees them, with a hint at what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from cxfr_proxy.cli.parser import PROGRAM, Parser
from cxfr_proxy.errors import ConfigError


def check_words(argv: Sequence[str], parser: Parser) -> None:
    """Raise :class:`ConfigError` for a command that doesn't exist, and for a flag that is not known where it stands,
    before the command or behind it.

    argparse would take the word after a mistyped flag for the command, and complain about that one.
    """
    here, words = parser, iter(argv)
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag == "--":
            return
        if not flag.startswith("--"):
            if here.words:
                here = _next(here, word, parser)
        elif flag not in here.flags:
            raise ConfigError(_unknown_flag(flag, here, list(words)))
        elif not equals and here.flags[flag].nargs is None:
            next(words, None)  # its value, which may be named as a command is
    if here is not parser and here.words and not {"-h", "--help"} & set(argv):
        raise ConfigError(f"{here.command}: expected {_either(here.words)} (try: {PROGRAM} help {here.command})")


def find_command(words: Sequence[str], parser: Parser) -> Parser:
    """Return the parser of that command; of the whole program where there are no words. Raises :class:`ConfigError`."""
    here = parser
    for word in words:
        if not here.words:
            raise ConfigError(f"there is no command '{' '.join(words)}' (try: {PROGRAM} help {here.command})")
        here = _next(here, word, parser)
    return here


def _next(here: Parser, word: str, root: Parser) -> Parser:
    if word in here.words or word.startswith("-"):
        return here.words.get(word, here)
    if here is not root:
        hint = _did_you_mean(word, here.words) or f"; expected {_either(here.words)}"
        raise ConfigError(f"{here.command}: unknown word '{word}'{hint}")
    names = [each.command for each in root.commands()]
    hint = _did_you_mean(word, [*here.words, *names]) or f" (try: {PROGRAM} help)"
    raise ConfigError(f"unknown command '{word}'{hint}")


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _unknown_flag(flag: str, here: Parser, rest: Sequence[str]) -> str:
    hint = _did_you_mean(flag, here.flags)
    if here.command:
        return f"{here.command} has no flag {flag}{hint or f' (try: {here.prog} --help)'}"
    named = here
    for word in rest:
        named = named.words.get(word, named)
    if named is not here and flag in named.flags:
        return f"unknown flag {flag}; it is one of {named.command}, and belongs behind these words"
    return f"unknown flag {flag}{hint or f' (try: {PROGRAM} --help)'}"
