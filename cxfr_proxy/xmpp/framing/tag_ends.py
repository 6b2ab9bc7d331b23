"""Find where markup may end, for an engine that is given a stream in pieces.

Expat starts again with a token that was not whole each time it is given more of it. A caller that cut at each ``>``, of
which a value or a comment may hold any number, would have it read the same bytes again and again: 16 KiB of them took
more than half a second, from a client that had not logged in. So this class knows which ``>`` ends something.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

_TAG_STOPS: Final = re.compile(rb"[>'\"]")


class _In(Enum):
    TEXT = auto()
    LESS = auto()  # behind "<"
    TAG = auto()
    VALUE = auto()
    BANG = auto()  # behind "<!"
    CDATA = auto()
    INSTRUCTION = auto()  # behind "<?"; a declaration as well
    REFUSED = auto()  # a comment or a document type: nothing behind it matters


class TagEnds:
    """Follows a stream from its first byte, or from any place between two tags."""

    __slots__ = ("_before", "_quote", "_state")

    def __init__(self) -> None:
        self._state = _In.TEXT
        self._quote = b""
        self._before = b""  # the last two bytes, where the end of a state has three

    def next(self, data: bytes, start: int) -> int:
        """Return the offset behind the first tag that ends behind ``start``, or the length of ``data`` if none does.

        It has to be called for all bytes in turn, from where it has stopped before.
        """
        at = start
        while at < len(data):
            match self._state:
                case _In.TEXT:
                    at = data.find(b"<", at) + 1 or len(data)
                    self._state = _In.LESS if data[at - 1 : at] == b"<" else _In.TEXT
                case _In.LESS:
                    self._state = {b"!": _In.BANG, b"?": _In.INSTRUCTION}.get(data[at : at + 1], _In.TAG)
                    at += self._state is not _In.TAG
                    self._before = b""
                case _In.BANG:
                    self._state = _In.CDATA if data[at : at + 1] == b"[" else _In.REFUSED
                case _In.TAG:
                    stop = _TAG_STOPS.search(data, at)
                    at = stop.end() if stop is not None else len(data)
                    if stop is not None and stop[0] == b">":
                        self._state = _In.TEXT
                        return at
                    if stop is not None:
                        self._state, self._quote = _In.VALUE, stop[0]
                case _In.VALUE:
                    at = data.find(self._quote, at) + 1 or len(data)
                    if data[at - 1 : at] == self._quote:
                        self._state = _In.TAG
                case _In.CDATA | _In.INSTRUCTION:
                    end = b"]]>" if self._state is _In.CDATA else b"?>"
                    found = (self._before + data[at:]).find(end)
                    if found >= 0:
                        self._state = _In.TEXT
                        return at - len(self._before) + found + len(end)
                    self._before = (self._before + data[at:])[-len(end) + 1 :]
                    at = len(data)
                case _In.REFUSED:
                    at = len(data)
        return at
