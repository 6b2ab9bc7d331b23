"""A browser's end of a WebSocket connection, as far as the tests need one.

It reads with wsproto, which shares nothing with the code under test. Its writing is put together by hand: much of it no
library would write.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wsproto.frame_protocol import FrameProtocol
from wsproto.frame_protocol import Opcode as PeerOpcode

FRAMING = "urn:ietf:params:xml:ns:xmpp-framing"
OPEN = f'<open xmlns="{FRAMING}" to="example.org" version="1.0"/>'.encode()
CLOSE = f'<close xmlns="{FRAMING}"/>'.encode()
MASK = b"\x37\xfa\x21\x3d"
TEXT, BINARY, CONTINUATION, CLOSING, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


def masked(opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0, mask: bytes = MASK) -> bytes:
    """A frame as a client sends it. ``reserved``: the three bits, as a number."""
    first = (0x80 if final else 0) | reserved << 4 | opcode
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65_536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8)
    long_mask = (mask * (size // 4 + 1))[:size]
    covered = (int.from_bytes(payload) ^ int.from_bytes(long_mask)).to_bytes(size)
    return head + mask + covered


def text(payload: bytes, *, final: bool = True) -> bytes:
    return masked(TEXT, payload, final=final)


def more(payload: bytes, *, final: bool = True) -> bytes:
    return masked(CONTINUATION, payload, final=final)


def fragments(payload: bytes, size: int) -> bytes:
    """The message in fragments of so many bytes."""
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    frames = [text(pieces[0], final=len(pieces) == 1)]
    frames += [more(piece, final=False) for piece in pieces[1:-1]]
    frames += [more(pieces[-1])] if len(pieces) > 1 else []
    return b"".join(frames)


def closing(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return masked(CLOSING, b"" if code is None else code.to_bytes(2) + reason)


@dataclass
class Heard:
    """Return what the proxy has sent."""

    messages: list[str] = field(default_factory=list)
    """Whole ones."""
    unfinished: str = ""
    fragments: int = 0
    """How many frames brought text."""
    pongs: list[bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    close_code: int | None = None


class Browser:
    """Reads what the proxy sends; wsproto refuses what a client has to refuse."""

    def __init__(self) -> None:
        self._frames = FrameProtocol(client=True, extensions=[])
        self.heard = Heard()

    def receive(self, data: bytes) -> Heard:
        heard = self.heard
        self._frames.receive_bytes(data)
        for frame in self._frames.received_frames():
            assert heard.close_code is None, "nothing comes behind a close frame"
            match frame.payload:
                case (int(code), _):
                    heard.close_code = int(code)
                case str(piece):
                    heard.unfinished += piece
                    if frame.frame_finished:
                        heard.fragments += 1
                    if frame.message_finished:
                        heard.messages.append(heard.unfinished)
                        heard.unfinished = ""
                case bytes() | bytearray() as payload:
                    (heard.pings if frame.opcode is PeerOpcode.PING else heard.pongs).append(bytes(payload))
        return heard
