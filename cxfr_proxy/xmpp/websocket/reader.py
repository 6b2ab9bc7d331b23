"""Frames from a client, in whatever pieces they come (RFC 6455 section 5).

A fault is met as early as it can be known: at the byte of a head that is wrong, at the length that a frame announces,
at the first byte of text that can't be UTF-8. The bytes of a frame before that were handed on.

The text of a message is handed on as it comes, not when the message is whole: what has to be kept until an element is
complete is the lane's to keep, once. So nothing here grows with a message.
"""

from __future__ import annotations

import codecs
from typing import Final, Protocol

from cxfr_proxy.xmpp.websocket.frames import (
    CONTROL,
    FINAL,
    MASKED,
    MAX_CONTROL_BYTES,
    RESERVED,
    CloseCode,
    FrameFault,
    Opcode,
    read_close,
)

MAX_EMPTY_FRAGMENTS: Final = 64
"""Fragments of one message that may be empty. They bring nothing, and a message of them never has to end."""
MAX_PINGS: Final = 16
"""Pings that wait for an answer. A peer that takes none while it asks for more gets the last ones."""
_OPCODES: Final = frozenset(Opcode)
_Utf8Decoder: Final = codecs.getincrementaldecoder("utf-8")


class MessageListener(Protocol):
    """Takes what messages bring."""

    def text(self, piece: bytes, *, last: bool) -> bytes:
        """Take a piece of a message, its last or not, and return what it comes to."""
        ...

    def take_whole(self, data: bytes, at: int, max_message_bytes: int | None, ready: list[bytes]) -> int:
        """Take frames that are whole messages, between two messages, as far as it can do that better than
        :class:`FrameReader`. Return the offset behind them."""
        ...


class FrameReader:
    """Reads one client's frames, and hands the text of its messages to ``messages``.

    ``max_message_bytes``: ``None`` is no limit.
    """

    __slots__ = (
        "_control",
        "_empty",
        "_final",
        "_head",
        "_left",
        "_mask",
        "_messages",
        "_opcode",
        "_size",
        "_utf8",
        "close_code",
        "close_reason",
        "closed",
        "max_message_bytes",
        "pings",
    )

    def __init__(self, messages: MessageListener, *, max_message_bytes: int | None) -> None:
        self.max_message_bytes = max_message_bytes
        self.pings: tuple[bytes, ...] = ()
        """The contents of the last pings that are not answered yet. (An answer to the last one would do: section
        5.5.3.)"""
        self.closed = False
        """A close frame has come: nothing that follows is read."""
        self.close_code: int | None = None
        self.close_reason = ""
        self._messages = messages
        self._head = b""  # of a frame whose head is not whole
        self._opcode = Opcode.CONTINUATION
        self._final = False
        self._left: int | None = None  # bytes of the frame that are to come; None: its head is
        self._mask = b""
        self._control = b""
        self._size: int | None = None  # of the message that has begun; None: none has
        self._empty = 0
        self._utf8: codecs.IncrementalDecoder | None = None  # while a character is not whole

    @property
    def is_between_messages(self) -> bool:
        """Whether the next byte begins a message, or a control frame."""
        return self._left is None and self._size is None and not self._head

    def receive(self, data: bytes, ready: list[bytes]) -> None:
        """Read ``data``, and append to ``ready`` what its messages come to.

        Raises :class:`FrameFault`; then ``ready`` holds what came before the fault, and nothing may be read any more.
        """
        at = 0
        while at < len(data) and not self.closed:
            if self._left is None:
                if self.is_between_messages:
                    at = self._messages.take_whole(data, at, self.max_message_bytes, ready)
                    if at == len(data):
                        return
                at = self._take_head(data, at)
            else:
                piece = data[at : at + self._left]
                at += len(piece)
                self._take_payload(piece, ready)
            if self._left == 0:
                self._take_payload(b"", ready)

    def _take_head(self, data: bytes, at: int) -> int:
        """Return the offset behind what was read of a frame's head."""
        had = len(self._head)
        head = self._head + data[at : at + 14 - had]
        self._judge(head)
        size = _head_size(head)
        if len(head) < size:
            self._head = head
            return len(data)
        self._head = b""
        self._begin(head[:size])
        return at + size - had

    def _judge(self, head: bytes) -> None:
        """Raise for what the first two bytes say that they may not."""
        opcode = head[0] & 0x0F
        if head[0] & RESERVED:
            raise FrameFault(CloseCode.PROTOCOL_ERROR, "expected no reserved bit: no extension was agreed upon")
        if opcode not in _OPCODES:
            raise FrameFault(CloseCode.PROTOCOL_ERROR, "an unknown opcode")
        if opcode & CONTROL:
            if not head[0] & FINAL:
                raise FrameFault(CloseCode.PROTOCOL_ERROR, "a control frame in fragments")
        elif (opcode == Opcode.CONTINUATION) is (self._size is None):
            text = "no message to continue" if self._size is None else "a message within another"
            raise FrameFault(CloseCode.PROTOCOL_ERROR, text)
        elif opcode == Opcode.BINARY:
            raise FrameFault(CloseCode.UNSUPPORTED_DATA, "expected text, not binary data")
        if len(head) < 2:
            return
        if not head[1] & MASKED:
            raise FrameFault(CloseCode.PROTOCOL_ERROR, "a frame without a mask")
        if opcode & CONTROL and head[1] & 0x7F > MAX_CONTROL_BYTES:
            raise FrameFault(CloseCode.PROTOCOL_ERROR, f"a control frame of more than {MAX_CONTROL_BYTES} bytes")

    def _begin(self, head: bytes) -> None:
        self._opcode, self._final = Opcode(head[0] & 0x0F), bool(head[0] & FINAL)
        self._mask = head[-4:]
        left = head[1] & 0x7F
        if left > MAX_CONTROL_BYTES:
            left = int.from_bytes(head[2:-4])
            if left < 126 or (len(head) > 8 and left < 65_536) or left >> 63:
                raise FrameFault(CloseCode.PROTOCOL_ERROR, "a length that is not in its shortest form")
        self._left = left
        if self._opcode & CONTROL:
            return
        size = (self._size or 0) + left
        if self.max_message_bytes is not None and size > self.max_message_bytes:
            raise FrameFault(CloseCode.TOO_BIG, f"a message longer than {self.max_message_bytes} bytes")
        self._empty = 0 if self._size is None else self._empty
        self._size = size
        if not left and not self._final:
            self._empty += 1
            if self._empty > MAX_EMPTY_FRAGMENTS:
                raise FrameFault(CloseCode.POLICY_VIOLATION, f"more than {MAX_EMPTY_FRAGMENTS} empty fragments")

    def _take_payload(self, masked: bytes, ready: list[bytes]) -> None:
        assert self._left is not None, "its head was read"
        left = self._left - len(masked)
        piece = unmask(masked, self._mask)
        shift = len(masked) % 4
        if shift:
            self._mask = self._mask[shift:] + self._mask[:shift]
        self._left = left or None
        if self._opcode & CONTROL:
            self._control += piece
            if not left:
                self._on_control()
            return
        last = self._final and not left
        self._check_utf8(piece, last=last)
        if last:
            self._size = None
        text = self._messages.text(piece, last=last)
        if text:
            ready.append(text)

    def _check_utf8(self, piece: bytes, *, last: bool) -> None:
        if self._utf8 is None and piece.isascii():
            return
        decoder = self._utf8 or _Utf8Decoder()
        try:
            decoder.decode(piece, last)
        except UnicodeDecodeError as exc:
            raise FrameFault(CloseCode.INVALID_DATA, "text that is not UTF-8") from exc
        self._utf8 = decoder if decoder.getstate()[0] else None

    def _on_control(self) -> None:
        payload, self._control = self._control, b""
        match self._opcode:
            case Opcode.PING:
                self.pings = (*self.pings, payload)[-MAX_PINGS:]
            case Opcode.CLOSE:
                self.close_code, self.close_reason = read_close(payload)
                self.closed = True


def _head_size(head: bytes) -> int:
    """Return how long a client's frame's head is, as far as it is known: 2 bytes say so."""
    if len(head) < 2:
        return 2
    return {126: 8, 127: 14}.get(head[1] & 0x7F, 6)


def unmask(data: bytes, mask: bytes) -> bytes:
    """Return ``data`` with the mask taken off, which begins with its first byte (section 5.3)."""
    size = len(data)
    if not size or mask == b"\0\0\0\0":
        return data
    long_mask = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(long_mask)).to_bytes(size)
