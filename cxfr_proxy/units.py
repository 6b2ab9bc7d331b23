"""Read quantities as an operator writes them, in settings, commands and the nodes file: a number, and perhaps a unit;
and write counts as they are said."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

_QUANTITY: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z/%]*)")
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def read_quantity(text: str, units: Mapping[str, float]) -> float:
    """Return the value in the unit that is 1. Raises ``ValueError``."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise ValueError(text)
    value = float(match[1]) * units[match[2]]
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def read_seconds(text: str) -> float:
    """Return a duration in seconds, 0 or more. Raises ``ValueError``."""
    return read_quantity(text, _SECONDS)


def counted(count: float, one: str, many: str | None = None) -> str:
    """Return the count with what is counted: ``1 node``, ``2 nodes``. ``many`` is for words that take no ``s``."""
    return f"{count:.12g} {agreeing(count, one, many if many is not None else f'{one}s')}"


def part_of(part: int, whole: int, one: str) -> str:
    """Return what begins a sentence about some of all: ``1 of 40 sessions is``, ``3 of 40 sessions are``."""
    return f"{part} of {counted(whole, one)} {agreeing(part, 'is', 'are')}"


def agreeing(count: float, one: str, many: str) -> str:
    """Return the word that goes with that count, such as ``is`` or ``are``."""
    return one if count == 1 else many
