"""The one codec of what an operator is told: rows and JSON, for the control socket, HTTP and the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import msgspec

from cxfr_proxy.admin.rows.answers import SingleAnswer

ROWS_AT_A_TIME: Final = 1000
"""Rows encoded between two checkpoints: some tenths of a millisecond, in which no other session is served."""
_ENCODER: Final = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """Return ``value`` as JSON on one line: a row, or lists and mappings of rows and plain values.

    Raises :class:`TypeError` for what has no JSON form.
    """
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        # A path may hold bytes that are no UTF-8. Python keeps them as lone surrogates, which json escapes.
        return json.dumps(msgspec.to_builtins(value)).encode()


def json_pieces(value: object) -> Iterator[bytes]:
    """Yield a value as JSON on one line, a long list in pieces: other tasks may run between two of them."""
    if not isinstance(value, list):
        yield encode(value)
        return
    yield b"["
    for at in range(0, len(value), ROWS_AT_A_TIME):
        rows = encode(value[at : at + ROWS_AT_A_TIME])[1:-1]  # without the brackets of its own
        yield b"," + rows if at else rows
    yield b"]"


def as_json(row: msgspec.Struct) -> Mapping[str, Any]:
    """Return a row as its JSON object would be decoded."""
    return cast("Mapping[str, Any]", msgspec.to_builtins(row))


def read_answer(value: object) -> SingleAnswer | None:
    """Return the row that a decoded JSON object is; ``None`` where it is none, or one of another version."""
    try:
        return msgspec.convert(value, cast("type[SingleAnswer]", SingleAnswer))
    except msgspec.ValidationError:
        return None
