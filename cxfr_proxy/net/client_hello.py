"""The name that a client asks for in its first TLS message, as it wrote it (RFC 8446 section 4.1.2, RFC 6066, 3).

OpenSSL tells it to a callback, and Python decodes it on the way: where it is no ASCII, which is against the RFC, the
callback is not called at all and the handshake ends with an internal error. A name that nobody knows is no reason for
that. So who lets OpenSSL choose by name looks first whether this is one that can be.
"""

from __future__ import annotations

from typing import Final

_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0


def server_name(data: bytes) -> bytes | None:
    """Of what has arrived so far; ``None`` where there is none in it, or it is no whole ClientHello in one record."""
    if len(data) < 6 or data[0] != _HANDSHAKE or data[5] != _CLIENT_HELLO:
        return None
    rest = data[9:]  # behind the headers of record and message
    rest = rest[2 + 32 :]  # version and random
    for length_bytes in (1, 2, 1):  # session id, cipher suites, compression methods
        _, rest = _vector(rest, length_bytes)
    extensions, _ = _vector(rest, 2)
    while len(extensions) >= 4:
        kind = int.from_bytes(extensions[:2], "big")
        extension, extensions = _vector(extensions[2:], 2)
        if kind == _SERVER_NAME:
            names, _ = _vector(extension, 2)
            name, _ = _vector(names[1:], 2)
            return name if names[:1] == bytes((_HOST_NAME,)) and name else None
    return None


def _vector(data: bytes, length_bytes: int) -> tuple[bytes, bytes]:
    """One with its length in front of it, and what comes behind; empty where it is cut."""
    end = length_bytes + int.from_bytes(data[:length_bytes], "big")
    return (data[length_bytes:end], data[end:]) if 0 < end <= len(data) else (b"", b"")
