"""Read the name that a client asks for in its first TLS message, as it wrote it (RFC 8446 section 4.1.2, RFC 6066, 3).

OpenSSL passes the name to a callback, and Python decodes it on the way: if it is not ASCII, which is against the RFC,
the callback is not called at all and the handshake ends with an internal error. An unknown name is no reason for that.
So before OpenSSL chooses by name, the caller checks here whether it can be one.
"""

from __future__ import annotations

import struct
from typing import Final

_HANDSHAKE: Final = 0x16
"""The type of a TLS record (RFC 8446 section 5.1); neither XML nor HTTP begins with that byte."""
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


_HEADERS: Final = 5 + 4 + 2 + 32
"""Bytes in front of the session id: the headers of record and message, the version and the random number."""
_length: Final = struct.Struct("!H").unpack_from
_kind_and_length: Final = struct.Struct("!HH").unpack_from


def is_handshake(data: bytes) -> bool:
    """Return whether these first bytes of a connection, at least one, begin TLS."""
    return data[0] == _HANDSHAKE


def server_name(data: bytes) -> bytes | None:
    """Return the name in what has arrived so far; ``None`` where there is none, or no whole ClientHello in one record.

    Read by offsets, since each connection comes through here: to cut the vectors out of each other took ten times as
    long.
    """
    if len(data) < 6 or data[0] != _HANDSHAKE or data[5] != _CLIENT_HELLO:
        return None
    try:
        at = _HEADERS
        at += 1 + data[at]  # session id
        at += 2 + _length(data, at)[0]  # cipher suites
        at += 1 + data[at]  # compression methods
        end = at + 2 + _length(data, at)[0]
        at += 2
        while at + 4 <= end <= len(data):
            kind, size = _kind_and_length(data, at)  # of an extension
            at += 4
            if kind == _SERVER_NAME:
                return _first_name(data[at : at + size])
            at += size
    except (IndexError, struct.error):
        pass  # an offset beyond the end: the message was cut, or its lengths are wrong
    return None


def _first_name(extension: bytes) -> bytes | None:
    """Return the first name of the extension's list. Behind the length of the list come a kind, a length and a name.

    Raises ``struct.error`` for an extension that is too short.
    """
    (names,), (size,) = _length(extension), _length(extension, 3)
    name = extension[5 : 5 + size]
    whole = 5 + size <= 2 + names <= len(extension)
    return name if whole and extension[2] == _HOST_NAME and name else None
