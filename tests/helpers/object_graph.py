"""What objects of this package hold, all the way down: to find out whether two of them are alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgspec

from cxfr_proxy.config.table import Config

_LEAVES = (bool, int, float, str, bytes, PurePath, Enum, frozenset, type(None))


def values_in(root: object) -> dict[str, object]:
    """Return all plain values by the path that leads to them, as in ``router._admission._rate``.

    Whole settings are left out: that somebody was handed them says nothing of whether they are used. So are objects of
    other packages, and functions.
    """
    return dict(_walk(root, "", set()))


def differences(one: Mapping[str, object], other: Mapping[str, object]) -> set[str]:
    """Return the paths at which they differ."""
    missing = object()
    return {path for path in one.keys() | other.keys() if one.get(path, missing) != other.get(path, missing)}


def _walk(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    if isinstance(value, _LEAVES) or type(value).__module__ in ("ipaddress", "re"):
        yield path, value
        return
    if id(value) in seen or isinstance(value, Config):
        return
    if not (isinstance(value, tuple) or _is_frozen(value)):  # values may be shared, or be equal: it's the same
        seen.add(id(value))
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{path}[{key!r}]", seen)
        yield f"{path}.length", len(value)
    elif isinstance(value, list | tuple | deque | set):
        for number, item in enumerate(value):
            yield from _walk(item, f"{path}[{number}]", seen)
        yield f"{path}.length", len(value)
    elif type(value).__module__.startswith("cxfr_proxy"):
        for name in _attributes(value):
            yield from _walk(getattr(value, name, None), f"{path}.{name}" if path else name, seen)


def _is_frozen(value: object) -> bool:
    parameters = getattr(type(value), "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def _attributes(value: Any) -> Iterator[str]:
    yield from getattr(value, "__dict__", ())
    if isinstance(value, msgspec.Struct):
        yield from value.__struct_fields__
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots
