"""Messages from a client become the bytes of a stream: one message, one element (RFC 7395 section 3.3.3).

A framer follows the elements, only to say where each one ends: that has to be where its message does. All else about
them is found out by the lane behind, as on every other connection.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from cxfr_proxy.errors import ClientError
from cxfr_proxy.xmpp.framing.framer import Framer, StreamFault, WholeElement, behind_usual_header
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.usual_header import CONTEXT
from cxfr_proxy.xmpp.stanza import STREAM_END
from cxfr_proxy.xmpp.websocket.hot_path import hot_path
from cxfr_proxy.xmpp.websocket.translation import stream_tag

MAX_TAG_BYTES: Final = 8_192
"""``<open/>``: addresses of at most 3071 bytes each, an id and some words."""
_SPACE: Final = b" \t\r\n"
_DELIMITERS: Final = b" \t\r\n/>"


class _Kind(Enum):
    UNKNOWN = auto()  # too little of it has come
    STREAM_TAG = auto()  # <open/> or <close/>
    ELEMENT = auto()


class MessageReader:
    """Turns messages into a stream, and keeps the rules of RFC 7395.

    Behind ``<close/>``, and behind a :attr:`fault`, what comes is dropped: only the close frame matters then.
    """

    __slots__ = ("_framer", "_gathered", "_hot_path", "_is_open", "_kind", "_over", "_whole", "fault")

    def __init__(self, *, max_depth: int) -> None:
        # What the real header declares is no matter to a framer, so one serves for all of the connection's streams.
        framer = behind_usual_header(CONTEXT, max_element_bytes=None, max_depth=max_depth)
        assert framer is not None, "that is a usual header"
        self._framer = framer
        self._hot_path = hot_path(framer)
        self._kind = _Kind.UNKNOWN
        self._gathered = b""  # of a message of which it is not known what it is, or of a stream's tag
        self._whole = False  # the message's element has ended
        self._is_open = False
        self._over = False
        self.fault: ClientError | None = None
        """The rule that a message has broken."""

    def text(self, piece: bytes, *, last: bool) -> bytes:
        """Take a piece of a message, its last or not, and return what goes into the stream."""
        if self._over:
            return b""
        try:
            return self._take(piece, last=last)
        except ClientError as fault:
            self._fail(fault)
            return b""

    def _fail(self, fault: ClientError) -> None:
        self.fault = fault
        self._over = True
        self._gathered = b""

    def _take(self, piece: bytes, *, last: bool) -> bytes:
        if self._kind is _Kind.UNKNOWN:
            piece, self._gathered = self._gathered + piece, b""
            self._kind = _kind_of(piece, last=last)
        match self._kind:
            case _Kind.ELEMENT:
                return self._take_element(piece, last=last)
            case _Kind.STREAM_TAG:
                return self._take_tag(piece, last=last)
            case _Kind.UNKNOWN:
                self._gathered = piece
                return b""

    def _take_tag(self, piece: bytes, *, last: bool) -> bytes:
        self._gathered += piece
        if len(self._gathered) > MAX_TAG_BYTES:
            raise ClientError(StreamCondition.POLICY_VIOLATION, f"a stream's tag of more than {MAX_TAG_BYTES} bytes")
        if not last:
            return b""
        message, self._gathered = self._gathered, b""
        tag = stream_tag(message)
        if tag is None:
            return self._take_element(message, last=True)
        self._kind = _Kind.UNKNOWN
        if tag != STREAM_END:
            self._is_open = True
        elif not self._is_open:
            raise ClientError(StreamCondition.BAD_FORMAT, "<close/> without <open/>")
        else:
            self._over = True
        return tag

    def _take_element(self, piece: bytes, *, last: bool) -> bytes:
        if not self._is_open:
            raise ClientError(StreamCondition.BAD_FORMAT, "expected <open/>")
        used = 0
        if not self._whole:
            used = self._framer.step(piece)
            self._whole = self._has_ended()
        self._judge(piece[used:], last=last)
        return piece

    def _judge(self, rest: bytes, *, last: bool) -> None:
        """Hold the ends of element and message together. ``rest``: what of a piece is behind the element's."""
        if self._whole and rest.strip(_SPACE):
            raise ClientError(StreamCondition.BAD_FORMAT, "expected one element in a message")
        if last:
            if not self._whole:
                raise ClientError(StreamCondition.BAD_FORMAT, "expected a whole element in a message")
            self._whole = False
            self._kind = _Kind.UNKNOWN

    def _has_ended(self) -> bool:
        """Return whether the framer has read an element's end, and raise for everything else that it reports."""
        events = self._framer.events
        if not events:
            return False
        event = events.pop()
        if isinstance(event, StreamFault):
            raise ClientError(event.condition, event.text)
        if not isinstance(event, WholeElement) or event.name.rpartition(":")[2] == "stream":
            raise ClientError(StreamCondition.BAD_FORMAT, "a tag of the stream in a message")
        return True

    # --- many at once

    @property
    def is_plain(self) -> bool:
        """Whether the next message may be an element: the stream is open."""
        return self._is_open and not self._over

    @property
    def hot_path(self) -> Framer | None:
        """The framer with which :meth:`HotPath.take` reads; ``None``: there is no hot path."""
        return self._framer if self._hot_path is not None else None

    def take_whole(self, data: bytes, at: int, max_message_bytes: int | None, ready: list[bytes]) -> int:
        """Read frames that are whole messages, as far as they are plain elements, and append these to ``ready``.

        For between two messages. Return the offset in ``data`` where :meth:`text` has to do it: ``at``, where nothing
        is read here.
        """
        if self._hot_path is None or not self.is_plain:
            return at
        limit = -1 if max_message_bytes is None else max_message_bytes
        text, at, wrong, used, ended = self._hot_path.take(self._framer, data, at, limit)
        if text:
            ready.append(text)
        if wrong is not None:
            self.refuse(wrong, used, ended=bool(ended))
        return at

    def refuse(self, message: bytes, used: int, *, ended: bool) -> None:
        """Find what is wrong with a message that :meth:`HotPath.take` has read so much of."""
        try:
            self._whole = ended or self._has_ended()
            self._judge(message[used:], last=True)
        except ClientError as fault:
            self._fail(fault)


def _kind_of(message: bytes, *, last: bool) -> _Kind:
    """Return what a message is that begins so. ``last``: that is all of it."""
    if not message:
        if last:
            raise ClientError(StreamCondition.BAD_FORMAT, "expected an element in a message")
        return _Kind.UNKNOWN
    if message[0] != ord("<"):
        raise ClientError(StreamCondition.BAD_FORMAT, "expected a message to begin with '<'")
    for name in (b"<open", b"<close"):
        if len(message) <= len(name):
            if not last and name.startswith(message):
                return _Kind.UNKNOWN
        elif message.startswith(name) and message[len(name)] in _DELIMITERS:
            return _Kind.STREAM_TAG
    return _Kind.ELEMENT
