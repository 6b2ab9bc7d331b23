"""Read quantities as an operator writes them, in settings, commands and the nodes file: a number, and perhaps a
unit."""

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
