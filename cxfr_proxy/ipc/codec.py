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
from typing import Final, TypeVar, Union, cast

import msgspec

from cxfr_proxy.ipc.channel import LineForm
from cxfr_proxy.ipc.messages import BadMessage, Message
from cxfr_proxy.ipc.questions import AnyQuestion, AnyReply

T = TypeVar("T")

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


def encode_part(value: object) -> msgspec.Raw:
    """Return a part of a message, such as a question, as its JSON."""
    return msgspec.Raw(_encoder.encode(value))


def decode_question(written: msgspec.Raw) -> AnyQuestion:
    """Return the question. Raises :class:`BadMessage`."""
    return _decode_part(_questions, written)


def decode_reply(written: msgspec.Raw) -> AnyReply:
    """Return the reply, or the part of one. Raises :class:`BadMessage`."""
    return _decode_part(_replies, written)


def _decode_part(decoder: msgspec.json.Decoder[T], written: msgspec.Raw) -> T:
    try:
        return decoder.decode(written)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise BadMessage(f"{exc}, in {bytes(written)[:80]!r}") from exc


def _write_other(value: object) -> object:
    """Return what is written for a value of a type that msgspec does not know."""
    if isinstance(value, Path):
        return os.fsencode(value)  # a path may hold any bytes, which JSON's text can't; msgspec writes base64
    raise NotImplementedError(f"a message can't hold a {type(value).__name__}")


def _read_other(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(os.fsdecode(b64decode(value, validate=True)))
    raise ValueError(f"expected a {kind.__name__}")


MAX_LINE_BYTES: Final = 16 << 20
"""Longest message: a worker's counts of all its nodes have a megabyte for ten thousand. Longer contents are sent in
pieces."""
MAX_UNSENT_BYTES: Final = 64 << 20
"""Most unsent bytes. Long contents go out piece by piece (:meth:`~.channel.Channel.flush`), so this much comes together
while the other end stands still, and a worker is killed when it has done so for half a minute."""
MESSAGES: Final[LineForm[Message]] = LineForm(encode, decode, MAX_LINE_BYTES, MAX_UNSENT_BYTES)
"""The form of the messages between the supervisor and its workers."""

_encoder: Final = msgspec.json.Encoder(enc_hook=_write_other)
_decoder: Final = msgspec.json.Decoder(Union[tuple(KINDS.values())], dec_hook=_read_other)  # noqa: UP007
_questions: Final[msgspec.json.Decoder[AnyQuestion]] = msgspec.json.Decoder(AnyQuestion, dec_hook=_read_other)
_replies: Final[msgspec.json.Decoder[AnyReply]] = msgspec.json.Decoder(AnyReply, dec_hook=_read_other)
