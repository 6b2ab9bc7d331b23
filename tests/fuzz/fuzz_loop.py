"""The loop of every fuzzer: make an input, judge it, keep it if it has led somewhere new, and say now and then how many
there were.

The same seed gives the same inputs again, as long as the same ones are kept: that is so for one build of the engines.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

_SAY_SECONDS: Final = 60.0
_LOOK_EVERY: Final = 256
"""Inputs between two looks at the clock."""
_MOST_DIFFERENCES: Final = 10

C = TypeVar("C")


class Target(Protocol[C]):
    """What is fuzzed. ``C``: an input, whose ``repr`` is all that is needed to try it again."""

    def new_case(self, chance: random.Random) -> C: ...

    def difference(self, case: C) -> str | None:
        """Return what does not hold of it; ``None``: all does."""
        ...

    def keep(self, case: C) -> None:
        """Make later inputs out of this one: it has reached a branch that none had reached."""
        ...

    def summary(self) -> str:
        """Return what the inputs were like."""
        ...


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """With the options that :func:`fuzz` is given."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="at most so long (default: 60, or any time with --inputs)")
    parser.add_argument("--inputs", type=int, help="so many inputs (default: any number)")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def fuzz(target: Target[C], options: argparse.Namespace, gained: Callable[[], int] | None = None) -> int:
    """Judge inputs until there were so many, or the time is over; return the exit status.

    ``gained`` says how many branches the last input has reached that were new; ``None``: nobody counts them.
    """
    chance, began = random.Random(options.seed), time.monotonic()
    seconds = options.seconds or (float("inf") if options.inputs else 60.0)
    tried, differences, say_at = 0, 0, _SAY_SECONDS
    while tried != options.inputs and differences < _MOST_DIFFERENCES:
        if not tried % _LOOK_EVERY:
            spent = time.monotonic() - began
            if spent >= seconds:
                break
            if spent >= say_at:
                say_at += _SAY_SECONDS
                print(f"{tried:,} inputs so far, {tried / spent:,.0f} a second, {differences} differences", flush=True)
        case = target.new_case(chance)
        tried += 1
        found = target.difference(case)
        if gained is not None and gained():
            target.keep(case)
        if found is not None:
            differences += 1
            print(f"DIFFERENCE {case}\n  {found}", flush=True)
    spent = time.monotonic() - began
    print(f"seed {options.seed}: {tried} inputs in {spent:.0f} s, {differences} differences; {target.summary()}")
    return 1 if differences else 0
