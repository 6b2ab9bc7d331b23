"""Write a message as a line of JSON, ``{"type":"Grant","tokens":1}``, and read it.

A field's type says what it may hold, and a line is read strictly by these types: unknown messages, missing and
additional fields and values of another type are a :class:`BadMessage`. Reading is that strict because a worker may have
been started from a program that was replaced on disk meanwhile.
"""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Union, cast

import msgspec

from cxfr_proxy.ipc.messages import BadMessage, Message

KINDS: Final[Mapping[str, type[Message]]] = {kind.__name__: kind for kind in Message.__subclasses__()}
"""Every message by its name on the wire."""


def encode(message: Message) -> bytes:
    """Return the line, its end included."""
    return _encoder.encode(message) + b"\n"


def decode(line: bytes | bytearray) -> Message:
    """Return the message that a line holds. Raises :class:`BadMessage`."""
    try:
        return cast("Message", _decoder.decode(line))
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        # RecursionError: JSON nested deeper than the decoder goes.
        raise BadMessage(f"{exc}, in {bytes(line[:80])!r}") from exc


def _write_other(value: object) -> object:
    """Return what is written for a value of a type that msgspec does not know."""
    if isinstance(value, Path):
        return os.fsencode(value)  # a path may hold any bytes, which JSON's text can't; msgspec writes base64
    raise NotImplementedError(f"a message can't hold a {type(value).__name__}")


def _read_other(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(os.fsdecode(b64decode(value, validate=True)))
    raise ValueError(f"expected a {kind.__name__}")


_encoder: Final = msgspec.json.Encoder(enc_hook=_write_other)
_decoder: Final = msgspec.json.Decoder(Union[tuple(KINDS.values())], dec_hook=_read_other)  # noqa: UP007
