"""The one codec of what an operator is told: rows become JSON here, for the control socket and for HTTP."""

from __future__ import annotations

import dataclasses
import json


def encode(value: object) -> bytes:
    """Return ``value`` as JSON on one line: a row, a list or a mapping of rows and plain values.

    Raises :class:`TypeError` for what has no JSON form.
    """
    return json.dumps(value, default=_as_json).encode()


def _as_json(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")
