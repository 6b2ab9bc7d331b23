"""A message that has another shape belongs to another version.

A worker may have been started from a program that was replaced on disk while its supervisor ran. A field of theirs that
differs is noticed by whoever reads it, and one that only means something else is not: so both compare versions, and the
version has to be raised with every change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, Literal, Union

import msgspec

from cxfr_proxy.ipc.codec import KINDS
from cxfr_proxy.ipc.messages import VERSION
from cxfr_proxy.ipc.questions import WorkerQuestion, WorkerReply

KNOWN: Final = (41, "43f179aec1a13f72")
"""The version, and the digest of the shapes that its messages have."""


def shape_of(kind: Any, seen: dict[str, str]) -> str:
    """Return how that type is written; what it is made of goes to ``seen``, by name."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " | ".join(sorted(shape_of(each, seen) for each in arguments))
    if origin is Literal:
        return f"one of {arguments}"
    if origin is not None:
        if dataclasses.is_dataclass(origin):
            shape_of(origin, seen)
        return f"{origin.__name__}[{', '.join(shape_of(each, seen) for each in arguments)}]"
    if kind is Ellipsis:
        return "..."
    if not isinstance(kind, type):
        return str(kind)  # a type variable
    if kind.__name__ not in seen:
        seen[kind.__name__] = ""  # it may hold itself
        seen[kind.__name__] = "; ".join(parts_of(kind, seen))
    return kind.__name__


def parts_of(kind: type, seen: dict[str, str]) -> Iterator[str]:
    if issubclass(kind, Enum):
        yield from (f"{each.name}={each.value!r}" for each in kind)
    elif issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = msgspec.structs.fields(kind) if issubclass(kind, msgspec.Struct) else dataclasses.fields(kind)
        yield from (f"{each.name}: {shape_of(hints[each.name], seen)}" for each in fields)


def digest() -> str:
    seen: dict[str, str] = {}
    questions = (*WorkerQuestion.__subclasses__(), *WorkerReply.__subclasses__())
    own = [each for each in questions if each.__module__.startswith("cxfr_proxy.")]  # other tests may have made some
    for kind in (*KINDS.values(), *own):
        shape_of(kind, seen)
    text = "\n".join(f"{name}: {shape}" for name, shape in sorted(seen.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def test_the_version_is_raised_with_every_change() -> None:
    now = (VERSION, digest())
    assert now == KNOWN, (
        f"messages have another shape than in version {KNOWN[0]}: raise VERSION in cxfr_proxy/ipc/messages.py "
        f"to {KNOWN[0] + 1}, and have KNOWN = ({KNOWN[0] + 1}, {now[1]!r}) here"
    )
