"""A frame's form: opcodes, close codes, and the head of each frame that the proxy writes (RFC 6455 section 5)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from cxfr_proxy.errors import ClientError
from cxfr_proxy.xmpp.names import StreamCondition

FINAL: Final = 0x80
"""The bit of a frame's first byte that ends its message."""
RESERVED: Final = 0x70
"""The bits that belong to extensions, of which none is ever negotiated here."""
CONTROL: Final = 0x08
"""The bit of an opcode that makes it a control frame's."""
MASKED: Final = 0x80
"""The bit of a frame's second byte that a client always sets, and a server never."""
MAX_CONTROL_BYTES: Final = 125
"""The payload of a control frame (section 5.5)."""


class Opcode(IntEnum):
    """The kind of a frame (section 5.2)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection is closed (section 7.4.1), as far as the proxy says so."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009


CONDITIONS: Final = {
    CloseCode.PROTOCOL_ERROR: StreamCondition.BAD_FORMAT,
    CloseCode.UNSUPPORTED_DATA: StreamCondition.BAD_FORMAT,
    CloseCode.INVALID_DATA: StreamCondition.UNSUPPORTED_ENCODING,
    CloseCode.POLICY_VIOLATION: StreamCondition.POLICY_VIOLATION,
    CloseCode.TOO_BIG: StreamCondition.POLICY_VIOLATION,
}
"""The stream condition by which a fault in the frames is counted and logged. The client reads the close code alone."""

_UNDEFINED: Final = frozenset((1004, 1005, 1006))
"""Codes of the defined range that no frame may carry (section 7.4.1)."""
_LAST_DEFINED: Final = 1014
_REGISTERED: Final = range(3000, 5000)


class FrameFault(ClientError):
    """The client's frames break RFC 6455: the connection fails at once, with that close code."""

    def __init__(self, code: CloseCode, text: str) -> None:
        super().__init__(CONDITIONS[code], text)
        self.code = code


def frame(opcode: Opcode, payload: bytes, *, final: bool = True) -> bytes:
    """Return a frame as a server sends it, unmasked."""
    first = opcode | FINAL if final else opcode
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65_536:
        return bytes((first, 126)) + size.to_bytes(2) + payload
    return bytes((first, 127)) + size.to_bytes(8) + payload


def close_frame(code: int | None) -> bytes:
    """Return a close frame; ``None``: without a code."""
    return frame(Opcode.CLOSE, b"" if code is None else code.to_bytes(2))


def read_close(payload: bytes) -> tuple[int | None, str]:
    """Return the code and the reason that a close frame gives; raise :class:`FrameFault` (section 7.4)."""
    if not payload:
        return None, ""
    if len(payload) == 1:
        raise FrameFault(CloseCode.PROTOCOL_ERROR, "expected a close code of two bytes")
    code = int.from_bytes(payload[:2])
    if code in _UNDEFINED or not (1000 <= code <= _LAST_DEFINED or code in _REGISTERED):
        raise FrameFault(CloseCode.PROTOCOL_ERROR, "expected a close code that a frame may carry")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError as exc:
        raise FrameFault(CloseCode.INVALID_DATA, "a close reason that is not UTF-8") from exc
